"""Asking the service without a network."""

from __future__ import annotations

import asyncio

import httpx

from riboray.serving.http import build_api
from riboray.serving.inputs import Limits

LIMITS = Limits(body_bytes=20_000, sequences=50, length=1_000, nucleotides=5_000)


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
