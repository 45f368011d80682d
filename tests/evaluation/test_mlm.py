"""Hidden nucleotides: against one mask at a time by hand, plain counting, and the whole verb."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riboray.alphabet import encode
from riboray.cli import main
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError
from riboray.evaluation.filling import GROUPS, _groups, composition, fill, neighbours
from riboray.evaluation.mlm import MLM_EVALUATION_KIND
from riboray.manifest import read_manifest
from riboray.model import RnaBertForPreTraining, save_checkpoint
from tests.conftest import random_sequences, tiny_config


def make_model(**options):
    torch.manual_seed(2)
    config = tiny_config(max_position_embeddings=30, initializer_range=0.3, **options)
    return RnaBertForPreTraining(config).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_bos": True, "add_eos": True},
        {"vocabulary": "original", "tie_word_embeddings": False},
    ],
)
def test_every_base_is_asked_for_once_as_the_model_answers(rng, options):
    """Against the padded model, one copy at a time; two orders of float32 sums: 1e-5."""
    model = make_model(**options)
    texts = [*random_sequences(rng, 5, 1, 25), *random_sequences(rng, 1, 75, 75)]
    if "vocabulary" not in options:
        texts.append("ACGNNRACGU")
    found = fill(Embedder(model, token_budget=150), texts)
    config, width = model.config, model.config.max_sequence_length
    letters = [config.tokens.id_of(base) for base in "ACGU"]
    first, expected, truth = int(config.add_bos), [], []
    for text in texts:
        rows = np.zeros((len(text), 4))
        groups = _groups(text)
        for start in range(0, len(text), width):
            part = text[start : start + width]
            ids, _ = encode([part], config.tokens, add_bos=config.add_bos, add_eos=config.add_eos)
            for group in range(GROUPS):
                hidden = [
                    k for k in range(len(part)) if groups[start + k] == group and part[k] in "ACGU"
                ]
                masked = ids.copy()
                masked[0, [first + k for k in hidden]] = config.tokens.mask_id
                with torch.inference_mode():
                    logits = model.lm_head(model(torch.from_numpy(masked)))[0][:, letters]
                for k in hidden:
                    rows[start + k] = logits[first + k].softmax(-1)
        expected.append(rows)
        truth += ["ACGU".find(letter) for letter in text]
    np.testing.assert_allclose(found.probabilities, np.concatenate(expected), atol=1e-5)
    assert found.truth.tolist() == truth
    np.testing.assert_allclose(found.probabilities[found.asked].sum(axis=1), 1, atol=1e-5)


@given(st.text("ACGUN", min_size=1, max_size=60))
def test_groups_are_even_and_of_the_sequence_alone(text):
    groups = _groups(text)
    counts = np.bincount(groups, minlength=GROUPS)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(groups, _groups(text))


@given(st.lists(st.text("ACGUN", min_size=1, max_size=20), min_size=1, max_size=6))
def test_neighbours_are_counted_in_the_other_sequences(texts):
    found = neighbours(texts)
    row = 0
    for own, text in enumerate(texts):
        for k, letter in enumerate(text):
            if letter in "ACGU":
                counts = dict.fromkeys("ACGU", 1)
                for other, words in enumerate(texts):
                    for j, there in enumerate(words):
                        if other != own and there in "ACGU" and around(words, j) == around(text, k):
                            counts[there] += 1
                expected = np.array(list(counts.values())) / sum(counts.values())
                np.testing.assert_allclose(found.probabilities[row], expected, rtol=1e-6)
            else:
                assert (found.probabilities[row] == 0).all()
            row += 1


def around(text, k):
    plain = "".join(letter if letter in "ACGU" else "?" for letter in text)
    padded = f"??{plain}??"
    return padded[k : k + 2] + padded[k + 3 : k + 5]


def test_composition_by_hand():
    found = composition(["AAC", "GN"])
    assert found.truth.tolist() == [0, 0, 1, 2, -1]
    np.testing.assert_allclose(found.probabilities[0], [0.5, 0.25, 0.25, 0])
    assert found.correct().tolist() == [True, True, False, False]
    np.testing.assert_allclose(found.surprise(), -np.log([0.5, 0.5, 0.25, 0.25]))


def test_no_head_no_answer():
    model = RnaBertForPreTraining(tiny_config(heads=())).eval()
    with pytest.raises(ConfigError, match="no language-model head"):
        fill(Embedder(model), ["ACGU"])


@pytest.fixture
def work(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(make_model(), tmp_path / "model")
    texts = random_sequences(rng, 60, 12, 50)
    kinds = ["tRNA", "5S", "miRNA"]
    lines = [f">src{k % 2}|s{k} {kinds[k % 3]} more\n{t}\n" for k, t in enumerate(texts)]
    (tmp_path / "some.fa").write_text("".join(lines) + ">short\nACG\n>bad\nAC!GUACGUACGU\n")
    types = [kinds[k % 3] for k in range(60)]
    table = pa.table({"id": [f"s{k}" for k in range(60)], "sequence": texts, "rna_type": types})
    pq.write_table(table, tmp_path / "some.parquet")
    return tmp_path


def run(capsys, *arguments):
    code = main(["evaluate", "mlm", "--json", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_verb(work, capsys):
    code, out, err = run(capsys, "some.fa", "--checkpoint", "ours=model", "--output", "out")
    assert code == 0, err
    result = json.loads(out)
    assert result["sequences_read"] == 62
    assert result["sequences_measured"] == 60
    assert result["sequences_rejected"] == 2
    assert "ours: carries no list of what it was trained on" in err
    whole = json.loads((work / "out" / "mlm.json").read_text())
    ours, plain, _ = whole["models"]
    assert [m["name"] for m in whole["models"]] == ["ours", "composition", "neighbours"]
    for key in ("by_group", "from_5_end", "from_3_end"):
        assert sum(p["nucleotides"] for p in ours[key]) == whole["nucleotides_measured"]
        share = sum(p["nucleotides"] * p["accuracy"] for p in ours[key])
        assert share / whole["nucleotides_measured"] == pytest.approx(ours["accuracy"])
    assert {p["group"] for p in ours["by_group"]} == {"tRNA", "5S", "miRNA"}
    assert ours["accuracy_interval"][0] <= ours["accuracy"] <= ours["accuracy_interval"][1]
    assert (
        sum(sum(row.values()) for row in ours["confusion"].values())
        == whole["nucleotides_measured"]
    )
    assert 3.5 < plain["perplexity"] < 4.01
    assert (work / "out" / "mlm.png").read_bytes()[:4] == b"\x89PNG"
    assert (
        read_manifest(work / "out", MLM_EVALUATION_KIND, verify=True).counts["sequences_read"] == 62
    )
    assert run(capsys, "some.fa", "--checkpoint", "ours=model", "--output", "out")[0] == 0
    assert (
        run(capsys, "some.fa", "--checkpoint", "ours=model", "--output", "out", "--seed", "3")[0]
        == 2
    )

    code, out, _ = run(capsys, "some.parquet", "--checkpoint", "ours=model", "--output", "two")
    assert code == 0
    assert json.loads(out)["models"][0] == result["models"][0], "the same sequences"
    groups = json.loads((work / "two" / "mlm.json").read_text())["models"][0]["by_group"]
    assert groups == ours["by_group"]


def test_records_left_out_have_the_number_that_they_have_in_the_file(work, capsys, monkeypatch):
    monkeypatch.setattr("riboray.evaluation.mlm._PART", 300)  # a dozen parts
    assert run(capsys, "some.fa", "--checkpoint", "model", "--output", "out")[0] == 0
    rejects = pq.read_table(work / "out" / "rejects.parquet").to_pylist()
    assert [(r["record"], r["id"]) for r in rejects] == [(61, "short"), (62, "bad")]


def test_groups_by_source_and_a_sample(work, capsys):
    options = ["some.fa", "--checkpoint", "model", "--group-by", "source", "--max-sequences", "20"]
    code, _out, err = run(capsys, *options, "--output", "out")
    assert code == 0, err
    whole = json.loads((work / "out" / "mlm.json").read_text())
    assert whole["sequences_measured"] == 20
    assert {p["group"] for p in whole["models"][0]["by_group"]} == {"src0", "src1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["some.fa"], "nothing to measure: give --checkpoint"),
        (["--checkpoint", "model"], "nothing to measure on"),
        (["nowhere.fa", "--checkpoint", "model"], "no such file"),
        (["some.fa", "--checkpoint", "composition=model"], "a baseline is"),
        (["some.fa", "--checkpoint", "model", "--min-length", "1000"], "holds no sequence"),
        (["some.fa", "--checkpoint", "model", "--rounds", "1"], "rounds must be at least 100"),
    ],
)
def test_mistakes(work, capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err.splitlines()[-1]
