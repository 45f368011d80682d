from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from riboray.alignment import align_batch, aligned_columns, count_aligned
from riboray.alphabet import MULTIMOLECULE, ORIGINAL, encode
from riboray.errors import CheckpointError, OutputError, VocabularyError
from riboray.model import (
    RnaBertConfig,
    RnaBertForPreTraining,
    convert_vocabulary,
    load_checkpoint,
    save_checkpoint,
)
from riboray.pretraining.losses import base_similarity


@pytest.fixture
def saved(tmp_path, tiny_model):
    torch.manual_seed(1)
    model = RnaBertForPreTraining(tiny_model).eval()
    return model, save_checkpoint(model, tmp_path / "checkpoint")


def published_file(path, prefix="module.", seed=2):
    """Write a file like the published one: its names, its extra heads, float32."""
    torch.manual_seed(seed)
    config = RnaBertConfig(vocabulary="original", tie_word_embeddings=False)
    model = RnaBertForPreTraining(config)
    state = {}
    for key, tensor in model.state_dict().items():
        key = key.replace(".self.", ".selfattn.")
        key = key.replace("layer_norm.weight", "LayerNorm.gamma")
        key = key.replace("layer_norm.bias", "LayerNorm.beta")
        key = key.replace("lm_head.decoder.bias", "lm_head.bias")
        key = key.replace("ss_head.decoder.bias", "ss_head.bias")
        key = key.replace("lm_head.", "cls.predictions.").replace("ss_head.", "cls.predictions_ss.")
        if key.startswith("model."):
            key = "bert." + key.removeprefix("model.")
        state[prefix + key] = tensor.clone()
    state[prefix + "cls.seq_relationship.weight"] = torch.zeros(2, 120)
    state[prefix + "cls.seq_relationship.bias"] = torch.zeros(2)
    torch.save(state, path)
    return model


def test_round_trip(saved):
    model, folder = saved
    loaded = load_checkpoint(folder)
    assert loaded.format == "riboray"
    assert loaded.model.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[key])
    assert not loaded.model.training


@pytest.mark.parametrize(
    "changes",
    [
        {"vocabulary": "original"},
        {"padding": "original"},
        {"add_bos": True, "add_eos": True},
        {"lm_head_activation": "gelu"},
        {"tie_word_embeddings": False},
        {"heads": ()},
        {"heads": ("lm",)},
    ],
    ids=str,
)
def test_every_convention_survives(tmp_path, changes):
    shape = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 1}
    config = RnaBertConfig(**shape, **changes)
    save_checkpoint(RnaBertForPreTraining(config), tmp_path / "c")
    assert load_checkpoint(tmp_path / "c").model.config == config


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_published_names_are_read(tmp_path, prefix):
    model = published_file(tmp_path / "bert.pth", prefix)
    loaded = load_checkpoint(tmp_path / "bert.pth")
    assert loaded.format == "published"
    assert loaded.model.config.padding == "original"
    assert loaded.model.config.vocabulary == "original"
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[key]), key


def test_missing_and_unexpected_keys_are_listed(saved):
    _, folder = saved
    weights = folder / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    state["model.extra.weight"] = torch.zeros(1)
    del state["model.encoder.layer.0.output.dense.weight"]
    safetensors.torch.save_file(state, weights)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert caught.value.missing == ("model.encoder.layer.0.output.dense.weight",)
    assert caught.value.unexpected == ("model.extra.weight",)
    assert "model.extra.weight" in str(caught.value)


def test_wrong_shape_and_nan_are_refused(saved):
    _, folder = saved
    weights = folder / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    good = state["model.pooler.dense.bias"]
    for bad, message in ((torch.zeros(3), "has shape"), (good * torch.nan, "NaN")):
        safetensors.torch.save_file({**state, "model.pooler.dense.bias": bad}, weights)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)


