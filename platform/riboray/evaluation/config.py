"""Options of `riboray evaluate alignment`, and what all evaluations of models have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, cast, get_args

from riboray.alignment.columns import GapPenalties
from riboray.errors import ConfigError
from riboray.model.config import Padding

__all__ = [
    "MODEL_SETTINGS",
    "EvaluateAlignmentConfig",
    "NamedPath",
    "named_paths",
    "padding_of",
]

BASELINES = ("identity", "ribosum", "untrained")

#: What may be set for a model behind its path.
MODEL_SETTINGS = ("padding", "open", "extend")


@dataclass(frozen=True)
class NamedPath:
    """A file or directory with a name to show and settings: ``NAME=PATH,KEY=VALUE``."""

    name: str
    path: str
    settings: dict[str, str] = field(default_factory=dict)


def named_paths(values: Sequence[str], option: str, known: Sequence[str] = ()) -> list[NamedPath]:
    """Read values of the form ``[NAME=]PATH[,KEY=VALUE…]``.

    Raises
    ------
    ConfigError
        If a path is missing, a key is not among ``known``, or a name is given twice.
    """
    found: list[NamedPath] = []
    for value in values:
        whole, settings = value, {}
        while "," in whole and "=" in (tail := whole.rpartition(",")[2]):
            key, _, setting = tail.partition("=")
            if key not in known:
                break  # part of the path
            settings[key] = setting
            whole = whole.rpartition(",")[0]
        name, equals, path = whole.partition("=")
        if not equals:
            name, path = _name_of(whole), whole
        if not name or not path:
            raise ConfigError(f"--{option} {value!r}: expected NAME=PATH")
        found.append(NamedPath(name, path, settings))
    names = [entry.name for entry in found]
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        raise ConfigError(f"--{option}: two are called {again[0]!r}; give them names: NAME=PATH")
    return found


def padding_of(entry: NamedPath) -> Padding | None:
    """Return the padding set for a model, if it is.

    Raises
    ------
    ConfigError
        If it is neither ``masked`` nor ``original``.
    """
    value = entry.settings.get("padding")
    if value is not None and value not in get_args(Padding):
        raise ConfigError(f"{entry.name}: padding is masked or original, not {value!r}")
    return cast("Padding | None", value)


def _name_of(path: str) -> str:
    """Return the last part of a path; of a run's checkpoint, the run's name."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(parts) > 1 and parts[-1] == "checkpoint":
        return parts[-2]
    return parts[-1] if parts else ""


@dataclass(frozen=True, kw_only=True)
class EvaluateAlignmentConfig:
    """Measure aligners on reference alignments.

    ``riboray evaluate alignment k2.tsv.gz --checkpoint mine=runs/mine/checkpoint``
    """

    POSITIONAL: ClassVar[str] = "reference"

    reference: list[str] = field(default_factory=list)
    """Reference alignments, plain or gzip: tables as of BRAliBase (family, apsi, id_a, id_b,
    aligned_a, aligned_b), Stockholm, or aligned FASTA; may be given without the flag."""
    checkpoint: list[str] = field(default_factory=list)
    """Models: [NAME=]PATH of a directory or of the published .pth, or an id of the Hub. Settings
    follow commas: padding=masked or padding=original (whether padding is attended to), open=2 and
    extend=0.1 (gap penalties of this one)."""
    predictions: list[str] = field(default_factory=list)
    """Alignments that exist already: [NAME=]PATH of a table, aligned FASTA, Stockholm, or a folder
    of them. Pairs are found by their sequences."""
    aligners: list[str] = field(default_factory=list)
    """Programs on PATH to run beside: mafft-ginsi, mafft-qinsi, clustalw, muscle, probcons-rna,
    fsa, locarna, sparse, dafs; or `installed` for all that are there."""
    baselines: list[str] = field(default_factory=lambda: ["identity", "ribosum"])
    """Scores to compare with: identity (match 1, mismatch 0), ribosum (RIBOSUM85-60), untrained (a
    model of random weights); or none. An MLM-only model is a --checkpoint as any other."""
    fit_gaps: list[str] = field(default_factory=list)
    """Development alignments: gap penalties of models and baselines are fitted to them. Refused if
    a sequence of theirs is in the reference."""
    gaps: GapPenalties = field(default_factory=GapPenalties)
    """Gap penalties of models, unless fitted or given with a checkpoint."""
    output: str = "alignment-evaluation"
    """Directory to make; the same command goes on in it where it stopped."""
    families: list[str] = field(default_factory=list)
    """Text files with the families to measure, one accession or name a line; by default all."""
    pairs_per_family: int = 20
    """Pairs drawn from an alignment of many RNAs."""
    max_pairs: int | None = None
    """Pairs measured; of more, so many drawn by chance."""
    max_length: int | None = None
    """Leave out pairs with a longer sequence."""
    ambiguity: Literal["keep", "reject"] = "keep"
    """Pairs with other letters than A, C, G and U: keep them, or leave them out."""
    bins: list[int] = field(default_factory=lambda: [0, 30, 40, 50, 60, 70, 80, 90, 100])
    """Limits of the identity bins, percent; the last one belongs to its bin."""
    resample: Literal["families", "pairs"] = "families"
    """What is drawn for confidence intervals. Pairs of a family share sequences: families give
    wider and more honest intervals. With fewer than five families, pairs are drawn."""
    rounds: int = 2000
    """Draws."""
    num_workers: int | None = None
    """Programs at a time; by default one for every CPU. Models use one CPU."""
    timeout: float = 600.0
    """Seconds that a program may take for a pair."""
    seed: int = 0
    """Of every draw and of the untrained model."""

    def __post_init__(self) -> None:
        if not self.reference:
            raise ConfigError("nothing to measure on: give reference alignments")
        least = {"pairs_per_family": 1, "max_pairs": 1, "max_length": 1, "rounds": 100}
        for name, lowest in {**least, "num_workers": 1, "timeout": 0.001}.items():
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise ConfigError(f"{name} must be at least {lowest:g}, not {value:g}")
        if sorted(set(self.bins)) != self.bins or len(self.bins) < 2:
            raise ConfigError(f"bins must be two or more growing numbers, not {self.bins}")
        unknown = sorted({*self.baselines} - {*BASELINES, "none"})
        if unknown or ("none" in self.baselines and len(self.baselines) > 1):
            known = ", ".join(BASELINES)
            raise ConfigError(f"baselines are {known}, or none alone; not {self.baselines}")
        named_paths(self.predictions, "predictions")
        for entry in named_paths(self.checkpoint, "checkpoint", MODEL_SETTINGS):
            self._check_settings(entry)

    def _check_settings(self, entry: NamedPath) -> None:
        padding_of(entry)
        self.gaps_of(entry)

    def gaps_of(self, entry: NamedPath) -> GapPenalties:
        """Return the gap penalties of a model.

        Raises
        ------
        ConfigError
            If one given with it is no number.
        """
        values = {f.name: getattr(self.gaps, f.name) for f in fields(GapPenalties)}
        for name in values.keys() & entry.settings.keys():
            try:
                values[name] = float(entry.settings[name])
            except ValueError as error:
                raise ConfigError(
                    f"{entry.name}: {name} is {entry.settings[name]!r}, not a number"
                ) from error
        return GapPenalties(**values)
