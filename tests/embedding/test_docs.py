"""The examples of docs/embedding.md, run as they stand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.conftest import ROOT, random_sequences
from tests.embedding.test_shards import embed_here, write

TEXT = (ROOT / "docs" / "embedding.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)
NEEDED = ("polars", "duckdb", "pandas", "sklearn", "anndata")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    texts = random_sequences(np.random.default_rng(4), 60, 30, 60)
    embed_here(folder, checkpoint, write(folder, texts), per_base=True, shard_bytes=900)
    (folder / "out").rename(folder / "embeddings")
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example(folder, monkeypatch, number):
    monkeypatch.chdir(folder)
    for module in re.findall(r"^(?:import|from) (\w+)", EXAMPLES[number], re.M):
        pytest.importorskip(module)
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), names)
    if "matrix" in names:
        assert names["matrix"].shape == (60, 24)
        assert len(names["embeddings"].ids) == 60
    if "frame" in names:
        assert len(names["frame"]) == 60
    if "lengths" in names:
        assert [length for _, length in names["lengths"]] == sorted(
            (length for _, length in names["lengths"]), reverse=True
        )
        assert names["lengths"]
    if "data" in names:
        assert names["data"].shape == (60, 24)
        assert names["data"].obs_names[3] == "s3"
    if "bases" in names:
        assert names["bases"].shape[1] == 24


def test_every_program_named_has_its_example():
    for module in NEEDED:
        assert any(f"import {module}" in e or f"from {module}" in e for e in EXAMPLES)
