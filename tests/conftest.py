"""Fixtures shared by all tests. Ray's settings must be made before anything imports it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
os.environ.pop("RAY_ADDRESS", None)

from riboray.rayenv import prepare_ray

prepare_ray("local")

import hypothesis
import numpy as np
import pytest
import torch

from riboray.corpus import IngestConfig, ingest
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.model import RnaBertConfig

pytest_plugins = ["tests.browser"]

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("riboray", deadline=None)
hypothesis.settings.load_profile("riboray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what starts a Ray first: of two processes, none is left with a long file at the end.

    A file stays in one process, so that what its tests share is made once.
    """
    files = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in files)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def ray_local():
    """One real local Ray for all tests that need it, gone at the end."""
    from riboray.pipeline import connect

    with connect("local", cpus=2) as resources:
        yield resources


@pytest.fixture(scope="session")
def devdata() -> Path:
    """The development data set; a test that wants it says so and is skipped without it."""
    folder = Path(os.environ.get("RIBORAY_DEVDATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no development data in {folder}; set RIBORAY_DEVDATA to run this test")
    return folder


@pytest.fixture(scope="session")
def sample_corpus(tmp_path_factory) -> Path:
    """The bundled sample as a corpus directory, with 40 pairs a family."""
    folder = tmp_path_factory.mktemp("sample") / "corpus"
    ingest(
        IngestConfig(
            corpus=[SAMPLE_CORPUS],
            alignments=[SAMPLE_ALIGNMENTS],
            output=str(folder),
            pairs_per_family=40,
        )
    )
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers."""
    return np.random.default_rng(20221)


def tiny_config(**options: Any) -> RnaBertConfig:
    """A model of RNABERT's shape that answers in milliseconds."""
    small = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 16,
    }
    return RnaBertConfig(**{**small, **options})


@pytest.fixture
def tiny_model() -> RnaBertConfig:
    """A model of RNABERT's shape that trains in milliseconds."""
    return tiny_config()


def random_sequences(rng: np.random.Generator, count: int, low: int, high: int) -> list[str]:
    """Random RNA sequences with lengths in [low, high]."""
    letters = np.array(list("ACGU"))
    return ["".join(rng.choice(letters, size=rng.integers(low, high + 1))) for _ in range(count)]
