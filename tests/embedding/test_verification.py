"""`riboray verify` finds what is wrong with a directory, also where the manifest agrees."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from riboray.embedding.store import EMBEDDINGS_KIND
from riboray.embedding.verification import VerifyConfig, verify
from riboray.errors import CheckpointError, ConfigError, CorpusError
from riboray.manifest import FileEntry, read_manifest
from riboray.model import RnaBertForPreTraining, load_checkpoint, save_checkpoint
from tests.conftest import random_sequences
from tests.embedding.test_shards import embed_here, write


def test_verify_finds_what_is_no_number(checkpoint, tmp_path, rng):
    out = tmp_path / "out"
    inputs = write(tmp_path, random_sequences(rng, 20, 5, 50))
    embed_here(tmp_path, checkpoint, inputs, format="npy", per_base=True)
    names = [entry["name"] for entry in json.loads((out / "manifest.json").read_text())["files"]]
    number = next(k for k, name in enumerate(names) if ".per_base." in name)
    spoil_and_seal(out, number, lambda path: np.save(path, np.load(path) * np.float16("nan")))
    with pytest.raises(CorpusError, match="base embeddings missing or not finite"):
        verify(VerifyConfig(embeddings=[str(out)]))


def spoil_and_seal(folder, number, change):
    """Change a file and make the manifest agree, as no accident would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / manifest["files"][number]["name"]
    change(path)
    entry = FileEntry.of(path, manifest["files"][number]["rows"])
    manifest["files"][number] = vars(entry)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_verify_finds_what_is_wrong(checkpoint, tmp_path, rng):
    out = tmp_path / "out"
    texts = random_sequences(rng, 60, 5, 50)
    embed_here(tmp_path, checkpoint, write(tmp_path, texts), format="npy")
    check = VerifyConfig(embeddings=[str(out)])
    assert verify(check)["largest_difference"] < 1e-5
    matrix = next(out.glob("*.npy"))
    good = matrix.read_bytes()
    matrix.write_bytes(good[:-1] + b"x")
    with pytest.raises(CorpusError, match="other content"):
        verify(check)
    matrix.write_bytes(good)
    manifest = out / "manifest.json"
    told = manifest.read_text()
    manifest.write_text(told.replace('"sequences_embedded": 60', '"sequences_embedded": 59'))
    with pytest.raises(CorpusError, match="in the manifest, but"):
        verify(check)
    manifest.write_text(told)

    def shift(path):
        np.save(path, np.load(path) + np.float32(0.01))

    spoil_and_seal(out, 0, shift)
    with pytest.raises(CorpusError, match="differ by 0.01"):
        verify(check)
    spoil_and_seal(out, 0, lambda path: np.save(path, np.load(path)[:-1]))
    with pytest.raises(CorpusError, match="missing or not finite"):
        verify(check)
    other = tmp_path / "other"
    torch.manual_seed(9)
    save_checkpoint(RnaBertForPreTraining(load_checkpoint(checkpoint).model.config), other)
    matrix.write_bytes(good)
    spoil_and_seal(out, 0, lambda path: path.write_bytes(good))
    with pytest.raises(CheckpointError, match="not the model"):
        verify(VerifyConfig(embeddings=[str(out)], checkpoint=str(other)))
    (out / "resolved_config.yaml").write_text("checkpoint: /gone\n")
    with pytest.raises(ConfigError, match="no longer at /gone"):
        verify(check)
    assert read_manifest(out, EMBEDDINGS_KIND) is not None
