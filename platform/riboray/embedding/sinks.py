"""Files of embeddings as they are written: Arrow IPC, Parquet or NumPy matrices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.manifest import atomic_path

__all__ = ["Sink", "open_sink"]


class Sink(Protocol):
    """Where record batches of one part go."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""


@contextmanager
def open_sink(
    kind: str, stem: Path, schema: pa.Schema, rows: int, nucleotides: int
) -> Iterator[tuple[Sink, list[Path]]]:
    """Open the files of a part; they appear, whole, when the ``with`` block ends well.

    Parameters
    ----------
    kind : str
        ``arrow``, ``parquet`` or ``npy``.
    stem : Path
        Path without an ending.
    schema : pa.Schema
        Of the record batches.
    rows, nucleotides : int
        At most; a NumPy file needs to know beforehand.

    Yields
    ------
    tuple
        The sink, and the paths of the files.
    """
    with ExitStack() as stack:
        if kind == "npy":
            yield _open_npy(stack, stem, schema, rows, nucleotides)
            return
        path = stem.with_name(f"{stem.name}.{kind}")
        temporary = stack.enter_context(atomic_path(path))
        if kind == "parquet":
            import pyarrow.parquet as pq

            # Embeddings look random: dictionaries and compression only cost time.
            yield (
                stack.enter_context(
                    pq.ParquetWriter(
                        temporary,
                        schema,
                        compression={
                            n: "none" if _wide(schema, n) else "zstd" for n in schema.names
                        },
                        use_dictionary=[n for n in schema.names if not _wide(schema, n)],
                    )
                ),
                [path],
            )
            return
        sink = stack.enter_context(pa.OSFile(str(temporary), "wb"))
        yield stack.enter_context(pa.ipc.new_file(sink, schema)), [path]


def _wide(schema: pa.Schema, name: str) -> bool:
    return bool(pa.types.is_nested(schema.field(name).type))


class _Matrix:
    """A NumPy file that grows row by row up to a size known beforehand."""

    def __init__(self, path: Path, rows: int, width: int, kind: Any) -> None:
        self._path, self._used = path, 0
        self._rows: NDArray[Any] = np.lib.format.open_memmap(
            path, mode="w+", dtype=kind, shape=(rows, width)
        )
        # Otherwise a full disk would end the process, without a word, when a page is written.
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)

    def append(self, rows: NDArray[Any]) -> None:
        self._rows[self._used : self._used + len(rows)] = rows
        self._used += len(rows)

    def close(self) -> None:
        if self._used < len(self._rows):  # some sequences could not be embedded
            kept = np.array(self._rows[: self._used])
            del self._rows
            with self._path.open("wb") as handle:
                np.save(handle, kept)
        else:
            self._rows.flush()  # type: ignore[attr-defined]


class _NpySink:
    def __init__(self, matrices: dict[str, _Matrix], table: Any, schema: pa.Schema) -> None:
        self._matrices, self._table, self._schema = matrices, table, schema

    def write(self, batch: pa.RecordBatch) -> None:
        for name, matrix in self._matrices.items():
            column = batch.column(batch.schema.get_field_index(name))
            flat = column.flatten()
            if name.startswith("per_base"):
                flat = flat.flatten()
            matrix.append(flat.to_numpy(zero_copy_only=False).reshape(-1, _width(column.type)))
        self._table.write_batch(batch.select(self._schema.names).cast(self._schema))


def _width(kind: pa.DataType) -> int:
    inner = kind if pa.types.is_fixed_size_list(kind) else kind.value_type
    return int(inner.list_size)


def _open_npy(
    stack: ExitStack, stem: Path, schema: pa.Schema, rows: int, nucleotides: int
) -> tuple[Sink, list[Path]]:
    matrices: dict[str, _Matrix] = {}
    paths = []
    for name in schema.names:
        if not _wide(schema, name):
            continue
        kind = schema.field(name).type
        path = stem.with_name(f"{stem.name}.{name}.npy")
        temporary = stack.enter_context(atomic_path(path))
        count = nucleotides if name.startswith("per_base") else rows
        value = kind.value_type if pa.types.is_fixed_size_list(kind) else kind.value_type.value_type
        matrices[name] = _Matrix(temporary, count, _width(kind), value.to_pandas_dtype())
        stack.callback(matrices[name].close)
        paths.append(path)
    plain = pa.schema([f for f in schema if f.name not in matrices], schema.metadata)
    path = stem.with_name(f"{stem.name}.arrow")
    sink = stack.enter_context(pa.OSFile(str(stack.enter_context(atomic_path(path))), "wb"))
    table = stack.enter_context(pa.ipc.new_file(sink, plain))
    return _NpySink(matrices, table, plain), [*paths, path]
