"""The verb `serve`."""

from __future__ import annotations

from dataclasses import replace

from riboray.console import say
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import prepare_ray
from riboray.serving.config import ServeConfig

__all__ = ["serve"]


def serve(config: ServeConfig) -> None:
    """Serve a checkpoint until Ctrl-C.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read; found before anything is started.
    """
    checkpoint = load_checkpoint(config.checkpoint).name
    ray_address = prepare_ray(config.ray_address)
    from riboray.serving.pipeline import serve_forever

    address = f"http://{config.host}:{config.port}"
    say(f"loading {checkpoint}")
    serve_forever(
        replace(config, checkpoint=checkpoint, ray_address=ray_address),
        lambda: say(f"serving {address}/v1/info  (documentation: {address}/docs; Ctrl-C ends)"),
    )
