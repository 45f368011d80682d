"""Ray Serve: the deployment, and running it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from riboray.errors import RiborayError
from riboray.pipeline import connect, first_line
from riboray.rayenv import LOCAL
from riboray.serving.config import ServeConfig
from riboray.serving.keys import KeyRing

from ray import serve  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["build", "deployment_of", "serve_forever"]

#: Requests that a replica works on at a time: its queue, which counts nucleotides, decides what
#: is turned away. As many again may wait at the proxy.
_REQUESTS = 1024

#: Requests of a replica at which another one is started, where there may be more.
_BUSY = 16


def deployment_of(config: ServeConfig, keys: KeyRing) -> Any:
    """Build the application.

    Parameters
    ----------
    config : ServeConfig
        Which model, how many replicas, and limits.
    keys : KeyRing
        Who may ask.

    Returns
    -------
    Application
        For ``serve.run``; replicas load the model, and answer once they have.
    """

    def make_api() -> FastAPI:
        from riboray.serving.http import build_api
        from riboray.serving.service import Service

        service = Service(
            config.checkpoint, config.limits, capacity=config.capacity, device=config.device
        )
        return build_api(service, keys, config.request_seconds)

    replicas = config.num_replicas
    least, most = replicas if isinstance(replicas, list) else (replicas, replicas)
    scaling: dict[str, Any] = {"num_replicas": least}
    if least != most:
        scaling = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": _BUSY,
            }
        }
    resources = {"num_cpus": 1, **({"num_gpus": 1} if config.device == "cuda" else {})}
    gateway: Any = serve.deployment(
        serve.ingress(make_api)(),
        name="riboray",
        max_ongoing_requests=_REQUESTS,
        max_queued_requests=_REQUESTS,
        ray_actor_options=resources,
        **scaling,
    )
    return gateway.bind()


def build(arguments: dict[str, str]) -> Any:
    """Build the application for ``serve run serve.app:app [checkpoint=DIRECTORY] [keys=FILE]``."""
    known = {name: arguments[name] for name in ("checkpoint", "keys") if arguments.get(name)}
    config = ServeConfig(**known)  # type: ignore[arg-type]
    return deployment_of(config, config.read_keys())


def serve_forever(config: ServeConfig, keys: KeyRing, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, which both raise KeyboardInterrupt.

    Parameters
    ----------
    config : ServeConfig
        With ``ray_address`` resolved by `riboray.rayenv.prepare_ray`.
    keys : KeyRing
        Who may ask.
    on_ready : callable
        Called once requests are answered.

    Raises
    ------
    RiborayError
        If the deployment does not come up.
    """
    assert config.ray_address is not None
    replicas = config.num_replicas
    most = replicas[-1] if isinstance(replicas, list) else replicas
    with connect(config.ray_address, cpus=most):
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            serve.run(deployment_of(config, keys), name="riboray", route_prefix="/")
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
