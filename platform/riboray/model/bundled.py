"""The models that come with riboray, called by name wherever a checkpoint's path may stand.

A name means the same on every machine and to every version that has it, which the path of an
installation does not: so names are what other processes and resolved options are given.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEFAULT_MODEL", "bundled_models", "checkpoint_exists", "checkpoint_path", "same_path"]

#: What is used where no checkpoint is named.
DEFAULT_MODEL = "rnabert"

_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def bundled_models() -> list[str]:
    """Return the names there are."""
    return sorted(entry.name for entry in _FOLDER.iterdir() if (entry / "config.json").is_file())


def checkpoint_path(checkpoint: str | Path) -> Path:
    """Return where a checkpoint lies: one that comes with riboray if it is called by its name.

    ``./rnabert`` is a path, and no name.
    """
    if str(checkpoint) in bundled_models():
        return _FOLDER / str(checkpoint)
    return Path(checkpoint)


def checkpoint_exists(checkpoint: str | Path) -> bool:
    """Tell whether there is a checkpoint, or something in its place."""
    return checkpoint_path(checkpoint).exists()


def same_path(path: Path) -> str:
    """Return what means this checkpoint to a process elsewhere: its name, or its absolute path."""
    path = path.resolve()
    return path.name if path.parent == _FOLDER else str(path)
