"""Options of the verb `predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from riboray.embedding.config import PartwiseOptions
from riboray.errors import ConfigError

__all__ = ["PredictConfig", "StructureFormat"]

StructureFormat = Literal["dbn", "ct", "bpseq"]


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PartwiseOptions):
    """Predict with a model that has a head: ``riboray predict RNAS.fa --checkpoint MODEL``.

    Or with its language model: how much likelier or less likely every substitution of a nucleotide
    is (--mutations), which nucleotides stand where ambiguity codes do (--fill).

    Order and ids of the input are kept, and every record is predicted or, with its reason, in
    rejects.parquet. Killed at any moment, the same command goes on; the result is the same, byte
    for byte.
    """

    POSITIONAL: ClassVar[str] = "input"
    LESS_SPACE: ClassVar[str] = "say --values false, or write elsewhere"

    checkpoint: str = ""
    """Model with a prediction head: a directory that riboray or MultiMolecule wrote, or an id of
    the Hugging Face Hub. For --mutations and --fill one with a language-model head, by default the
    one that comes with riboray."""
    output: str = "predictions"
    """Directory to make; the same command goes on in it where it stopped. On a cluster: a path that
    every node sees."""
    format: Literal["arrow", "parquet"] = "arrow"
    """Files to write: Arrow IPC, which programs map into memory, or Parquet."""
    values: bool = True
    """Keep the numbers: probabilities, or what a regression predicts. Without, only classes; of
    contacts, pairs and structures are kept in any case and the numbers of all pairs never."""
    threshold: float | None = None
    """Of contacts: the least probability of a pair that is kept, and of one in a structure. By
    default the one that fine-tuning found best, else 0.5."""
    canonical: bool = True
    """Of contacts: let only A and U, C and G, G and U pair in a structure."""
    structures: list[StructureFormat] = field(default_factory=list)
    """Of contacts: write structures, too, as dot-bracket (dbn), connect (ct) or bpseq files, one
    beside each file, all of its RNAs in a row."""

    mutations: bool = False
    """Score every substitution of a single nucleotide: the natural logarithm of how much likelier
    than the nucleotide that is there the model finds the other one, with the place hidden. As many
    passes as nucleotides."""
    heat_map: str | None = None
    """With --mutations: draw those of the first RNAs, six at most, to this file (.png, .svg,
    .pdf)."""
    fill: bool = False
    """Tell which nucleotides the model expects where ambiguity codes (N, R, …) stand, among those
    that the code allows, and fill in the likeliest."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to predict: give files, folders or URLs")
        if self.mutations and self.fill:
            raise ConfigError("--mutations and --fill: one at a time")
        if self.heat_map is not None:
            if not self.mutations:
                raise ConfigError("--heat-map draws what --mutations finds: give that, too")
            if Path(self.heat_map).suffix.lower() not in (".png", ".svg", ".pdf"):
                raise ConfigError(f"heat_map: {self.heat_map} is no .png, .svg or .pdf file")
        if not self.checkpoint and not self.asks_language:
            raise ConfigError("no model: give --checkpoint, one with a prediction head")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must lie between 0 and 1, not {self.threshold}")
        super().__post_init__()

    @property
    def asks_language(self) -> bool:
        """Whether the language model is asked, and not a prediction head."""
        return self.mutations or self.fill

    def passes(self, window: float, width: int) -> float:
        """Count one for every nucleotide, of mutations."""
        return min(window, width) if self.mutations else 1.0

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the options that decide what is made; a picture of it is another matter."""
        return {k: v for k, v in super().fingerprint_values().items() if k != "heat_map"}

    def bytes_about(self, rows: int, nucleotides: int, width: int) -> float:
        """Estimate the size: what a head makes of each nucleotide is a few numbers."""
        each = 17.0 if self.mutations else 10.0 if self.values else 3.0
        return 80.0 * rows + each * nucleotides
