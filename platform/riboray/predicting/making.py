"""Predictions of one part of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.corpus.structure import base_pairs
from riboray.embedding.parts import Maker, Product
from riboray.embedding.planning import Part
from riboray.embedding.schema import part_schema, ragged
from riboray.manifest import atomic_path
from riboray.model.heads import RnaBertForPreTraining
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from riboray.predicting.config import PredictConfig
from riboray.predicting.folding import dot_bracket, fold
from riboray.predicting.predictor import Predictor, applying, likeliest, likely_pairs
from riboray.predicting.structures import WRITERS

__all__ = [
    "PREDICTIONS",
    "PREDICTIONS_KIND",
    "PredictionMaker",
    "prediction_fields",
    "read_columns",
]

PREDICTIONS_KIND = "predictions"
PREDICTIONS = Product(
    PREDICTIONS_KIND, "predicting", "predicted", "riboray.predicting.making:PredictionMaker"
)

#: What is worked on together: numbers of all pairs of a sequence are in memory at once.
_TOGETHER, _ROWS = 20_000, 256
#: The longest RNA of whose pairs all are looked at: 16 MB of numbers, seconds for the structure.
_LONGEST = 2_000

_PAIRS = pa.list_(pa.struct([("i", pa.int32()), ("j", pa.int32()), ("probability", pa.float32())]))


def prediction_fields(head: HeadConfig, values: bool) -> list[pa.Field]:
    """Return the fields of what a head predicts.

    Parameters
    ----------
    head : HeadConfig
        What it predicts.
    values : bool
        Whether numbers are kept.
    """
    numbers = pa.list_(pa.float32(), head.outputs)
    one = head.problem in ("binary", "multiclass")
    fields = []
    if head.level == "contact":
        if head.problem == "binary":
            return [pa.field("structure", pa.string()), pa.field("pairs", _PAIRS)]
        return [pa.field("values", pa.list_(numbers))]  # row by row
    if head.level == "sequence":
        if one:
            fields.append(pa.field("label", pa.string()))
        elif head.problem == "multilabel":
            fields.append(pa.field("labels", pa.list_(pa.string())))
    elif one:
        fields.append(pa.field("classes", pa.list_(pa.uint8())))
    if values or head.problem in ("regression", "multilabel"):
        fields.append(
            pa.field("values", numbers if head.level == "sequence" else pa.list_(numbers))
        )
    return fields


class PredictionMaker(Maker):
    """Predicts for parts and writes what comes out; see `Maker`."""

    def prepare(self, model: RnaBertForPreTraining) -> None:
        """Take the model, and set the schema."""
        config = self.job.config
        assert isinstance(config, PredictConfig)
        assert isinstance(model, RnaBertForPrediction)
        self.config, self.head, self.file_format = config, model.head_config, config.format
        self.predictor = Predictor(model, token_budget=config.token_budget, device=self.job.device)
        if self.head.level == "contact":
            self.most_nucleotides, self.most_rows = _TOGETHER, _ROWS
        metadata = {
            "model": self.job.model,
            "identity": self.job.identity,
            "level": self.head.level,
            "problem": self.head.problem,
            "labels": "\t".join(self.head.labels),
        }
        fields = prediction_fields(self.head, config.values)
        self.schema = part_schema(fields, self.job.annotations, metadata)

    def compute(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Predict; of contacts, find structures."""
        failed: dict[int, str] = {}
        if self.head.level == "contact":
            reason = f"longer than {_LONGEST:,} nucleotides: all its pairs are too many"
            failed = {k: reason for k, text in enumerate(texts) if len(text) > _LONGEST}
        able = [k for k in range(len(texts)) if k not in failed]
        found = self.predictor.predict([texts[k] for k in able])
        failed |= {able[k]: reason for k, reason in found.failed.items()}
        return dict(zip(able, found.rows, strict=True)), failed

    def columns(self, made: Any, kept: NDArray[np.intp], texts: list[str]) -> dict[str, pa.Array]:
        """Show what was predicted."""
        rows = [made[k] for k in kept.tolist()]
        if self.head.level == "contact" and self.head.problem == "binary":
            return self._contacts(rows, [texts[k] for k in kept.tolist()])
        columns: dict[str, Any] = {}
        if self.head.level == "sequence":
            if self.head.problem == "multilabel":
                columns["labels"] = [applying(row, self.head) for row in rows]
            elif self.head.problem != "regression":
                columns["label"] = [self.head.labels[int(likeliest(r, self.head))] for r in rows]
        elif "classes" in self.schema.names:
            columns["classes"] = [likeliest(row, self.head).astype(np.uint8) for row in rows]
        found = {n: pa.array(c, self.schema.field(n).type) for n, c in columns.items()}
        if "values" in self.schema.names:
            width = self.head.outputs
            values = ragged([row.reshape(-1, width) for row in rows], width, "float32")
            found["values"] = values.flatten() if self.head.level == "sequence" else values
        return found

    def _contacts(self, rows: list[Any], texts: list[str]) -> dict[str, pa.Array]:
        structures, pairs = [], []
        asked = self.config.threshold
        threshold = self.head.threshold if asked is None else asked
        for row, text in zip(rows, texts, strict=True):
            chances = row[..., 0]
            sequence = text if self.config.canonical else None
            partner = fold(chances, sequence=sequence, threshold=threshold)
            structures.append(dot_bracket(partner))
            pairs.append(likely_pairs(chances, threshold))
        return {
            "structure": pa.array(structures, pa.string()),
            "pairs": pa.array(pairs, _PAIRS),
        }

    def more_files(self, part: Part, paths: list[Path]) -> list[Path]:
        """Write structure files, from the file that is there."""
        if not self.config.structures:
            return []
        table = read_columns(paths[0], ["id", "sequence", "structure"]).to_pylist()
        partners = [base_pairs(row["structure"]) for row in table]
        made = []
        for kind in self.config.structures:
            stem = self.job.stem(part)
            path = stem.with_name(f"{stem.name}.{kind}")
            with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
                for row, partner in zip(table, partners, strict=True):
                    handle.write(WRITERS[kind](row["id"], row["sequence"], partner))
            made.append(path)
        return made


def read_columns(path: Path, names: list[str]) -> pa.Table:
    """Read columns of a file of predictions, Arrow or Parquet."""
    if path.suffix == ".parquet":
        return pq.read_table(path, columns=names)
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().select(names)
