"""Substitutions and ambiguity codes, against one pass a place."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from riboray.alphabet import IUPAC_NUCLEOTIDES
from riboray.batching import window_starts
from riboray.cli import main
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, save_checkpoint
from riboray.predicting.language import fill_ambiguous, substitutions
from tests.conftest import ROOT, random_sequences, tiny_config


@pytest.fixture(scope="module", params=[False, True], ids=["", "specials"])
def embedder(request):
    torch.manual_seed(3)
    config = tiny_config(
        initializer_range=0.3,
        max_position_embeddings=32,
        add_bos=request.param,
        add_eos=request.param,
    )
    return Embedder(RnaBertForPreTraining(config).eval(), token_budget=100)


def expected(embedder, text, places):
    """Log-probabilities of A, C, G, U at places that are hidden together, window by window."""
    model, config = embedder.model, embedder.config
    width, vocabulary = config.max_sequence_length, config.tokens
    sums, counts = np.zeros((len(text), 4)), np.zeros(len(text))
    for start in window_starts(len(text), width):
        window = text[start : start + width]
        inside = [k - start for k in places if start <= k < start + len(window)]
        ids = [vocabulary.id_of(c) for c in window]
        for k in inside:
            ids[k] = vocabulary.mask_id
        if config.add_bos:
            ids = [vocabulary.id_of("<cls>"), *ids, vocabulary.id_of("<eos>")]
        with torch.inference_mode():
            logits = model.lm_head(model(torch.tensor([ids])))[0]
        for k in inside:
            letters = [vocabulary.id_of(n) for n in "ACGU"]
            row = logits[k + int(config.add_bos), letters].log_softmax(0)
            sums[start + k] += row.numpy()
            counts[start + k] += 1
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None]


def test_substitutions(embedder):
    texts = [*random_sequences(np.random.default_rng(4), 3, 5, 30), "ACGURN", "GGCAU" * 14]
    found = substitutions(embedder, texts)
    assert not found.failed
    for text, rows in zip(texts, found.rows, strict=True):
        assert rows.shape == (len(text), 4)
        for k, own in enumerate(text):
            if own not in "ACGU":
                assert np.isnan(rows[k]).all()
                continue
            wanted = expected(embedder, text, [k])[k]
            wanted -= wanted["ACGU".index(own)]
            assert np.allclose(rows[k], wanted, atol=1e-4)
            assert rows[k, "ACGU".index(own)] == 0


def test_ambiguity_codes(embedder):
    texts = ["ACGU", "ANGRY", "N" * 40, "ACGUB" * 12]
    filled, found = fill_ambiguous(embedder, texts)
    assert not found.failed
    assert filled[0] == "ACGU"
    assert np.isnan(found.rows[0]).all()
    for text, made, rows in zip(texts, filled, found.rows, strict=True):
        places = [k for k, c in enumerate(text) if c not in "ACGU"]
        wanted = expected(embedder, text, places)
        assert len(made) == len(text)
        for k, code in enumerate(text):
            if k not in places:
                assert made[k] == code
                continue
            allowed = [n in IUPAC_NUCLEOTIDES[code] for n in "ACGU"]
            among = np.where(allowed, wanted[k], -np.inf)
            among -= np.logaddexp.reduce(among)
            assert np.allclose(np.exp(rows[k]), np.exp(among), atol=1e-5)
            assert made[k] == "ACGU"[int(np.argmax(among))]


def test_without_a_head():
    config = RnaBertConfig(hidden_size=24, num_attention_heads=4, num_hidden_layers=1, heads=())
    with pytest.raises(ConfigError, match="no language-model head"):
        substitutions(Embedder(RnaBertForPreTraining(config)), ["ACGU"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    texts = ["GGUCUCUCUGGUUAGACCAGAUCUGAGCCU", "UAGCUUAUCAGACNGAUGUUR"]
    (tmp_path / "rnas.fa").write_text("".join(f">s{k}\n{t}\n" for k, t in enumerate(texts)))
    monkeypatch.chdir(tmp_path)
    return texts


def table():
    return pa.ipc.open_file("out/000000-rnas.arrow").read_all().to_pylist()


def test_the_verb_scores_mutations(here, tmp_path, capsys):
    words = ["predict", "rnas.fa", "--output", "out", "--mutations", "true"]
    assert main([*words, "--heat-map", "map.png", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["sequences_predicted"], told["heat_map"]) == (2, "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    rows = table()
    for text, row in zip(here, rows, strict=True):
        assert len(row["log_odds"]) == len(text)
        for own, odds in zip(text, row["log_odds"], strict=True):
            if own in "ACGU":
                assert odds["ACGU".index(own)] == 0
                assert all(value is not None for value in odds)
            else:
                assert odds == [None] * 4
    # Given again with a picture more, nothing but the picture is made.
    (tmp_path / "map.png").unlink()
    assert main([*words, "--heat-map", "map.svg"]) == 0
    assert "is complete already" in capsys.readouterr().err
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_the_verb_fills(here):
    assert main(["predict", "rnas.fa", "--output", "out", "--fill", "true"]) == 0
    first, second = table()
    assert first["filled"] == here[0]
    assert first["hidden"] == []
    assert [(h["position"], h["code"]) for h in second["hidden"]] == [(13, "N"), (20, "R")]
    for hidden in second["hidden"]:
        chances = [hidden[n] for n in "ACGU"]
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert second["filled"][hidden["position"]] == "ACGU"[int(np.argmax(chances))]
    assert second["hidden"][1]["C"] == second["hidden"][1]["U"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mutations", "true", "--fill", "true"], "one at a time"),
        (["--heat-map", "a.png"], "--heat-map draws what --mutations finds"),
        (["--mutations", "true", "--heat-map", "a.txt"], "is no .png, .svg or .pdf file"),
        (["--mutations", "true", "--checkpoint", "bare"], "no language-model head"),
        (["--fill", "true", "--checkpoint", "six"], "no ambiguity codes"),
    ],
)
def test_mistakes(here, tmp_path, capsys, options, message):
    small = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 1}
    save_checkpoint(RnaBertForPreTraining(RnaBertConfig(**small, heads=())), tmp_path / "bare")
    six = RnaBertConfig(**small, vocabulary="original")
    save_checkpoint(RnaBertForPreTraining(six), tmp_path / "six")
    assert main(["predict", "rnas.fa", "--output", "out", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_example_of_the_docs(here, tmp_path, capsys):
    text = (ROOT / "docs" / "predict.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    words = ["predict", "rnas.fa", "--output", "predictions", "--mutations", "true"]
    assert main(words) == 0
    capsys.readouterr()
    exec(example, {})
    for line in capsys.readouterr().out.splitlines():
        assert re.fullmatch(r"s\d: [ACGU]\d+[ACGU] \d+\.\d", line)


def test_a_mask_has_no_place_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.fa").write_text(">a\nGGUC<mask>CUC\n")
    assert main(["predict", "m.fa", "--fill", "--output", "out"]) == 2
    assert "m.fa, record 1: <mask> has no place in a file: write N" in capsys.readouterr().err
