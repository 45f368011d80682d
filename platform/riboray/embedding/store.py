"""Embeddings on disk: Arrow IPC files that pyarrow, polars, duckdb and pandas open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.embedding.schema import SCHEMA_VERSION
from riboray.errors import CorpusError
from riboray.manifest import check_schema, read_manifest

__all__ = [
    "EMBEDDINGS_KIND",
    "EmbeddingSet",
    "open_embeddings",
]

EMBEDDINGS_KIND = "embeddings"

#: Base embeddings of a NumPy file looked at together.
_ROWS = 100_000


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
    details : dict
        What the manifest says besides: ``format``, ``layers``, ``normalised`` and so on.
    """

    directory: Path
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    model: str
    per_base: bool
    pooling: str
    identity: str
    details: dict[str, Any]

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
        ending = ".parquet" if manifest.details.get("format") == "parquet" else ".arrow"
        entries = [
            entry
            for entry in manifest.files
            if entry.name.endswith(ending) and entry.name != "rejects.parquet"
        ]
        files = tuple(directory / entry.name for entry in entries)
        models = set()
        for path in files:
            models.add(read_metadata(path).get("model", "unknown"))
        if len(models) > 1:
            raise CorpusError(directory, "holds embeddings of different models; make them anew")
        return cls(
            directory,
            files,
            tuple(entry.rows or 0 for entry in entries),
            str(manifest.details["model"]),
            bool(manifest.details.get("per_base")),
            str(manifest.details.get("pooling", "mean")),
            manifest.fingerprint,
            manifest.details,
        )

    def check_searchable(self, layers: int) -> None:
        """Check that the embeddings are those a search compares with.

        Parameters
        ----------
        layers : int
            Layers of the model.

        Raises
        ------
        CorpusError
            If they are no Arrow files, come from another layer than the last, or were scaled.
        """
        if (kind := self.details.get("format", "arrow")) != "arrow":
            raise CorpusError(self.directory, f"holds {kind} files; embed with --format arrow")
        made_from = self.details.get("layers", [layers])
        if made_from != [layers]:
            raise CorpusError(
                self.directory,
                f"holds layers {made_from}; a search needs the last, {layers}, alone",
            )
        if self.details.get("normalised"):
            raise CorpusError(self.directory, "embeddings were normalised; a search needs them not")

    def __len__(self) -> int:
        return sum(self.rows)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Global index of the first row of each file, and the number of rows."""
        return np.cumsum([0, *self.rows], dtype=np.int64)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the files; with ``--format npy``, without the matrices."""
        return _schema(self.files[0])

    @property
    def ids(self) -> pa.ChunkedArray:
        """Ids of all rows, in the order of the input."""
        return self.column("id")

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all files; of Arrow files it is mapped, not read."""
        tables = [self.table(number, [name]) for number in range(len(self.files))]
        return pa.concat_tables(tables)[name]

    def table(self, number: int, columns: list[str]) -> pa.Table:
        """Return some columns of one file; of an Arrow file they are mapped, not read."""
        path = self.files[number]
        if path.suffix == ".parquet":
            return pq.read_table(path, columns=columns)
        return _mapped(path).read_all().select(columns)

    def views(self, column: str = "embedding") -> list[NDArray[Any]]:
        """Return pooled embeddings as one matrix a file, in order.

        Parameters
        ----------
        column : str
            ``embedding``, or ``embedding_layer_4`` and so on if there are several layers.

        Returns
        -------
        list of ndarray, shape=(rows, H)
            Read-only views of the mapped files, without a copy; of Parquet, copies.

        Raises
        ------
        CorpusError
            If there is no such column.
        """
        return [self.views_of(number, column) for number in range(len(self.files))]

    def _matrix(self, number: int, column: str) -> NDArray[Any] | None:
        """Map the NumPy file of a column, if it has one of its own."""
        path = self.files[number]
        beside = path.with_name(f"{path.stem}.{column}.npy")
        return np.load(beside, mmap_mode="r", allow_pickle=False) if beside.is_file() else None

    def views_of(self, number: int, column: str) -> NDArray[Any]:
        """Return the pooled embeddings of one file; see `views`."""
        path = self.files[number]
        if (matrix := self._matrix(number, column)) is not None:
            return matrix
        if column not in _schema(path).names:
            raise CorpusError(self.directory, f"has no column {column!r}")
        values = self.table(number, [column])[column].combine_chunks()
        flat: NDArray[Any] = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(values), -1)

    def to_numpy(self, column: str = "embedding") -> NDArray[Any]:
        """Return all pooled embeddings as one matrix, shape (n, H): a view if there is one file."""
        views = self.views(column)
        return views[0] if len(views) == 1 else np.concatenate(views)

    def per_base_of(self, row: int, column: str = "per_base") -> NDArray[Any]:
        """Return the base embeddings of one row, counted over all files; shape (length, H)."""
        ((number, _, local),) = self.by_file(np.array([row]))
        path = self.files[number]
        if (matrix := self._matrix(number, column)) is not None:
            lengths = self.table(number, ["length"])["length"].to_numpy()
            start = int(lengths[: local[0]].sum())
            return matrix[start : start + int(lengths[local[0]])]
        if column not in _schema(path).names:
            raise CorpusError(self.directory, f"has no column {column!r}: embed with --per-base")
        scalar = self.take(number, local, [column])[column][0].values
        flat: NDArray[Any] = scalar.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(scalar), -1)

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

    def base_counts(self, number: int, column: str = "per_base") -> NDArray[np.int64]:
        """Return how many base embeddings the rows of one file have; shape (rows,)."""
        if (matrix := self._matrix(number, column)) is not None:
            lengths = self.table(number, ["length"])["length"].to_numpy().astype(np.int64)
            return lengths if len(matrix) == lengths.sum() else np.zeros_like(lengths)
        found: NDArray[np.int64] = pc.list_value_length(self.table(number, [column])[column])
        return np.asarray(found, dtype=np.int64)

    def bases(self, number: int, column: str = "per_base") -> Iterator[NDArray[Any]]:
        """Yield all base embeddings of one file, some rows at a time, each of shape (m, H)."""
        if (matrix := self._matrix(number, column)) is not None:
            for start in range(0, len(matrix), _ROWS):
                yield matrix[start : start + _ROWS]
            return
        for values in self.table(number, [column])[column].chunks:
            inner = values.flatten()
            flat = inner.flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(inner), -1)

    def pieces(self, number: int) -> Iterator[tuple[list[str], list[NDArray[np.float16]] | None]]:
        """Yield sequences and base embeddings, None where there are none, of one file in order."""
        reader = _mapped(self.files[number])
        for k in range(reader.num_record_batches):
            batch = reader.get_batch(k)
            bases = None
            if self.per_base:
                flat, offsets = _base_matrix(batch.column("per_base"))
                bases = [flat[start:stop] for start, stop in pairwise(offsets.tolist())]
            yield batch.column("sequence").to_pylist(), bases

    def base_embeddings(
        self, number: int, rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float16]]:
        """Yield the base embeddings of some rows of one file, each of shape (length, d)."""
        reader = _mapped(self.files[number])
        counts = [reader.get_batch(k).num_rows for k in range(reader.num_record_batches)]
        starts = np.cumsum([0, *counts])
        batches = np.searchsorted(starts, rows, side="right") - 1
        last = -1
        for row, batch in zip(rows.tolist(), batches.tolist(), strict=True):
            if batch != last:  # neighbours are mostly in one
                flat, offsets = _base_matrix(reader.get_batch(batch).column("per_base"))
                last = batch
            local = row - int(starts[batch])
            yield flat[offsets[local] : offsets[local + 1]]


def _base_matrix(column: pa.ListArray) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """View base embeddings of some rows as one matrix, and where each row's begin and end."""
    inner = column.values
    flat = inner.values.to_numpy(zero_copy_only=False).reshape(-1, inner.type.list_size)
    return flat, column.offsets.to_numpy()


