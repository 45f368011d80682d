"""Asking the service without a network."""

from __future__ import annotations

import asyncio

import httpx
import torch

from riboray.model import save_checkpoint
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from riboray.serving.http import build_api
from riboray.serving.inputs import Limits
from tests.conftest import tiny_config

LIMITS = Limits(body_bytes=20_000, sequences=50, length=1_000, nucleotides=5_000)


THREE = ("a", "b", "c")
TASKS = {
    "kind": HeadConfig(level="sequence", problem="multiclass", labels=THREE),
    "coding": HeadConfig(level="sequence", problem="binary", labels=("no", "yes"), pooling="mean"),
    "tags": HeadConfig(level="sequence", problem="multilabel", labels=THREE),
    "weight": HeadConfig(level="sequence", problem="regression", labels=("x", "y")),
    "element": HeadConfig(level="nucleotide", problem="multiclass", labels=THREE),
    "paired": HeadConfig(level="nucleotide", problem="binary", labels=("no", "yes")),
    "structure": HeadConfig(level="contact", problem="binary", labels=("no", "yes")),
    "distance": HeadConfig(level="contact", problem="regression", labels=("d",)),
}


def save_tasks(folder):
    """Write a model of each task; return their checkpoints."""
    torch.manual_seed(7)
    found = {}
    for name, head in TASKS.items():
        model = RnaBertForPrediction(tiny_config(initializer_range=0.3), head)
        found[name] = str(save_checkpoint(model, folder / "tasks" / name))
    return found


JSON = {"content-type": "application/json"}
FASTA = {"content-type": "text/x-fasta"}


def ask(service, *requests, **options):
    """Send requests at once; each is (method, path, arguments of httpx)."""

    async def send():
        transport = httpx.ASGITransport(build_api(service, **options), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://riboray") as client:
            return await asyncio.gather(*(client.request(m, p, **o) for m, p, o in requests))

    return asyncio.run(send())


def post(service, path, body, **options):
    (answer,) = ask(service, ("POST", path, {"json": body}), **options)
    return answer
