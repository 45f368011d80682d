"""The objects that are called as MultiMolecule's: batches, losses, mistakes, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import riboray
from riboray.errors import ConfigError, InvalidSequenceError, RiborayError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.model.prediction import prediction_loss
from tests.conftest import random_sequences

MODELS = (
    riboray.RnaBertForSequencePrediction,
    riboray.RnaBertForTokenPrediction,
    riboray.RnaBertForContactPrediction,
)


@pytest.fixture(scope="module", params=[False, True], ids=["", "specials"])
def plain(request, tmp_path_factory):
    """A checkpoint without a head."""
    torch.manual_seed(4)
    config = RnaBertConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        initializer_range=0.3,
        add_bos=request.param,
        add_eos=request.param,
    )
    folder = tmp_path_factory.mktemp("plain") / "m"
    return str(save_checkpoint(RnaBertForPreTraining(config), folder))


@pytest.fixture(scope="module")
def texts():
    return random_sequences(np.random.default_rng(5), 3, 5, 30)


@pytest.fixture
def tokenizer(plain):
    return riboray.RnaTokenizer.from_pretrained(plain)


def test_a_batch_is_its_sequences(plain, tokenizer, texts):
    model = riboray.RnaBertModel.from_pretrained(plain)
    together = model(**tokenizer(texts, return_tensors="pt"), output_hidden_states=True)
    for row, text in enumerate(texts):
        alone = model(**tokenizer(text, return_tensors="pt"))
        size = alone.last_hidden_state.shape[1]
        found = together.last_hidden_state[row, :size]
        assert torch.allclose(found, alone.last_hidden_state[0], atol=1e-5)
        assert torch.allclose(together.pooler_output[row], alone.pooler_output[0], atol=1e-5)
    assert len(together.hidden_states) == 2
    assert alone.hidden_states is None
    assert len(alone.to_tuple()) == 2
    with pytest.raises(AttributeError):
        _ = alone.logits


@pytest.mark.parametrize("kind", MODELS, ids=lambda m: m.LEVEL)
@pytest.mark.parametrize("problem", ["binary", "multiclass", "regression", "multilabel"])
def test_a_loss_over_what_is_known(plain, tokenizer, texts, kind, problem):
    torch.manual_seed(6)
    count = 1 if problem == "binary" else 3
    model = kind.from_pretrained(plain, num_labels=count, problem_type=problem)
    batch = tokenizer(texts, return_tensors="pt")
    width = max(map(len, texts))
    shape = {"sequence": (3,), "nucleotide": (3, width), "contact": (3, width, width)}[kind.LEVEL]
    labels = torch.randint(3 if problem == "multiclass" else 2, shape)
    if problem in ("regression", "multilabel"):
        labels = torch.randint(2, (*shape, 3)).float()
    missing = torch.rand(shape) < 0.3
    labels[missing] = torch.nan if labels.is_floating_point() else -100
    output = model(**batch, labels=labels)
    assert output.logits.shape == (*shape, count)
    flat, wanted = [], []
    for row, text in enumerate(texts):
        inside = (row, *[slice(len(text))] * (len(shape) - 1))
        flat.append(output.logits[inside].reshape(-1, count))
        wanted.append(labels[inside].reshape(-1, *labels.shape[len(shape) :]))
    known = torch.cat(wanted).float()
    if not labels.is_floating_point() and problem != "multiclass":
        known[known < 0] = torch.nan
    if problem == "multiclass":
        known = known.long()
    by_hand = prediction_loss(torch.cat(flat), known, problem)
    assert output.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert model(**batch).loss is None
    with pytest.raises(ValueError, match="labels of shape"):
        model(**batch, labels=torch.zeros(3, 2, 2, 2, 2))


@pytest.mark.parametrize("kind", MODELS, ids=lambda m: m.LEVEL)
def test_it_learns_and_is_kept(plain, tokenizer, texts, kind, tmp_path):
    torch.manual_seed(7)
    model = kind.from_pretrained(plain, labels=("no", "yes"), problem_type="binary").train()
    batch = tokenizer(texts, return_tensors="pt")
    width = max(map(len, texts))
    shape = {"sequence": (3,), "nucleotide": (3, width), "contact": (3, width, width)}[kind.LEVEL]
    labels = torch.randint(2, shape)
    if kind.LEVEL == "contact":  # symmetric, as what is predicted
        for row, text in enumerate(texts):
            for i, a in enumerate(text):
                for j, b in enumerate(text):
                    labels[row, i, j] = int(a + b in ("AU", "UA", "CG", "GC"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval().save_pretrained(tmp_path / "tuned")
    again = kind.from_pretrained(tmp_path / "tuned")
    assert torch.equal(model(**batch).logits, again(**batch).logits)
    assert again.rna.head_config.labels == ("no", "yes")
    other = next(m for m in MODELS if m is not kind)
    with pytest.raises(ConfigError, match="the model has no"):
        other.from_pretrained(tmp_path / "tuned")
    for wrong in ({"num_labels": 4}, {"labels": ("a", "b")}, {"dropout": 0.5}):
        with pytest.raises(ConfigError, match="the checkpoint's head is"):
            kind.from_pretrained(tmp_path / "tuned", **wrong)
    for wrong in (
        {"num_labels": 3, "labels": ("a", "b")},
        {"num_labels": 2, "problem_type": "binary"},
    ):
        with pytest.raises(ConfigError, match="num_labels="):
            kind.from_pretrained(plain, **wrong)


def test_the_language_model_head(plain, tokenizer, tmp_path):
    model = riboray.RnaBertForMaskedLM.from_pretrained(plain)
    batch = tokenizer(["AC<mask>GU", "GGG"], return_tensors="pt")
    labels = torch.where(batch.input_ids == tokenizer.mask_token_id, 7, -100)
    output = model(**batch, labels=labels)
    assert output.logits.shape == (*batch.input_ids.shape, 28)
    row, place = np.argwhere(labels.numpy() == 7)[0]
    wanted = -output.logits[row, place].log_softmax(-1)[7]
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    config = RnaBertConfig(hidden_size=24, num_attention_heads=4, heads=())
    save_checkpoint(RnaBertForPreTraining(config), tmp_path / "bare")
    with pytest.raises(ConfigError, match="no language-model head"):
        riboray.RnaBertForMaskedLM.from_pretrained(tmp_path / "bare")


def test_labels_of_tokens_are_refused(plain, tokenizer):
    """Whoever counts <cls> and <eos> would have all labels one off."""
    model = riboray.RnaBertForTokenPrediction.from_pretrained(plain)
    batch = tokenizer(["ACGU", "AC"], return_tensors="pt")
    for width in (3, 5, 6):
        with pytest.raises(ValueError, match="special tokens have none"):
            model(**batch, labels=torch.zeros(2, width))
    assert model(**batch, labels=torch.zeros(2, 4)).loss > 0
    with pytest.raises(ValueError, match="has no nucleotide"):
        model(**tokenizer(["ACGU", ""], return_tensors="pt"))


def test_padding_on_the_left_is_refused(plain):
    model = riboray.RnaBertModel.from_pretrained(plain)
    with pytest.raises(ValueError, match="padding must stand on the right"):
        model(torch.tensor([[0, 7, 8]]))
    with pytest.raises(ValueError, match="padding must stand on the right"):
        model(torch.tensor([[7, 8, 9]]), torch.tensor([[1, 0, 1]]))


def test_tokens_and_back(tokenizer):
    ids = tokenizer("acg u<mask>T")
    assert tokenizer.decode(ids.input_ids, skip_special_tokens=True) == "ACGUU"
    assert "<mask>" in tokenizer.decode(ids.input_ids)
    extra = 2 * tokenizer.config.add_bos
    cut = tokenizer("ACGUACGU", truncation=True, max_length=5 + extra)
    assert tokenizer.decode(cut["input_ids"], skip_special_tokens=True) == "ACGUA"
    assert len(cut.input_ids) == 5 + extra
    rows = tokenizer(["ACG", "A"], padding=False, add_special_tokens=False)
    assert list(map(len, rows.input_ids)) == [3, 1]
    arrays = tokenizer(["ACG", "A"], return_tensors="np")
    assert arrays.attention_mask.sum(1).tolist() == [3 + extra, 1 + extra]
    assert tokenizer.batch_decode(arrays.input_ids, skip_special_tokens=True) == ["ACG", "A"]
    with pytest.raises(InvalidSequenceError, match="'J'"):
        tokenizer("ACJ")


def test_a_vocabulary_without_a_token(tmp_path):
    config = RnaBertConfig(vocabulary="original", hidden_size=24, num_attention_heads=4)
    save_checkpoint(RnaBertForPreTraining(config), tmp_path / "m")
    tokenizer = riboray.load(tmp_path / "m").tokenizer
    assert len(tokenizer) == 6
    with pytest.raises(RiborayError, match="has no <cls>"):
        tokenizer("<cls>ACG")


def test_the_published_weights(devdata):
    """Padded to 440 and attended to, whatever shares the batch."""
    rna = riboray.load(devdata / "weights" / "bert_mul_2.pth")
    texts = ["GGUCUCUCUGGUUAGACC", "UAGCUU"]
    found = rna.model(**rna.tokenizer(texts, return_tensors="pt")).last_hidden_state
    bases = rna.embed_bases(texts)
    for k, text in enumerate(texts):
        assert np.allclose(found[k, : len(text)].detach(), bases[k], atol=1e-5)
    assert (
        load_checkpoint(devdata / "weights" / "bert_mul_2.pth").model.config.padding == "original"
    )
