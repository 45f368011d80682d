"""Substitutions, and nucleotides at ambiguity codes, of one part of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.embedding.embedder import Embedder
from riboray.embedding.parts import Maker, Product
from riboray.embedding.schema import part_schema, ragged
from riboray.model.heads import RnaBertForPreTraining
from riboray.predicting.config import PredictConfig
from riboray.predicting.language import fill_ambiguous, substitutions

__all__ = ["FILLED", "MUTATIONS", "FillingMaker", "MutationMaker"]

MUTATIONS = Product(
    "mutations", "predicting", "predicted", "riboray.predicting.expecting:MutationMaker"
)
FILLED = Product("filled", "predicting", "predicted", "riboray.predicting.expecting:FillingMaker")

#: Nucleotides that are worked on together: numbers of each are in memory at once.
_TOGETHER = 200_000

_LOG_ODDS = pa.list_(pa.list_(pa.float32(), 4))
_HIDDEN = pa.list_(
    pa.struct(
        [("position", pa.int32()), ("code", pa.string()), *((n, pa.float32()) for n in "ACGU")]
    )
)


class _LanguageMaker(Maker):
    """Asks the language model; see `Maker`."""

    most_nucleotides = _TOGETHER
    fields: tuple[pa.Field, ...]

    def prepare(self, model: RnaBertForPreTraining) -> None:
        """Take the model, and set the schema."""
        config = self.job.config
        assert isinstance(config, PredictConfig)
        self.file_format = config.format
        budget, device = config.token_budget, self.job.device
        self.embedder = Embedder(model, token_budget=budget, device=device)
        metadata = {"model": self.job.model, "identity": self.job.identity}
        self.schema = part_schema(self.fields, self.job.annotations, metadata)


class MutationMaker(_LanguageMaker):
    """Scores every substitution; see `substitutions`."""

    fields = (pa.field("log_odds", _LOG_ODDS, nullable=False),)

    def compute(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Score all substitutions of sequences."""
        found = substitutions(self.embedder, texts)
        return found.rows, found.failed

    def columns(self, made: Any, kept: NDArray[np.intp], texts: list[str]) -> dict[str, pa.Array]:
        """Show log-odds of A, C, G and U at every place; none at an ambiguity code."""
        return {"log_odds": ragged([made[k] for k in kept.tolist()], 4, "float32", missing=True)}


class FillingMaker(_LanguageMaker):
    """Fills ambiguity codes; see `fill_ambiguous`."""

    fields = (
        pa.field("filled", pa.string(), nullable=False),
        pa.field("hidden", _HIDDEN, nullable=False),
    )

    def compute(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Fill sequences."""
        filled, found = fill_ambiguous(self.embedder, texts)
        return (filled, found.rows), found.failed

    def columns(self, made: Any, kept: NDArray[np.intp], texts: list[str]) -> dict[str, pa.Array]:
        """Show filled sequences, and probabilities at every code."""
        filled, rows = made
        hidden = []
        for k in kept.tolist():
            places = np.flatnonzero(~np.isnan(rows[k][:, 0])).tolist()
            hidden.append(
                [
                    {"position": place, "code": texts[k][place]}
                    | dict(zip("ACGU", np.exp(rows[k][place]).tolist(), strict=True))
                    for place in places
                ]
            )
        return {
            "filled": pa.array([filled[k] for k in kept.tolist()], pa.string()),
            "hidden": pa.array(hidden, _HIDDEN),
        }
