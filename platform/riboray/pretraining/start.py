"""Weights that a run starts from, instead of random ones."""

from __future__ import annotations

from riboray.corpus.trained import TrainedSequences
from riboray.errors import ConfigError
from riboray.model.bundled import checkpoint_path
from riboray.model.checkpoint import load_checkpoint
from riboray.model.config import RnaBertConfig
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["sequences_behind", "start_from"]


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
