"""The curriculum: which objectives are trained, for how long, and where a run stands in it.

Pure arithmetic on what all workers agree on (steps, passes, progress), so that every worker moves
on to the next phase at the same step, and a resumed run where a run that was never stopped would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from riboray.errors import ConfigError

__all__ = [
    "OBJECTIVES",
    "STREAMS",
    "Phase",
    "Position",
    "advance",
    "curriculum_progress",
    "learning_rate",
    "next_phase",
    "passes_made",
    "phase_at",
]

#: Masked language modelling, structural alignment learning, structure classes, family contrast.
OBJECTIVES = ("mlm", "sal", "ss", "sfp")

#: What each objective reads: the two that learn from pairs share them, and embed them once.
STREAMS = {"mlm": "mlm", "sal": "sal", "ss": "ss", "sfp": "sal"}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training; without a bound it lasts to the end of the run."""

    objectives: str = "mlm+sal"
    """What is learnt, joined by +: mlm (masked nucleotides), sal (structural alignments), ss
    (structure classes), sfp (families told apart by pooled embeddings)."""
    steps: int | None = None
    """Steps that the phase lasts."""
    epochs: float | None = None
    """Passes that the phase lasts, over the data of its first objective in the order above."""
    share: float | None = None
    """Share of the run that the phase lasts, by the limits of the run."""
    learning_rate: float | None = None
    """Peak learning rate in this phase, instead of the run's."""
    focus_families: list[str] | None = None
    """Families seen more often in this phase, instead of the run's."""
    focus_share: float | None = None
    """Their share of the alignments, instead of the run's."""

    def __post_init__(self) -> None:
        names = self.objectives.split("+")
        unknown = sorted(set(names) - set(OBJECTIVES))
        if unknown or len(set(names)) < len(names):
            expected = f"{', '.join(OBJECTIVES[:-1])} and {OBJECTIVES[-1]}"
            raise ConfigError(
                f"objectives {self.objectives!r}: expected some of {expected}, joined by +"
            )
        # One order, so that equal phases have equal configurations.
        ordered = "+".join(name for name in OBJECTIVES if name in names)
        object.__setattr__(self, "objectives", ordered)
        bounds = {"steps": self.steps, "epochs": self.epochs, "share": self.share}
        given = {name: value for name, value in bounds.items() if value is not None}
        if len(given) > 1:
            raise ConfigError(f"a phase has one bound, not {' and '.join(given)}")
        for name, value in (*given.items(), ("learning_rate", self.learning_rate)):
            if value is not None and not value > 0:
                raise ConfigError(f"a phase's {name} must be positive, not {value}")
        if self.share is not None and self.share > 1:
            raise ConfigError(f"a phase's share must be at most 1, not {self.share}")
        if self.focus_share is not None and not 0 <= self.focus_share <= 1:
            raise ConfigError(f"a phase's focus_share must be in [0, 1], not {self.focus_share}")

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives, in the order of `OBJECTIVES`."""
        return tuple(self.objectives.split("+"))

    @property
    def bound(self) -> tuple[str, float] | None:
        """The unit and size of the bound, if there is one."""
        for unit in ("steps", "epochs", "share"):
            if (size := getattr(self, unit)) is not None:
                return unit, size
        return None


class Position(NamedTuple):
    """Where a run stands in its curriculum; part of a checkpoint."""

    phase: int = 0
    """Number of the phase; the number of phases once all are done."""
    step: int = 0
    """Step at which it began."""
    epochs: float = 0.0
    """Passes that its first objective had made by then."""
    progress: float = 0.0
    """Share of the run's limits that was spent by then."""
    passes: float = 0.0
    """Passes of all phases before it, each over the data of its first objective."""


def phase_at(curriculum: Sequence[Phase], position: Position) -> Phase:
    """Return the phase of the next step; the last one once all are over."""
    return curriculum[min(position.phase, len(curriculum) - 1)]


def _passes(phase: Phase, epochs: Mapping[str, float]) -> float:
    """Return the passes over the data of a phase's first objective that has any."""
    streams = (STREAMS[name] for name in phase.names)
    return next((epochs[name] for name in streams if name in epochs), 0.0)


def passes_made(
    curriculum: Sequence[Phase], position: Position, epochs: Mapping[str, float]
) -> float:
    """Return the passes of all phases so far, each over the data of its first objective."""
    now = _passes(phase_at(curriculum, position), epochs)
    return position.passes + now - position.epochs


def next_phase(
    curriculum: Sequence[Phase],
    position: Position,
    step: int,
    epochs: Mapping[str, float],
    progress: float,
) -> Position:
    """Begin the phase after this one; see `advance` for the arguments."""
    following = Position(
        position.phase + 1, step, 0.0, progress, passes_made(curriculum, position, epochs)
    )
    return following._replace(epochs=_passes(phase_at(curriculum, following), epochs))


def _done(phase: Phase, begun: Position, step: int, epochs: float, progress: float) -> float:
    """Return the share of a phase that is done; 0 for ever if it has no bound."""
    if phase.bound is None:
        return 0.0
    unit, size = phase.bound
    passed = {
        "steps": step - begun.step,
        "epochs": epochs - begun.epochs,
        "share": progress - begun.progress,
    }[unit]
    # Shares are sums of floats: what is within rounding of the bound has reached it.
    return min(passed / size, 1.0) if passed < size * (1 - 1e-9) else 1.0


def advance(
    curriculum: Sequence[Phase],
    position: Position,
    step: int,
    epochs: Mapping[str, float],
    progress: float,
) -> Position:
    """Move on to the phase that the next step belongs to.

    Parameters
    ----------
    curriculum : sequence of Phase
        The phases, in order.
    position : Position
        Where the run stood.
    step : int
        Steps taken.
    epochs : mapping of str to float
        Passes over each of `STREAMS` so far; those without data are missing.
    progress : float
        Share of the run's limits that is spent, in [0, 1].

    Returns
    -------
    Position
        The same if the phase goes on. Its ``phase`` is ``len(curriculum)`` when the last is over.
    """
    while position.phase < len(curriculum):
        phase = curriculum[position.phase]
        if _done(phase, position, step, _passes(phase, epochs), progress) < 1:
            break
        position = next_phase(curriculum, position, step, epochs, progress)
    return position


def curriculum_progress(
    curriculum: Sequence[Phase],
    position: Position,
    step: int,
    epochs: Mapping[str, float],
    progress: float,
) -> float:
    """Return the share of the curriculum that is done, in [0, 1]; 0 if it has no end.

    Notes
    -----
    Phases bounded in one unit count by their size. With different units each counts the same:
    how long a pass takes is not known beforehand.
    """
    bounds = [phase.bound for phase in curriculum]
    if any(bound is None for bound in bounds):
        return 0.0
    known = [bound for bound in bounds if bound is not None]
    one_unit = len({unit for unit, _ in known}) == 1
    weights = [size if one_unit else 1.0 for _, size in known]
    if position.phase >= len(curriculum):
        return 1.0
    phase = curriculum[position.phase]
    now = _done(phase, position, step, _passes(phase, epochs), progress)
    done = sum(weights[: position.phase]) + now * weights[position.phase]
    return min(done / sum(weights), 1.0)


def learning_rate(peak: float, progress: float, warmup: float, schedule: str) -> float:
    """Return the learning rate at ``progress`` in [0, 1].

    It rises linearly from near 0 to ``peak`` over the share ``warmup`` of the run; then, with
    the ``cosine`` schedule, it falls to 0 as half a cosine, and with ``constant`` it stays.
    """
    if progress < warmup:
        return peak * max(progress / warmup, 1e-3)
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
