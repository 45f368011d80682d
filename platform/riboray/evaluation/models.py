"""The models that an evaluation measures, and what they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from riboray.console import say
from riboray.corpus.trained import TrainedSequences
from riboray.evaluation.config import NamedPath, named_paths, padding_of
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint
from riboray.model.config import Padding, RnaBertConfig
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["NamedModel", "load_models", "training_overlap", "untrained_model"]


@dataclass(frozen=True)
class NamedModel:
    """A model to measure.

    Attributes
    ----------
    entry : NamedPath
        What was asked for: its name is unique.
    model : RnaBertForPreTraining
        The model, with the padding asked for.
    loaded : LoadedCheckpoint
        Where it came from.
    """

    entry: NamedPath
    model: RnaBertForPreTraining
    loaded: LoadedCheckpoint

    @property
    def name(self) -> str:
        """What to call it."""
        return self.entry.name

    @property
    def about(self) -> dict[str, Any]:
        """Where it lies and what decides its embeddings: JSON."""
        return {
            "path": self.loaded.name,
            "format": self.loaded.format,
            "sha256": self.loaded.sha256,
            "padding": self.model.config.padding,
        }


def load_models(values: Sequence[str], known: Sequence[str] = ("padding",)) -> list[NamedModel]:
    """Load models given as ``[NAME=]PATH[,KEY=VALUE…]``.

    Parameters
    ----------
    values : sequence of str
        What ``--checkpoint`` was given.
    known : sequence of str
        Keys that may be set; ``padding`` (``masked`` or ``original``) is set in the model.

    Raises
    ------
    RiborayError
        If a value cannot be understood, or a checkpoint cannot be read.
    """
    found = []
    for entry in named_paths(values, "checkpoint", known):
        loaded = load_checkpoint(entry.path)
        model = _with_padding(loaded.model, padding_of(entry))
        found.append(NamedModel(entry, model, loaded))
    return found


def _with_padding(model: RnaBertForPreTraining, padding: Padding | None) -> RnaBertForPreTraining:
    """Return a model with the same weights that treats padding as asked."""
    if padding in (None, model.config.padding):
        return model
    changed = RnaBertForPreTraining(replace(model.config, padding=padding))
    changed.load_state_dict(model.state_dict())
    return changed.eval()


def untrained_model(seed: int) -> RnaBertForPreTraining:
    """Make RNABERT with random weights, without touching the state of anybody's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RnaBertForPreTraining(RnaBertConfig()).eval()


def training_overlap(
    name: str, loaded: LoadedCheckpoint, sequences: Sequence[str]
) -> dict[str, Any] | None:
    """Count, and say, how many of the sequences measured a model was trained on; None if unknown.

    Raises
    ------
    CheckpointError
        If the list that it carries is damaged.
    """
    trained = TrainedSequences.read(loaded.path) if loaded.path.is_dir() else None
    if trained is None:
        say(f"  {name}: carries no list of what it was trained on")
        return None
    found = trained.overlap(list(sequences))
    about = "" if found.exact else "about "
    say(
        f"  {name}: of {found.sequences:,} sequences measured, it was trained to fill in "
        f"{about}{found.masked:,} and on families of {about}{found.aligned:,}"
    )
    return asdict(found)
