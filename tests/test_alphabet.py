from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.alphabet import (
    IUPAC_NUCLEOTIDES,
    MULTIMOLECULE,
    ORIGINAL,
    decode,
    encode,
    get_vocabulary,
    normalise,
)
from riboray.errors import InvalidSequenceError, VocabularyError

RNA = st.text(alphabet="ACGUTacgutNRYSWKMBDHVXnry", min_size=0, max_size=60)


def plain_encode(sequence: str) -> list[int]:
    """Reference: a dictionary, one character at a time."""
    return [MULTIMOLECULE.tokens.index(c) for c in sequence.upper().replace("T", "U")]


def test_vocabularies_are_frozen():
    assert ORIGINAL.tokens == ("<pad>", "<mask>", "A", "U", "G", "C")
    assert len(MULTIMOLECULE) == 28
    assert "".join(MULTIMOLECULE.tokens[6:]) == "ACGUNRYSWKMBDHVIX|.*-?"
    assert MULTIMOLECULE.tokens[:6] == ("<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>")
    assert (MULTIMOLECULE.pad_id, ORIGINAL.pad_id, MULTIMOLECULE.mask_id) == (0, 0, 4)


def test_every_ambiguity_code_is_in_multimolecules_vocabulary():
    assert set(IUPAC_NUCLEOTIDES) <= set(MULTIMOLECULE.tokens)


@given(st.lists(RNA, min_size=1, max_size=8))
def test_encode_equals_the_dictionary(sequences):
    ids, lengths = encode(sequences)
    assert ids.dtype == np.uint8
    assert ids.shape == (len(sequences), max(map(len, sequences)))
    for row, size, sequence in zip(ids, lengths, sequences, strict=True):
        assert row[:size].tolist() == plain_encode(sequence)
        assert not row[size:].any()


@given(st.lists(RNA, min_size=1, max_size=8))
def test_decode_inverts_encode(sequences):
    assert decode(*encode(sequences)) == [normalise(s) for s in sequences]


def test_case_and_t_do_not_matter():
    reference, _ = encode(["ACGU"])
    for same in ("ACGT", "acgu", "acgt", "AcGt"):
        assert (encode([same])[0] == reference).all()


@pytest.mark.parametrize("vocabulary", [ORIGINAL, MULTIMOLECULE], ids=lambda v: v.name)
def test_both_vocabularies_round_trip(vocabulary):
    ids, lengths = encode(["GAUC", "A"], vocabulary)
    assert decode(ids, lengths, vocabulary) == ["GAUC", "A"]


def test_bos_eos_and_pad_to():
    ids, lengths = encode(["AC", "G"], add_bos=True, add_eos=True, pad_to=6)
    assert ids.tolist() == [[1, 6, 7, 2, 0, 0], [1, 8, 2, 0, 0, 0]]
    assert lengths.tolist() == [4, 3]
    with pytest.raises(ValueError, match="pad_to"):
        encode(["ACGU"], pad_to=3)
    with pytest.raises(ValueError, match="no <cls>"):
        encode(["A"], ORIGINAL, add_bos=True)


def test_the_result_is_writable_and_owned():
    ids, _ = encode(["ACGU"])
    ids[0, 0] = 0


@pytest.mark.parametrize(
    ("sequences", "index", "position", "character"),
    [
        (["ACGU", "AC GU"], 1, 2, " "),
        (["AC-GU"], 0, 2, "-"),
        (["ACGU", "AC\0"], 1, 2, "\0"),
        (["ACGé"], 0, 3, "é"),
        (["ACG\x01"], 0, 3, "\x01"),
        (["A*"], 0, 1, "*"),
        (["AEC"], 0, 1, "E"),
    ],
)
def test_what_is_no_nucleotide_is_refused_with_its_place(sequences, index, position, character):
    with pytest.raises(InvalidSequenceError) as caught:
        encode(sequences)
    error = caught.value
    assert (error.index, error.position, error.character) == (index, position, character)
    assert repr(character) in str(error)


def test_the_original_vocabulary_has_no_ambiguity_codes():
    with pytest.raises(InvalidSequenceError):
        encode(["ACGN"], ORIGINAL)


def test_nothing_to_encode():
    ids, lengths = encode([])
    assert ids.shape == (0, 0)
    assert lengths.shape == (0,)


def test_unknown_vocabulary():
    with pytest.raises(VocabularyError, match="known are multimolecule, original"):
        get_vocabulary("other")
