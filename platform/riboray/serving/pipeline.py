"""Ray Serve: the deployment, and running it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from riboray import __version__
from riboray.errors import RiborayError
from riboray.model.bundled import DEFAULT_MODEL
from riboray.pipeline import connect, first_line
from riboray.rayenv import LOCAL
from riboray.serving.config import ServeConfig
from riboray.serving.service import Health, Info, Service

from ray import serve  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["build", "serve_forever"]


def _make_api() -> FastAPI:
    return FastAPI(
        title="riboray",
        version=__version__,
        description="RNABERT, an RNA language model, as a service.",
    )


_api = _make_api()


@serve.deployment(name="riboray", max_ongoing_requests=32, max_queued_requests=256)
@serve.ingress(_api)
class Gateway:
    """HTTP in front of `Service`."""

    def __init__(self, checkpoint: str) -> None:
        self._service = Service(checkpoint)

    @_api.get("/healthz", summary="Is the service up?")
    def healthz(self) -> Health:
        """Answer once the checkpoint is loaded."""
        return self._service.health()

    @_api.get("/v1/info", summary="Which model is this?")
    def info(self) -> Info:
        """Describe the checkpoint."""
        return self._service.info()


def build(arguments: dict[str, str]) -> Any:
    """Build the application for ``serve run serve.app:app [checkpoint=DIRECTORY]``."""
    checkpoint = arguments.get("checkpoint") or DEFAULT_MODEL
    return Gateway.bind(checkpoint)  # type: ignore[attr-defined]


def serve_forever(config: ServeConfig, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, which both raise KeyboardInterrupt.

    Parameters
    ----------
    config : ServeConfig
        With ``ray_address`` resolved by `riboray.rayenv.prepare_ray`.
    on_ready : callable
        Called once requests are answered.

    Raises
    ------
    RiborayError
        If the deployment does not come up.
    """
    assert config.ray_address is not None
    with connect(config.ray_address, cpus=1):
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            serve.run(build({"checkpoint": config.checkpoint}), name="riboray", route_prefix="/")
            on_ready()
            while True:
                time.sleep(1)
        except RuntimeError as error:
            raise RiborayError(f"serving did not start: {first_line(error)}") from error
        finally:
            if config.ray_address == LOCAL:
                serve.shutdown()  # type: ignore[no-untyped-call]
            else:  # others may serve on this cluster too
                serve.delete("riboray")
