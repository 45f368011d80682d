from __future__ import annotations

import pytest
import torch

from riboray.model import RnaBertForPreTraining, save_checkpoint
from riboray.serving.service import Service
from tests.conftest import tiny_config
from tests.serving.helpers import LIMITS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("http") / "tiny"
    return save_checkpoint(RnaBertForPreTraining(tiny_config()), folder)


@pytest.fixture
def service(checkpoint):
    return Service(str(checkpoint), LIMITS)
