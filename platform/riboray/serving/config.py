"""Configuration of serving."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from riboray.errors import ConfigError, InputError
from riboray.model.bundled import DEFAULT_MODEL
from riboray.serving.inputs import Limits
from riboray.serving.keys import KEYS_VARIABLE, KeyRing
from riboray.serving.names import named_tasks

__all__ = ["ServeConfig"]

#: Modes of Ray Serve in which replicas listen on all interfaces, whatever the host.
_OPEN_MODES = (
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED",
)


def _mode_told() -> str:
    """Name the mode, if one is chosen, that makes replicas listen on all interfaces."""
    chosen = [name for name in _OPEN_MODES if os.environ.get(name, "0") not in ("", "0")]
    return f" (with {chosen[0]}, replicas listen on all interfaces)" if chosen else ""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answer over HTTP for a checkpoint."""

    checkpoint: str = DEFAULT_MODEL
    """Model to serve: one that comes with riboray, by its name; a directory that riboray or
    MultiMolecule wrote; the published .pth; or an id of the Hugging Face Hub."""
    db: str | None = None
    """Directory of embeddings, made by the same model, that /v1/search looks in; every replica
    opens it."""
    tasks: list[str] = field(default_factory=list)
    """Models with a prediction head that /v1/predict/NAME asks, each as NAME=CHECKPOINT; a process
    loads them when they are asked for, and keeps the last sixteen."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs keys."""
    port: int = 8000
    """Port to listen on."""
    keys: str | None = None
    """File of API keys' hashes, one `name:sha256` a line, besides those in RIBORAY_API_KEYS. With
    keys, requests must carry one; see --new-key."""
    new_key: str | None = None
    """Make a key of this name, print it and its line for --keys, and end."""
    without_keys: bool = False
    """Listen beyond loopback without keys all the same, behind a proxy that checks who asks."""
    tls_certificate: str | None = None
    """File of a certificate and of those that it rests on (PEM): answer over HTTPS. Needs
    --tls-key."""
    tls_key: str | None = None
    """File of the certificate's key (PEM)."""
    num_replicas: int | list[int] = 1
    """Processes that answer, each with the model; [least, most] for as many as the load needs."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where each runs the model; a GPU is its own."""
    request_seconds: float = 60.0
    """Seconds until a request is given up."""
    capacity: int = 4_000_000
    """Nucleotides that may wait in a process; requests beyond are told to come again later."""
    limits: Limits = field(default_factory=Limits)
    """How much a request may ask for."""
    ray_address: str | None = None
    """Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own on this machine)."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port must lie between 1 and 65535, not {self.port}")
        for name in ("request_seconds", "capacity"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        given = self.num_replicas
        numbers = given if isinstance(given, list) else [given]
        if len(numbers) not in (1, 2) or sorted(numbers) != numbers or numbers[0] < 1:
            raise ConfigError(f"num_replicas must be a number or [least, most], not {given}")
        named_tasks(self.tasks)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("tls_certificate and tls_key need each other")
        if self.device not in ("cpu", "gpu"):  # Serve's own files are not checked before
            raise ConfigError(f"device must be cpu or gpu, not {self.device!r}")

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach the service."""
        if _mode_told():
            return False
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def http_options(self) -> dict[str, Any]:
        """Return where and how Ray Serve listens.

        Raises
        ------
        InputError
            If certificate or key cannot be read, or do not fit each other.
        """
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "request_timeout_s": self.request_seconds + 5,
        }
        if self.tls_certificate is None or self.tls_key is None:
            return options
        try:
            # With a password none is asked for on the terminal.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.tls_certificate, self.tls_key, password=""
            )
        except (OSError, ssl.SSLError) as error:
            reason = f"cannot be used with {self.tls_key}: {error}"
            raise InputError(self.tls_certificate, reason) from error
        names = {"ssl_certfile": self.tls_certificate, "ssl_keyfile": self.tls_key}
        return options | {name: str(Path(path).resolve()) for name, path in names.items()}

    @property
    def url(self) -> str:
        """Address to ask."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_key else 'http'}://{host}:{self.port}"

    def read_keys(self) -> KeyRing:
        """Read who may ask.

        Raises
        ------
        ConfigError
            If the network can reach the address, and there is no key.
        InputError
            If the file cannot be read.
        """
        keys = KeyRing.read(self.keys)
        self.check_keys(keys)
        return keys

    def check_keys(self, keys: KeyRing) -> None:
        """Refuse to answer everybody who can reach the address.

        Raises
        ------
        ConfigError
            If the network can, and there is no key.
        """
        if not (keys or self.is_local or self.without_keys):
            raise ConfigError(
                f"everybody who reaches {self.host} could use the service{_mode_told()}: give "
                f"--keys (see --new-key) or {KEYS_VARIABLE}, or say --without-keys true"
            )
