"""Configuration of serving."""

from __future__ import annotations

from dataclasses import dataclass

from riboray.errors import ConfigError

__all__ = ["ServeConfig"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answer over HTTP for a checkpoint."""

    checkpoint: str = ""
    """Checkpoint to serve: a directory, or the published .pth."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback is open to the network: put a proxy with
    authentication in front."""
    port: int = 8000
    """Port to listen on."""
    ray_address: str | None = None
    """Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own on this machine)."""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError("--checkpoint is required")
        if not 0 < self.port < 65536:
            raise ConfigError(f"port must lie between 1 and 65535, not {self.port}")
