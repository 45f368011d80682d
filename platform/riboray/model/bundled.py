"""Models called by name wherever a checkpoint's path may stand: riboray's own, and the hub's.

A name means the same on every machine and to every version that has it, which the path of an
installation does not: so names are what other processes and resolved options are given.
"""

from __future__ import annotations

from pathlib import Path

from riboray.model.hub import fetch, is_hub_id

__all__ = ["DEFAULT_MODEL", "bundled_models", "checkpoint_exists", "checkpoint_path", "same_path"]

#: What is used where no checkpoint is named.
DEFAULT_MODEL = "rnabert"

_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def bundled_models() -> list[str]:
    """Return the names there are."""
    return sorted(entry.name for entry in _FOLDER.iterdir() if (entry / "config.json").is_file())


def _bundled(checkpoint: str | Path) -> Path | None:
    """Return the folder of a model that comes with riboray, with or without ``riboray/``."""
    name = str(checkpoint).removeprefix("riboray/")
    return _FOLDER / name if name in bundled_models() else None


def checkpoint_path(checkpoint: str | Path) -> Path:
    """Return where a checkpoint lies.

    One that comes with riboray if it is called by its name, which ``./rnabert`` is not; one of the
    Hugging Face Hub, fetched if need be, if it is called by its id and is no path here.

    Raises
    ------
    CheckpointError
        If a model of the hub cannot be had.
    """
    if (folder := _bundled(checkpoint)) is not None:
        return folder
    if isinstance(checkpoint, str) and is_hub_id(checkpoint):
        return fetch(checkpoint)
    return Path(checkpoint)


def checkpoint_exists(checkpoint: str | Path) -> bool:
    """Tell whether there is a checkpoint, or something in its place; of the hub's, there may be."""
    if isinstance(checkpoint, str) and is_hub_id(checkpoint):
        return True
    return checkpoint_path(checkpoint).exists()


def same_path(path: Path) -> str:
    """Return what means this checkpoint to a process elsewhere: its name, or its absolute path."""
    path = path.resolve()
    return path.name if path.parent == _FOLDER else str(path)
