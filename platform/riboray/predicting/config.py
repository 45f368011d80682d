"""Options of the verb `predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from riboray.embedding.config import PartwiseOptions
from riboray.errors import ConfigError

__all__ = ["PredictConfig", "StructureFormat"]

StructureFormat = Literal["dbn", "ct", "bpseq"]


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PartwiseOptions):
    """Predict with a model that has a head: ``riboray predict RNAS.fa --checkpoint MODEL``.

    Order and ids of the input are kept, and every record is predicted or, with its reason, in
    rejects.parquet. Killed at any moment, the same command goes on; the result is the same, byte
    for byte.
    """

    POSITIONAL: ClassVar[str] = "input"
    LESS_SPACE: ClassVar[str] = "say --values false, or write elsewhere"

    checkpoint: str = ""
    """Model with a prediction head: a directory that riboray or MultiMolecule wrote, or an id of
    the Hugging Face Hub."""
    output: str = "predictions"
    """Directory to make; the same command goes on in it where it stopped. On a cluster: a path that
    every node sees."""
    format: Literal["arrow", "parquet"] = "arrow"
    """Files to write: Arrow IPC, which programs map into memory, or Parquet."""
    values: bool = True
    """Keep the numbers: probabilities, or what a regression predicts. Without, only classes; of
    contacts, pairs and structures are kept in any case and the numbers of all pairs never."""
    threshold: float = 0.5
    """Of contacts: the least probability of a pair that is kept, and of one in a structure."""
    canonical: bool = True
    """Of contacts: let only A and U, C and G, G and U pair in a structure."""
    structures: list[StructureFormat] = field(default_factory=list)
    """Of contacts: write structures, too, as dot-bracket (dbn), connect (ct) or bpseq files, one
    beside each file, all of its RNAs in a row."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to predict: give files, folders or URLs")
        if not self.checkpoint:
            raise ConfigError("no model: give --checkpoint, one with a prediction head")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must lie between 0 and 1, not {self.threshold}")
        super().__post_init__()

    def bytes_about(self, rows: int, nucleotides: int, width: int) -> float:
        """Estimate the size: what a head makes of each nucleotide is a few numbers."""
        return 80.0 * rows + (10.0 if self.values else 3.0) * nucleotides
