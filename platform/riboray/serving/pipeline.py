"""Ray Serve: the deployment, and running it."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI

from riboray.errors import ConfigError, RiborayError
from riboray.pipeline import cause_of, connect
from riboray.rayenv import LOCAL
from riboray.serving.config import ServeConfig
from riboray.serving.driver import resolved
from riboray.serving.keys import KeyRing

from ray import serve  # isort: skip  (after riboray.pipeline, which sets Ray's environment)

__all__ = ["build", "deployment_of", "serve_forever"]

#: Requests that a replica works on at a time: its queue, which counts nucleotides, decides what
#: is turned away. As many again may wait at the proxy.
_REQUESTS = 1024

#: Requests of a replica at which another one is started, where there may be more.
_BUSY = 16


#: The service of this process, if it is a replica.
_services: list[Any] = []


class Gateway:
    """What Ray Serve asks a replica beside requests."""

    async def check_health(self) -> None:
        """Raise if the model fails; Serve then starts another replica."""
        for service in _services:
            if service.is_broken:
                raise RuntimeError("the model fails; the log says why")


def keep_to_loopback() -> None:
    """Keep Ray Serve's port for calls between deployments from the network.

    A replica (of Ray 2.60) opens it on all interfaces, asks nobody for a token, and unpickles what
    it is sent: whoever reaches it could run code. Requests do not come that way, unless Serve is
    told so by ``RAY_SERVE_USE_GRPC_BY_DEFAULT``: then they do from other nodes, where there are.

    Raises
    ------
    RiborayError
        If Ray does it in another way now; the replica then does not start.
    """
    from ray.serve._private import constants, replica
    from ray.util import get_node_ip_address

    address = get_node_ip_address()  # type: ignore[no-untyped-call]
    alone = ipaddress.ip_address(address).is_loopback
    if constants.RAY_SERVE_USE_GRPC_BY_DEFAULT and not alone:
        return
    name = "add_port_to_grpc_server"
    bind = getattr(replica, name, None)
    if bind is None:
        raise RiborayError("this version of Ray may listen beyond loopback: use another one")
    if getattr(bind, "func", None) is not _on_loopback:
        setattr(replica, name, partial(_on_loopback, bind))


def keep_to_who_may_ask(config: ServeConfig, keys: KeyRing) -> None:
    """Refuse to answer without keys where Serve itself was told to listen beyond this machine.

    `serve run` and `serve deploy` decide that, and not the application.

    Raises
    ------
    ConfigError
        The replica then does not start, and the application says why.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        replace(config, host=client.http_config.host or "127.0.0.1").check_keys(keys)


def _on_loopback(bind: Callable[[Any, str], int], server: Any, address: str) -> int:
    return bind(server, address.replace("[::]", "127.0.0.1"))


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
        from riboray.serving import pipeline
        from riboray.serving.http import build_api
        from riboray.serving.names import named_tasks
        from riboray.serving.service import Service

        pipeline.keep_to_loopback()
        pipeline.keep_to_who_may_ask(config, keys)
        device = "cuda" if config.device == "gpu" else "cpu"
        service = Service(
            *(config.checkpoint, config.limits, config.capacity, device, config.db),
            tasks=named_tasks(config.tasks),
        )
        pipeline._services.append(service)  # by its module's name: this function is a copy
        return build_api(service, keys, config.request_seconds)

    replicas = config.num_replicas
    numbers = replicas if isinstance(replicas, list) else [replicas]
    least, most = numbers[0], numbers[-1]
    scaling: dict[str, Any] = {"num_replicas": least}
    if least != most:
        scaling = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": _BUSY,
            }
        }
    resources = {"num_cpus": 1, **({"num_gpus": 1} if config.device == "gpu" else {})}
    gateway: Any = serve.deployment(
        serve.ingress(make_api)(Gateway),
        name="riboray",
        graceful_shutdown_timeout_s=config.request_seconds + 10,
        max_ongoing_requests=_REQUESTS,
        max_queued_requests=_REQUESTS,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options=resources,
        **scaling,
    )
    return gateway.bind()


def build(arguments: dict[str, str]) -> Any:
    """Build the application for ``serve run serve.app:app [checkpoint=DIRECTORY] [db=…] [keys=…]``.

    Tasks are one argument, ``tasks=NAME=CHECKPOINT,NAME=CHECKPOINT``; ``without_keys=true`` answers
    everybody, whatever Serve listens on.

    Raises
    ------
    ConfigError
        If there are other arguments.
    CheckpointError, CorpusError, InputError
        If a file cannot be read.
    """
    known = ("checkpoint", "db", "keys", "tasks", "without_keys")
    if unknown := sorted(arguments.keys() - set(known)):
        raise ConfigError(f"{unknown[0]}: arguments are {', '.join(known)}")
    given: dict[str, Any] = {name: value for name, value in arguments.items() if value}
    if "tasks" in given:
        given["tasks"] = given["tasks"].split(",")
    if "without_keys" in given:
        given["without_keys"] = str(given["without_keys"]).lower() == "true"
    config = ServeConfig(**given)
    return deployment_of(resolved(config), config.read_keys())


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
        serve.start(http_options=config.http_options())
        try:
            serve.run(deployment_of(config, keys), name="riboray", route_prefix="/")
            on_ready()
            while True:
                time.sleep(1)
        except RuntimeError as error:
            raise RiborayError(f"serving did not start: {cause_of(error)}") from error
        finally:
            if config.ray_address == LOCAL:
                serve.shutdown()  # type: ignore[no-untyped-call]
            else:  # others may serve on this cluster too
                serve.delete("riboray")
