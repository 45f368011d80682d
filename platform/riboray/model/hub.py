"""Models of the Hugging Face Hub: ``owner/name[@revision]`` wherever a checkpoint may stand.

Files that hold code or pickles are never fetched. A model that was fetched is called by its id and
the commit, which mean the same on every machine.
"""

from __future__ import annotations

import re
from pathlib import Path

from riboray.errors import CheckpointError

__all__ = ["fetch", "is_hub_id", "name_in_cache"]

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")

#: What a checkpoint consists of.
_FILES = [
    *("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"),
    "training_sequences.safetensors",
]


def is_hub_id(name: str) -> bool:
    """Tell whether a checkpoint's name can only be one of the hub.

    ``runs/mine`` is a path where there is a folder ``runs``.
    """
    path = Path(name)
    return _ID.fullmatch(name) is not None and not path.exists() and not path.parent.exists()


def fetch(name: str) -> Path:
    """Return the folder of a model of the hub, downloaded if it is not here already.

    Raises
    ------
    CheckpointError
        If it cannot be had, or the library for it is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        reason = "no such file or directory; a model of the Hugging Face Hub by that name needs "
        raise CheckpointError(name, reason + "the extra: pip install 'riboray[hub]'") from error
    found = _ID.fullmatch(name)
    assert found is not None
    try:
        folder = snapshot_download(found[1], revision=found[2], allow_patterns=_FILES)
    except Exception as error:  # of many kinds: no such model, no network, no permission
        told = str(error).strip().splitlines()
        raise CheckpointError(
            name,
            "no such file or directory, and it cannot be had from the Hugging Face Hub "
            f"({told[0] if told else type(error).__name__})",
        ) from error
    return Path(folder)


def name_in_cache(path: Path) -> str | None:
    """Return id and commit of a model that lies in the hub's cache; None for any other path."""
    folder, _, commit = path.parts[-3:] if len(path.parts) > 3 else ("", "", "")
    if folder.startswith("models--") and path.parent.name == "snapshots":
        owner, _, name = folder.removeprefix("models--").partition("--")
        return f"{owner}/{name}@{commit}"
    return None
