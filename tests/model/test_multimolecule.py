"""Against MultiMolecule itself, both ways: hidden states and LM logits, <= 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from riboray.alphabet import encode, encode_packed
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.model.bundled import bundled_models
from riboray.model.prediction import HeadConfig, RnaBertForPrediction, prediction_loss

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


LEVELS = {"sequence": "Sequence", "nucleotide": "Token", "contact": "Contact"}
KINDS = [
    ("binary", ("no", "yes"), "identity"),
    ("multiclass", ("a", "b", "c"), "nonlinear"),
    ("regression", ("x", "y"), "linear"),
]


def predicted(model, sequences):
    ids, edges = encode_packed(
        sequences, add_bos=model.config.add_bos, add_eos=model.config.add_eos
    )
    with torch.inference_mode():
        return model.logits(torch.from_numpy(ids), torch.from_numpy(edges))


def same_predictions(model, theirs, tokenizer):
    """Ours in one batch, theirs each alone: they cut what a longer neighbour adds elsewhere."""
    for sequence, ours_found in zip(SEQUENCES, predicted(model, SEQUENCES), strict=True):
        with torch.inference_mode():
            found = theirs(**tokenizer(sequence, return_tensors="pt")).logits
        found = getattr(found, "tensor", found)[0]
        assert found.shape == ours_found.shape
        assert (found - ours_found).abs().max() <= TOLERANCE * max(1, ours_found.abs().max() / 5)


@pytest.mark.parametrize("specials", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("problem", "labels", "transform"), KINDS)
def test_multimolecule_opens_our_prediction_models(
    tmp_path, level, problem, labels, transform, specials
):
    torch.manual_seed(14)
    config = RnaBertConfig(initializer_range=0.1, add_bos=specials, add_eos=specials)
    head = HeadConfig(level=level, problem=problem, labels=labels, transform=transform)
    model = RnaBertForPrediction(config, head).eval()
    save_checkpoint(model, tmp_path / "ours")
    tokenizer = multimolecule.RnaTokenizer.from_pretrained(tmp_path / "ours")
    name = f"RnaBertFor{LEVELS[level]}Prediction"
    theirs = getattr(multimolecule, name).from_pretrained(tmp_path / "ours").eval()
    assert theirs.head_config.problem_type == problem
    assert list(theirs.config.id2label.values()) == list(labels[-head.outputs :])
    same_predictions(model, theirs, tokenizer)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_we_open_multimolecules_prediction_models(tmp_path, level, told):
    torch.manual_seed(15)
    names = {0: "stem", 1: "loop", 2: "end"}
    head = {"num_labels": 3, "problem_type": "multilabel", "transform": "nonlinear"}
    config = multimolecule.RnaBertConfig(
        initializer_range=0.1,
        num_labels=3,
        id2label=names,
        label2id={v: k for k, v in names.items()},
        **({"head": multimolecule.modules.HeadConfig(head)} if told else {}),
    )
    theirs = getattr(multimolecule, f"RnaBertFor{LEVELS[level]}Prediction")(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = multimolecule.RnaTokenizer()
    tokenizer.save_pretrained(tmp_path / "theirs")
    model = load_checkpoint(tmp_path / "theirs").model
    assert isinstance(model, RnaBertForPrediction)
    assert model.head_config.level == level
    assert model.head_config.labels == ("stem", "loop", "end")
    assert model.head_config.problem == ("multilabel" if told else "multiclass")
    same_predictions(model, theirs, tokenizer)


@pytest.mark.parametrize(
    ("told", "count", "problem"),
    [
        ("regression", 1, "regression"),
        ("single_label_classification", 3, "multiclass"),
        ("multi_label_classification", 3, "multilabel"),
    ],
)
def test_a_problem_that_is_told_of_the_model_is_the_heads(tmp_path, told, count, problem):
    config = multimolecule.RnaBertConfig(num_labels=count, problem_type=told)
    theirs = multimolecule.RnaBertForSequencePrediction(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    multimolecule.RnaTokenizer().save_pretrained(tmp_path / "theirs")
    assert load_checkpoint(tmp_path / "theirs").model.head_config.problem == problem


@pytest.mark.parametrize("problem", ["regression", "binary", "multiclass", "multilabel"])
def test_losses_are_multimolecules(problem):
    from multimolecule.modules.criterions import CRITERIONS

    torch.manual_seed(16)
    outputs = 1 if problem == "binary" else 3
    logits = torch.randn(20, outputs)
    labels = {
        "regression": torch.randn(20, 3),
        "binary": torch.randint(2, (20,)),
        "multiclass": torch.randint(3, (20,)),
        "multilabel": torch.randint(2, (20, 3)),
    }[problem]
    config = multimolecule.modules.HeadConfig(num_labels=outputs, problem_type=problem)
    wanted = CRITERIONS.build(config)(logits, labels)
    assert prediction_loss(logits, labels, problem) == pytest.approx(float(wanted), rel=1e-6)
