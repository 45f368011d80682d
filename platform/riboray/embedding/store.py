"""Embeddings on disk: Arrow IPC files that pyarrow, polars, duckdb and pandas open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray import __version__
from riboray.embedding.embedder import Embedder
from riboray.errors import CorpusError
from riboray.manifest import atomic_path, read_manifest

__all__ = ["EMBEDDINGS_KIND", "EmbeddingSet", "embedding_schema", "pool", "write_shard"]

EMBEDDINGS_KIND = "embeddings"

#: Rows, and nucleotides, of a record batch at most: what is in memory at once while embedding.
_BATCH, _BATCH_NUCLEOTIDES = 256, 200_000


def embedding_schema(width: int, dtype: str, per_base: bool, metadata: dict[str, str]) -> pa.Schema:
    """Return the schema of an embedding file.

    Parameters
    ----------
    width : int
        Size of an embedding.
    dtype : str
        ``float32`` or ``float16``, of the pooled embeddings.
    per_base : bool
        Whether there is a column of base embeddings, in float16.
    metadata : dict of str
        Model, pooling and so on, stored as ``riboray.KEY``.
    """
    pooled = pa.float16() if dtype == "float16" else pa.float32()
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("embedding", pa.list_(pooled, width), nullable=False),
        pa.field("windows", pa.int16(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
    if per_base:
        fields.append(pa.field("per_base", pa.list_(pa.list_(pa.float16(), width)), nullable=False))
    text = {**metadata, "schema_version": "1", "riboray_version": __version__}
    return pa.schema(fields, {f"riboray.{k}".encode(): v.encode() for k, v in text.items()})


def pool(rows: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Make one embedding of a sequence's base embeddings, shape (n, d): mean, max or first."""
    one = rows[:1] if how == "first" else rows
    pooled: NDArray[np.float32] = one.max(axis=0) if how == "max" else one.mean(axis=0)
    return pooled


def write_shard(
    path: Path,
    ids: Sequence[str],
    sequences: Sequence[str],
    embedder: Embedder,
    schema: pa.Schema,
    pooling: str,
) -> int:
    """Embed sequences and write them, in their order, whole or not at all; return the rows."""
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for start, stop in _batches(sequences):
            texts = sequences[start:stop]
            rows = embedder.per_base(texts)
            writer.write_batch(_batch(ids[start:stop], texts, rows, embedder, schema, pooling))
    return len(ids)


def _batches(sequences: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Cut sequences into runs that fit in memory; a longer one has a run of its own."""
    start, filled = 0, 0
    for index, sequence in enumerate(sequences):
        full = index - start >= _BATCH or filled + len(sequence) > _BATCH_NUCLEOTIDES
        if index > start and full:
            yield start, index
            start, filled = index, 0
        filled += len(sequence)
    if len(sequences) > start:
        yield start, len(sequences)


def _batch(
    ids: Sequence[str],
    texts: Sequence[str],
    rows: list[NDArray[np.float32]],
    embedder: Embedder,
    schema: pa.Schema,
    pooling: str,
) -> pa.RecordBatch:
    width = embedder.width
    kind = schema.field("embedding").type.value_type.to_pandas_dtype()
    pooled = np.stack([pool(r, pooling) for r in rows]).astype(kind)
    columns = [
        pa.array(ids, pa.string()),
        pa.array(texts, pa.string()),
        pa.array([len(t) for t in texts], pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(pooled.ravel()), width),
        pa.array([embedder.windows(len(t)) for t in texts], pa.int16()),
        pa.array([False] * len(texts)),
    ]
    if "per_base" in schema.names:
        flat = np.concatenate(rows).astype(np.float16).ravel()
        bases = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
        offsets = np.cumsum([0, *(len(r) for r in rows)], dtype=np.int32)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), bases))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class EmbeddingSet:
    """A directory of embeddings, opened but not read.

    Attributes
    ----------
    directory : Path
        Where it lies.
    files : tuple of Path
        Its Arrow files, in order.
    rows : tuple of int
        Rows of each.
    model : str
        sha256 of the model's weights.
    per_base : bool
        Whether base embeddings are there.
    pooling : str
        How the pooled embeddings were made.
    identity : str
        Hash of what it was made from.
    """

    directory: Path
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    model: str
    per_base: bool
    pooling: str
    identity: str

    @classmethod
    def open(cls, directory: Path) -> EmbeddingSet:
        """Open a directory that `riboray embed` completed.

        Raises
        ------
        CorpusError
            If it is not one, is not complete, is damaged, or holds files of different models.
        """
        manifest = read_manifest(directory, EMBEDDINGS_KIND) if directory.is_dir() else None
        if manifest is None:
            raise CorpusError(
                directory, "no complete embeddings here; make them with `riboray embed`"
            )
        entries = [entry for entry in manifest.files if entry.name.endswith(".arrow")]
        files = tuple(directory / entry.name for entry in entries)
        models = set()
        for path in files:
            metadata = read_metadata(path)
            models.add(metadata.get("model", "unknown"))
        if len(models) != 1:
            raise CorpusError(directory, "holds embeddings of different models; make them anew")
        return cls(
            directory,
            files,
            tuple(entry.rows or 0 for entry in entries),
            models.pop(),
            bool(manifest.details.get("per_base")),
            str(manifest.details.get("pooling", "mean")),
            manifest.fingerprint,
        )

    def __len__(self) -> int:
        return sum(self.rows)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Global index of the first row of each file, and the number of rows."""
        return np.cumsum([0, *self.rows], dtype=np.int64)

    def table(self, number: int, columns: list[str]) -> pa.Table:
        """Map some columns of one file; nothing is read until it is used."""
        return _mapped(self.files[number]).read_all().select(columns)

    def take(self, number: int, rows: NDArray[np.int64], columns: list[str]) -> pa.Table:
        """Read some rows of one file."""
        return self.table(number, columns).take(pa.array(rows))

    def by_file(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """Yield each file that holds some of these global rows.

        Yields
        ------
        tuple
            The file's number, the places of its rows within ``rows``, and their numbers in the
            file.
        """
        files = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(files).tolist():
            places = np.flatnonzero(files == number)
            yield number, places, rows[places] - self.starts[number]

    def base_embeddings(
        self, number: int, rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float16]]:
        """Yield the base embeddings of some rows of one file, each of shape (length, d)."""
        reader = _mapped(self.files[number])
        starts = np.cumsum(
            [0, *(reader.get_batch(k).num_rows for k in range(reader.num_record_batches))]
        )
        for row in rows.tolist():
            batch = int(np.searchsorted(starts, row, side="right")) - 1
            column = reader.get_batch(batch).column("per_base")
            scalar = column[row - int(starts[batch])].values
            flat = scalar.flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(scalar), -1)


def _mapped(path: Path) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(path, f"not a readable Arrow file ({error}); make it anew") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the ``riboray.`` metadata of an Arrow file."""
    raw = _mapped(path).schema.metadata or {}
    text = {key.decode(): value.decode() for key, value in raw.items()}
    return {
        key.removeprefix("riboray."): v for key, v in text.items() if key.startswith("riboray.")
    }


def shard_done(path: Path, identity: str) -> int | None:
    """Return the rows of a shard that is there, whole and of this work, else None."""
    if not path.is_file():
        return None
    try:
        metadata = read_metadata(path)
        return int(json.loads(metadata["rows"])) if metadata.get("identity") == identity else None
    except (CorpusError, KeyError, ValueError):
        return None
