"""What RNABERT's model card shows: with our objects, and with MultiMolecule on what we export."""

from __future__ import annotations

import pytest
import torch

import riboray
from riboray.model import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.compare
multimolecule = pytest.importorskip(
    "multimolecule", reason="needs the extra `compare`: pip install 'riboray[compare]'"
)

TEXT = "UAGCUUAUCAGACUGAUGUUG"

FEATURES = """
from {library} import RnaTokenizer, RnaBertModel

tokenizer = RnaTokenizer.from_pretrained(name)
model = RnaBertModel.from_pretrained(name)
input = tokenizer(text, return_tensors="pt")
output = model(**input)
"""

PREDICTION = """
import torch
from {library} import RnaTokenizer, RnaBertFor{level}Prediction

tokenizer = RnaTokenizer.from_pretrained(name)
model = RnaBertFor{level}Prediction.from_pretrained(name)
input = tokenizer(text, return_tensors="pt")
label = {label}
output = model(**input, labels=label)
"""

LABELS = {
    "Sequence": "torch.tensor([[1]])",
    "Token": "torch.randint(2, (1, len(text)))",
    "Contact": "torch.randint(2, (1, len(text), len(text)))",
}

FILL = """
from {library} import {maker}

fill = {maker}("fill-mask", model=name)
output = fill("gguc<mask>cucugguuagaccagaucugagccu")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "rnabert"
    save_checkpoint(load_checkpoint("rnabert").model, folder)
    return str(folder)


def run(code, name, **words):
    """Run one of the card's examples; return its variables."""
    scope = {"name": name, "text": TEXT}
    torch.manual_seed(3)
    exec(code.format(**words), scope)
    return scope


def test_features(exported):
    ours, theirs = (
        run(FEATURES, name, library=library)["output"]
        for name, library in (("rnabert", "riboray"), (exported, "multimolecule"))
    )
    assert ours.last_hidden_state.shape == (1, 21, 120)
    for key in ("last_hidden_state", "pooler_output"):
        assert torch.allclose(ours[key], theirs[key], atol=1e-5)
        assert torch.equal(ours[key], getattr(ours, key))
    assert torch.equal(ours[0], ours.last_hidden_state)


@pytest.mark.parametrize("level", LABELS)
def test_prediction(exported, level):
    """New heads are random, so that only theirs and ours with theirs' weights can be compared."""
    words = {"level": level, "label": LABELS[level]}
    ours = run(PREDICTION, "rnabert", library="riboray", **words)
    sizes = {"Sequence": (1, 1), "Token": (1, 21, 1), "Contact": (1, 21, 21, 1)}
    assert ours["output"].logits.shape == sizes[level]
    assert ours["output"].loss.requires_grad
    theirs = run(PREDICTION, exported, library="multimolecule", **words)
    (name,) = [
        key.split(".")[0] for key in theirs["model"].state_dict() if "_head.decoder.w" in key
    ]
    head = getattr(theirs["model"], name)
    getattr(ours["model"].rna, name).load_state_dict(head.state_dict())
    theirs["model"].eval()
    for labels in (ours["label"], ours["label"].float()):
        again = ours["model"](**ours["input"], labels=labels)
        wanted = theirs["model"](**theirs["input"], labels=ours["label"])
        logits = getattr(wanted.logits, "tensor", wanted.logits)
        assert torch.allclose(again.logits, logits, atol=1e-5)
        assert again.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)


def test_fill_mask(exported):
    # riboray's own `pipeline` is a module.
    ours = run(FILL, "rnabert", library="riboray", maker="predictor")["output"]
    theirs = run(FILL, exported, library="transformers", maker="pipeline")["output"]
    chances = {answer["token_str"]: answer["score"] for answer in theirs}
    assert [a["token_str"] for a in ours] == [a for a in chances if a in "ACGU"]
    total = sum(chances[a] for a in "ACGU")
    for answer in ours:
        assert answer["score"] == pytest.approx(chances[answer["token_str"]] / total, rel=1e-4)
        assert answer["token"] == multimolecule.RnaTokenizer().get_vocab()[answer["token_str"]]


@pytest.mark.parametrize("specials", [True, False])
def test_tokenizers_agree(tmp_path, specials):
    config = riboray.model.RnaBertConfig(add_bos=specials, add_eos=specials)
    save_checkpoint(riboray.model.RnaBertForPreTraining(config), tmp_path / "m")
    ours = riboray.RnaTokenizer.from_pretrained(tmp_path / "m")
    theirs = multimolecule.RnaTokenizer.from_pretrained(tmp_path / "m")
    for text in ("acgtUN", ["ACG", "A<mask>CCU", "ryswkm"], "AC<pad>G"):
        for kind in ("pt", None):
            found = ours(text, return_tensors=kind)
            wanted = theirs(text, return_tensors=kind, padding=not isinstance(text, str))
            for key in ("input_ids", "attention_mask"):
                if kind == "pt":
                    if key == "attention_mask" and "<pad>" in text:
                        continue
                    assert torch.equal(found[key], wanted[key]), (text, key)
                else:
                    assert found[key] == wanted[key], (text, key)
    assert ours.vocab_size == len(ours) == 28
    assert ours.get_vocab() == theirs.get_vocab()
    assert (ours.pad_token_id, ours.mask_token_id) == (theirs.pad_token_id, theirs.mask_token_id)
