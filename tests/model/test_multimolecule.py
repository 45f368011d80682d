"""Against MultiMolecule itself, both ways: hidden states and LM logits, <= 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from riboray.alphabet import encode
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.model.bundled import bundled_models

pytestmark = pytest.mark.compare
multimolecule = pytest.importorskip(
    "multimolecule", reason="needs the extra `compare`: pip install 'riboray[compare]'"
)

SEQUENCES = ["GGUCUCUCUGGUUAGACCAGAUCUGAGCCU", "UAGCUUAUCAGACUGAUGUUG", "acgtnRYSWKMBDHVacgt"]
TOLERANCE = 1e-5


def real(array, lengths):
    return [row[:size] for row, size in zip(array, lengths, strict=True)]


def ours(model, sequences):
    config = model.config
    ids, lengths = encode(sequences, add_bos=config.add_bos, add_eos=config.add_eos)
    with torch.inference_mode():
        hidden = model(torch.from_numpy(ids), torch.from_numpy(lengths))
        logits = model.lm_head(hidden) if model.lm_head is not None else None
    return ids, lengths, hidden.numpy(), None if logits is None else logits.numpy()


@pytest.mark.parametrize("source", ["no cls/eos", "cls and eos", *bundled_models()])
def test_multimolecule_opens_what_we_write(tmp_path, source):
    torch.manual_seed(11)
    if source in bundled_models():
        model = load_checkpoint(source).model
    else:
        specials = source == "cls and eos"
        config = RnaBertConfig(initializer_range=0.1, add_bos=specials, add_eos=specials)
        model = RnaBertForPreTraining(config).eval()
    save_checkpoint(model, tmp_path / "ours")
    ids, lengths, hidden, logits = ours(model, SEQUENCES)
    tokenizer = multimolecule.RnaTokenizer.from_pretrained(tmp_path / "ours")
    batch = tokenizer(SEQUENCES, return_tensors="pt", padding=True)
    assert (batch["input_ids"].numpy() == ids).all()
    theirs = multimolecule.RnaBertModel.from_pretrained(tmp_path / "ours").eval()
    masked_lm = multimolecule.RnaBertForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    with torch.inference_mode():
        their_hidden = theirs(**batch).last_hidden_state.numpy()
        their_logits = masked_lm(**batch).logits.numpy()
    for wanted, found in ((hidden, their_hidden), (logits, their_logits)):
        for a, b in zip(real(wanted, lengths), real(found, lengths), strict=True):
            # Logits of a trained model reach 16, and rounding grows with them.
            assert np.abs(a - b).max() <= TOLERANCE * max(1, np.abs(a).max() / 5)


@pytest.mark.parametrize("name", ["RnaBertModel", "RnaBertForMaskedLM", "RnaBertForPreTraining"])
def test_we_open_what_multimolecule_writes(tmp_path, name):
    torch.manual_seed(12)
    theirs = getattr(multimolecule, name)(multimolecule.RnaBertConfig(initializer_range=0.1)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = multimolecule.RnaTokenizer()
    tokenizer.save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert loaded.format == "multimolecule"
    assert (loaded.model.config.add_bos, loaded.model.config.add_eos) == (True, True)
    _, lengths, hidden, logits = ours(loaded.model, SEQUENCES)
    batch = tokenizer(SEQUENCES, return_tensors="pt", padding=True)
    with torch.inference_mode():
        output = theirs(**batch, output_hidden_states=True)
    found = [(hidden, output.hidden_states[-1].numpy())]
    their_logits = output.get("logits", output.get("logits_lm"))
    if their_logits is not None:
        found.append((logits, their_logits.numpy()))
    for a, b in found:
        for x, y in zip(real(a, lengths), real(b, lengths), strict=True):
            assert np.abs(x - y).max() <= TOLERANCE


def test_there_and_back_again_changes_nothing(tmp_path):
    torch.manual_seed(13)
    model = RnaBertForPreTraining(RnaBertConfig()).eval()
    save_checkpoint(model, tmp_path / "a")
    theirs = multimolecule.RnaBertForPreTraining.from_pretrained(tmp_path / "a")
    theirs.save_pretrained(tmp_path / "b")
    multimolecule.RnaTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    back = load_checkpoint(tmp_path / "b").model
    assert not back.config.add_bos
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[key]), key


def test_same_number_of_parameters():
    theirs = multimolecule.RnaBertModel(multimolecule.RnaBertConfig())
    assert sum(p.numel() for p in theirs.parameters()) == 481_080