def test_vocabulary_mismatch_is_refused(saved):
    _, folder = saved
    with pytest.raises(VocabularyError, match="expected 'original'"):
        load_checkpoint(folder, vocabulary="original")
    tokens = (folder / "vocab.txt").read_text().split()
    tokens[6], tokens[7] = tokens[7], tokens[6]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    with pytest.raises(VocabularyError, match="order"):
        load_checkpoint(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(VocabularyError, match="no vocab.txt"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, vocabulary="multimolecule").model is not None


def test_published_file_with_another_vocabulary_is_refused(tmp_path):
    published_file(tmp_path / "bert.pth")
    with pytest.raises(VocabularyError, match="expected multimolecule"):
        load_checkpoint(tmp_path / "bert.pth", vocabulary="multimolecule")


class Exploit:
    def __reduce__(self):
        return (print, ("executed!",))


def test_pickles_are_never_executed(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"module.bert": Exploit()}, path)
    with pytest.raises(CheckpointError, match="cannot be read|can be read safely"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert "executed!" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "not a checkpoint directory"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-100]
            ),
            "cannot be read",
        ),
    ],
)
def test_damaged_directories(saved, damage, message):
    _, folder = saved
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_other_models_and_newer_schemas_are_refused(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    newer = {**config, "riboray": {**config["riboray"], "schema_version": 99}}
    for values, message in (({**config, "model_type": "rnafm"}, "not 'rnabert'"), (newer, "newer")):
        (folder / "config.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)


def test_missing_file():
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint("/nowhere/at/all")


def test_an_existing_directory_is_not_overwritten(saved):
    model, folder = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(model, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("tied", [True, False])
def test_changing_the_vocabulary_keeps_every_embedding(tied):
    torch.manual_seed(4)
    config = RnaBertConfig(
        vocabulary="original", tie_word_embeddings=tied, num_hidden_layers=1, initializer_range=0.2
    )
    model = RnaBertForPreTraining(config).eval()
    other = convert_vocabulary(model, MULTIMOLECULE)
    (old, lengths), (new, _) = encode(["GAUUACA"], ORIGINAL), encode(["GAUUACA"])
    hidden = model(torch.from_numpy(old), torch.from_numpy(lengths))
    assert torch.equal(hidden, other(torch.from_numpy(new), torch.from_numpy(lengths)))
    before = model.lm_head(hidden)[..., [2, 5, 4, 3]]  # A C G U
    after = other.lm_head(hidden)
    assert torch.allclose(before, after[..., 6:10], atol=1e-6)
    assert after.argmax(-1).max() <= 9, "a token the old vocabulary lacks is never predicted"


@pytest.mark.devdata
def test_published_weights_need_their_padding(devdata):
    """First 200 pairs of BRAliBase k2 (<= 440 nt, ACGU): F1 with and without padding attended."""
    import gzip

    loaded = load_checkpoint(devdata / "weights" / "bert_mul_2.pth")
    assert loaded.sha256.startswith("32032afc")
    pairs = []
    with gzip.open(devdata / "bralibase2.1" / "k2_dev.tsv.gz", "rt") as handle:
        next(handle)
        for line in handle:
            columns = aligned_columns(*line.rstrip("\n").split("\t")[5:7])
            sequences = (columns.sequence_a, columns.sequence_b)
            if all(len(s) <= 440 and set(s) <= set("ACGU") for s in sequences):
                pairs.append(columns)
            if len(pairs) == 200:
                break
    f1 = {}
    for padding in ("original", "masked"):
        config = RnaBertConfig(**{**vars(loaded.model.config), "padding": padding})
        model = RnaBertForPreTraining(config).eval()
        model.load_state_dict(loaded.model.state_dict())
        f1[padding] = alignment_f1(model, pairs)
    print(f"F1 on 200 pairs: {f1}")
    assert f1["original"] > f1["masked"] > 0.5


def alignment_f1(model, pairs):
    counts = np.zeros(3)
    for pair in pairs:
        ids, lengths = encode([pair.sequence_a, pair.sequence_b], model.config.tokens)
        with torch.inference_mode():
            hidden = model(torch.from_numpy(ids), torch.from_numpy(lengths))
        similarity = base_similarity(hidden[:1, : lengths[0]], hidden[1:, : lengths[1]])
        best = align_batch(similarity.numpy(), lengths[:1], lengths[1:]).partners
        counts += count_aligned(best, pair.partners[None])
    return 2 * counts[0] / (counts[1] + counts[2])
