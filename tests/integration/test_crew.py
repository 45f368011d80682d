"""How many processes are asked for, and what becomes of them on a cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from riboray.crew.size import Needs, crew_size
from riboray.rayenv import LOCAL
from tests.integration.helpers import environment, succeed


def test_sizes():
    here = os.cpu_count()
    assert str(crew_size(None, LOCAL, {"CPU": 64.0})) == f"{here}"
    assert str(crew_size(3, LOCAL, {})) == "3"
    assert str(crew_size([2, 5], "auto", {})) == "2 to 5"
    assert str(crew_size(None, "auto", {"CPU": 64.0})) == "64 and more"
    assert crew_size(None, "auto", {}).least == 4, "something that an autoscaler sees"
    assert crew_size(None, "auto", {}, "GPU").least == 1
    needs = Needs(gpus=1, memory=1.5, calls=2)
    assert needs.options() == {
        "num_cpus": 1,
        "num_gpus": 1,
        "memory": 3 << 29,
        "max_concurrency": 2,
    }
    assert str(needs) == "1 CPU, 1 GPU, 1.5 GiB"


@pytest.mark.ray
@pytest.mark.slow
def test_stories():
    """In a process of their own: Ray keeps how a process first met it, tokens and all."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q"]
    env = {k: v for k, v in environment().items() if not k.startswith("PYTEST_")}
    assert "3 passed" in succeed([*words, str(Path(__file__).with_name("crew_stories.py"))], env)