def _mapped(path: Path) -> pa.ipc.RecordBatchFileReader:
    """Open an Arrow file, whole: asked for some of its fields only, Arrow would copy them all."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(path, f"not a readable Arrow file ({error}); make it anew") from error


def _schema(path: Path) -> pa.Schema:
    if path.suffix == ".parquet":
        try:
            return pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(path, f"not a readable Parquet file ({error})") from error
    return _mapped(path).schema


def read_metadata(path: Path) -> dict[str, str]:
    """Return the ``riboray.`` metadata of an Arrow or Parquet file."""
    raw = _schema(path).metadata or {}
    check_schema(path, raw, SCHEMA_VERSION)
    text = {key.decode(): value.decode() for key, value in raw.items()}
    return {
        key.removeprefix("riboray."): v for key, v in text.items() if key.startswith("riboray.")
    }


def open_embeddings(path: str | Path) -> EmbeddingSet:
    """Open a directory that `riboray embed` made, without reading it.

    Parameters
    ----------
    path : str or Path
        The directory.

    Returns
    -------
    EmbeddingSet
        ``ids``, ``views()``, ``to_numpy()``, ``column(name)`` and ``per_base_of(row)``.

    Raises
    ------
    CorpusError
        If it is none, is not complete, or is damaged.
    """
    return EmbeddingSet.open(Path(path))
