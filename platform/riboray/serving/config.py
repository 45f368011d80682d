"""Configuration of serving."""

from __future__ import annotations

from dataclasses import dataclass

from riboray.errors import ConfigError
from riboray.model.bundled import DEFAULT_MODEL

__all__ = ["ServeConfig"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answer over HTTP for a checkpoint."""

    checkpoint: str = DEFAULT_MODEL
    """Model to serve: one that comes with riboray, by its name; a directory that riboray or
    MultiMolecule wrote; or the published .pth."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback is open to the network: put a proxy with
    authentication in front."""
    port: int = 8000
    """Port to listen on."""
    ray_address: str | None = None
    """Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own on this machine)."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port must lie between 1 and 65535, not {self.port}")
