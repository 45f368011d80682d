"""Weights that a run starts from, instead of random ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from riboray.corpus.trained import TrainedSequences
from riboray.errors import ConfigError
from riboray.manifest import atomic_directory
from riboray.model.bundled import bundled_models, checkpoint_exists, checkpoint_path
from riboray.model.checkpoint import load_checkpoint
from riboray.model.config import RnaBertConfig
from riboray.model.heads import RnaBertForPreTraining
from riboray.model.hub import is_hub_id

__all__ = ["keep_start", "sequences_behind", "start_from"]


def start_from(model: RnaBertForPreTraining, checkpoint: str) -> None:
    """Copy the weights of a checkpoint, heads included, into a model of the same shape.

    Parameters
    ----------
    model : RnaBertForPreTraining
        The model to fill.
    checkpoint : str
        As for `load_checkpoint`.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read.
    ConfigError
        If it is a model of another shape or other conventions than the run's.
    """
    theirs = load_checkpoint(checkpoint).model
    for name in ("vocabulary", "add_bos", "add_eos"):
        ours, other = getattr(model.config, name), getattr(theirs.config, name)
        if ours != other:
            raise ConfigError(f"init: {checkpoint} has {name} {other}, and the run {ours}")
    state, wanted = theirs.state_dict(), model.state_dict()
    differing = [
        name
        for name in sorted({*state, *wanted})
        if name not in state or name not in wanted or state[name].shape != wanted[name].shape
    ]
    if differing:
        few = ", ".join(differing[:3]) + (" and more" if len(differing) > 3 else "")
        raise ConfigError(f"init: {checkpoint} has another shape than the run's model: {few}")
    model.load_state_dict(state)


def sequences_behind(checkpoint: str, config: RnaBertConfig) -> TrainedSequences | None:
    """Return what a checkpoint was trained on, or None if that is not known.

    Raises
    ------
    CheckpointError, ConfigError
        As `start_from` into a model of the given configuration: before any worker starts.
    """
    start_from(RnaBertForPreTraining(config), checkpoint)
    path = checkpoint_path(checkpoint)
    return TrainedSequences.read(path) if path.is_dir() else None


def keep_start(checkpoint: str, folder: Path) -> tuple[str, str]:
    """Copy the checkpoint that a run starts from to where the run lies, once.

    There all workers see it, on whatever nodes they are, and the run can go on when the original
    is gone.

    Parameters
    ----------
    checkpoint : str
        As for `load_checkpoint`. A model that comes with riboray is everywhere already.
    folder : Path
        Holds the copy, or will.

    Returns
    -------
    checkpoint, sha256 : str
        What workers are to load, and the hash of its weights. An original that has changed since
        it was copied is told by its hash: it is the one returned.

    Raises
    ------
    CheckpointError
        If neither the original nor a copy can be read.
    """
    copy = next(folder.iterdir(), None) if folder.is_dir() else None
    # What an id of the hub means may change, and one may be off the net.
    if copy is not None and (is_hub_id(checkpoint) or not checkpoint_exists(checkpoint)):
        return str(copy), load_checkpoint(copy).sha256
    loaded = load_checkpoint(checkpoint)
    if checkpoint in bundled_models():
        return checkpoint, loaded.sha256
    if copy is None:
        copy = folder / loaded.path.name
        with atomic_directory(folder) as temporary:
            place = temporary / copy.name
            if loaded.path.is_dir():
                shutil.copytree(loaded.path, place, ignore=_folders, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(loaded.path, place)
    return str(copy), loaded.sha256


def _folders(path: str, names: list[str]) -> list[str]:
    """Name the folders of a checkpoint: what is only for going on with its own training."""
    return [name for name in names if (Path(path) / name).is_dir()]
