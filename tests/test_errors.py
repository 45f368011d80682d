from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from riboray import errors

EXAMPLES = [
    errors.RiborayError("ours"),
    errors.ConfigError("bad option"),
    errors.OutputError("runs/x", "belongs to another run"),
    errors.FastaError("x.fa", "NUL byte", 3),
    errors.StockholmError("x.sto", "truncated"),
    errors.CorpusError("x.fa", "nothing usable"),
    errors.CheckpointError("x", "keys do not fit", ("a",), tuple("bcdefghi")),
    errors.VocabularyError("x", "unknown"),
    errors.InvalidSequenceError(1, 2, "-", "original"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_errors_travel_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_exit_codes(error):
    assert error.exit_code == (1 if type(error) is errors.RiborayError else 2)


def test_every_public_error_has_an_example():
    assert {type(e).__name__ for e in EXAMPLES} == set(errors.__all__) - {"InputError"}


def test_messages_name_file_record_and_keys():
    assert str(EXAMPLES[3]) == "x.fa, record 3: NUL byte"
    assert EXAMPLES[3].path == Path("x.fa")
    assert str(EXAMPLES[6]) == (
        "x: keys do not fit; missing: a; unexpected: b, c, d, e, f, g and 2 more"
    )
