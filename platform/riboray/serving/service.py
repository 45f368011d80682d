"""The service without its server: what is answered about a loaded checkpoint."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from riboray import __version__
from riboray.model.checkpoint import describe, load_checkpoint

__all__ = ["Health", "Info", "Service"]


class Health(BaseModel):
    """Answer of ``/healthz``."""

    status: str = Field(description="`ok` once the checkpoint is loaded.", examples=["ok"])


class Info(BaseModel):
    """Answer of ``/v1/info``."""

    riboray_version: str = Field(description="Version of riboray that serves.")
    checkpoint: dict[str, Any] = Field(
        description="Origin, sha256, size, vocabulary and conventions of the checkpoint."
    )


class Service:
    """A loaded checkpoint and the questions it answers.

    Parameters
    ----------
    checkpoint : str
        Anything `load_checkpoint` reads.

    Raises
    ------
    CheckpointError
        If it cannot be read; the service then never starts.
    """

    def __init__(self, checkpoint: str) -> None:
        loaded = load_checkpoint(checkpoint)
        self.model = loaded.model
        self._info = Info(
            riboray_version=__version__,
            # Where the file lies on the server is nobody's business outside.
            checkpoint={k: v for k, v in describe(loaded).items() if k != "path"},
        )

    def health(self) -> Health:
        """Tell that the checkpoint is loaded."""
        return Health(status="ok")

    def info(self) -> Info:
        """Describe the checkpoint."""
        return self._info
