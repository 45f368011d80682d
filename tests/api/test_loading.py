"""What `riboray.load` returns can do; the numbers are those of the commands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import riboray
from riboray.alignment import GapPenalties
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError, InvalidSequenceError
from riboray.model import load_checkpoint, save_checkpoint
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from tests.conftest import random_sequences, tiny_config

HIDDEN = "gguc<mask>cucugguuagaccagaucugagccu"


@pytest.fixture(scope="module")
def rna():
    return riboray.load()


@pytest.fixture(scope="module")
def sequences():
    return random_sequences(np.random.default_rng(3), 4, 20, 60)


def test_names(rna):
    assert riboray.load("riboray/rnabert").name == rna.name == "rnabert"
    assert "511,596 parameters" in repr(rna)
    model, tokenizer = riboray.load("rnabert-zero-shot")
    assert isinstance(model, riboray.RnaBertModel)
    assert isinstance(tokenizer, riboray.RnaTokenizer)
    assert not model.training


def test_embeddings_are_the_commands(rna, sequences):
    embedder = Embedder(load_checkpoint("rnabert").model)
    bases = embedder.per_base(sequences)
    found = rna.embed_bases(sequences)
    for a, b in zip(bases, found, strict=True):
        assert np.array_equal(a, b)
    pooled = rna.embed(sequences)
    assert pooled.shape == (4, 120)
    assert np.allclose(pooled, [rows.mean(0) for rows in bases], atol=1e-6)
    assert np.allclose(rna.embed(sequences, pooling="first"), [r[0] for r in bases], atol=1e-6)
    assert np.allclose(rna.embed(sequences[0]), pooled[0], atol=1e-5)
    dna = [s.replace("U", "T").lower() for s in sequences]
    assert np.array_equal(rna.embed(dna), pooled)
    assert not np.allclose(rna.embed(sequences, layer=0), pooled, atol=1e-2)
    assert rna.embed("ACGU" * 200).shape == (120,)


def test_hidden_nucleotides(rna):
    """The probabilities of the language-model head itself, among the four."""
    (answers,) = [rna.fill_mask(HIDDEN)]
    model = load_checkpoint("rnabert").model
    batch = rna.tokenizer(HIDDEN, return_tensors="pt")
    with torch.inference_mode():
        logits = model.lm_head(model(batch.input_ids))[0, 4]
    ids = [rna.tokenizer.get_vocab()[n] for n in "ACGU"]
    wanted = dict(zip("ACGU", logits[ids].softmax(0).tolist(), strict=True))
    assert {a["token_str"]: a["score"] for a in answers} == pytest.approx(wanted, abs=1e-5)
    scores = [a["score"] for a in answers]
    assert scores == sorted(scores, reverse=True)
    assert answers[0]["sequence"] == HIDDEN.upper().replace("<MASK>", answers[0]["token_str"])
    # Several: each is ranked while the others stay hidden.
    first, second = rna.fill_mask("gguc<mask>cucugguuaga<mask>cagaucugagccu", top_k=2)
    assert len(first) == len(second) == 2
    assert first[0]["sequence"][16:22] == "<mask>"
    assert second[0]["sequence"][4:10] == "<mask>"


def test_an_alignment(rna, sequences):
    """Scored again from its pairs alone."""
    a, b = sequences[:2]
    gaps = GapPenalties(1.5, 0.2)
    found = rna.align(a, b, gaps=gaps)
    score = sum(float(found.similarity[i, j]) for i, j in found.pairs)
    for row in found.rows:
        for run in "".join("-" if c == "-" else " " for c in row).split():
            score -= gaps.open + gaps.extend * len(run)
    assert found.score == pytest.approx(score, abs=1e-3)
    assert [row.replace("-", "") for row in found.rows] == [a, b]
    same = sum(a[i] == b[j] for i, j in found.pairs)
    assert found.identity == pytest.approx(same / len(found.pairs))
    assert f"{found.score:.2f}" in str(found)
    assert found.cigar in repr(found)
    assert found.stockholm().startswith("# STOCKHOLM 1.0")
    local = rna.align(a, b, mode="local")
    assert len(local.pairs) <= len(found.pairs) + len(a)
    assert rna.align(a, a).identity == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.embed("ACXZ"), InvalidSequenceError, "'Z'"),
        (lambda r: r.align("ACGU", "AC-GU"), InvalidSequenceError, "'-'"),
        (lambda r: r.embed("ACGU", pooling="sum"), ConfigError, "pooling must be"),
        (lambda r: r.embed("ACGU", layer=9), ConfigError, "layers 0 to 6"),
        (lambda r: r.fill_mask("ACGU"), ConfigError, "nothing is hidden"),
        (lambda r: r.fill_mask("AC<mask>" + "A" * 440), ConfigError, "more than the model's 440"),
        (lambda r: r.fill_mask("AC<mask>J"), InvalidSequenceError, "'J'"),
        (lambda r: r.predict("ACGU"), ConfigError, "no prediction head"),
        (lambda r: riboray.predictor("sing", r), ConfigError, "task must be one of"),
        (lambda r: r.embed(""), ConfigError, "sequence 0 is empty"),
    ],
)
def test_mistakes(rna, call, error, message):
    with pytest.raises(error, match=message):
        call(rna)


LABELS = {"regression": ("x", "y"), "binary": ("no", "yes"), "multiclass": ("a", "b", "c")}


@pytest.mark.parametrize("level", ["sequence", "nucleotide", "contact"])
@pytest.mark.parametrize("problem", LABELS)
def test_predictions(tmp_path, sequences, level, problem):
    torch.manual_seed(2)
    head = HeadConfig(level=level, problem=problem, labels=LABELS[problem], pooling="mean")
    config = tiny_config(initializer_range=0.3, max_position_embeddings=64)
    save_checkpoint(RnaBertForPrediction(config, head), tmp_path / "m")
    rna = riboray.load(tmp_path / "m")
    assert rna.head == head
    assert f"predicts {problem} {level}" in repr(rna)
    found = rna.predict(sequences)
    for text, part in zip(sequences, found, strict=True):
        logits = rna.model(**rna.tokenizer(text, return_tensors="pt")).logits[0].detach()
        shares = {
            "regression": logits,
            "binary": logits.sigmoid(),
            "multiclass": logits.softmax(-1),
        }[problem]
        assert np.allclose(part, shares.numpy(), atol=1e-5)
        assert np.allclose(rna.predict(text), part, atol=1e-6)
    long = "ACGGU" * 30
    sizes = {"sequence": (), "nucleotide": (150,), "contact": (150, 150)}
    assert rna.predict(long).shape == (*sizes[level], head.outputs)
    with pytest.raises(ConfigError, match="no language-model head"):
        rna.fill_mask(HIDDEN)
    with pytest.raises(ConfigError, match="no language-model head"):
        riboray.predictor("fill-mask", rna)
    assert riboray.predictor("predict", rna)(sequences[0]).shape == found[0].shape


def test_which_sequence_is_wrong(rna):
    """Batches are sorted by length; whoever asked does not know that."""
    for call in (rna.embed, rna.embed_bases, lambda s: rna.tokenizer(s)):
        with pytest.raises(InvalidSequenceError) as told:
            call(["AC", "ACGZACGU"])
        assert (told.value.index, told.value.position) == (1, 3)
    with pytest.raises(InvalidSequenceError) as told:
        rna.tokenizer(["ACGU", "GGGAAA<mask>CZU"])
    assert (told.value.index, told.value.position) == (1, 13)
    with pytest.raises(ConfigError, match="sequence 1 is empty"):
        rna.embed(["ACGU", " "])
    assert np.array_equal(rna.embed("AC GU\n"), rna.embed("ACGU"))


def test_predicting_leaves_training_alone(tmp_path):
    torch.manual_seed(2)
    head = HeadConfig(level="sequence", problem="binary", labels=("no", "yes"), dropout=0.5)
    save_checkpoint(RnaBertForPrediction(tiny_config(), head), tmp_path / "m")
    rna = riboray.load(tmp_path / "m")
    rna.model.train()
    assert np.array_equal(rna.predict("ACGU"), rna.predict("ACGU"))
    assert rna.model.rna.head.dropout.training
    rna.model.eval()
    rna.predict("ACGU")
    assert not rna.model.rna.head.dropout.training


def test_tensors_go_to_a_device(rna):
    batch = rna.tokenizer("ACGU", return_tensors="pt").to("meta")
    assert batch.input_ids.device.type == "meta"
