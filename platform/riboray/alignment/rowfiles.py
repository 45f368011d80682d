"""Rows to align of a whole database, on disk: one file of them for every file of embeddings.

Where candidates lie all over a database, the rows of any sequence must be at hand, and those of all
do not fit into memory. These files are mapped, so that processes of one machine share what the
operating system keeps of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riboray.alignment.sides import Side
from riboray.alignment.similarity import RowMaker, SequenceSet
from riboray.corpus.strings import Strings, copy_slices
from riboray.embedding.shards import cached_embedder
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = ["RowFiles"]

#: Steps from 0 to 1. Entries of unit rows, and of their projections, lie between -1 and 1; float16
#: takes as much room and, on a CPU, ten times as long to read.
_STEPS = 32767
_STEP = np.float32(1 / _STEPS)


@dataclass(frozen=True)
class RowFiles:
    """Rows of the sequences of a database.

    Attributes
    ----------
    folder : Path
        Where the files lie: ``00000.rows``, int16 of shape (nucleotides, width), in steps of
        1/32,767, and ``00000.text``, the sequences as ASCII.
    database : EmbeddingSet
        Whose sequences they are.
    width : int
        Dimensions of a row.
    maker : RowMaker
        Makes rows of base embeddings.
    checkpoint : str
        Model that embeds the sequences if the database holds no base embeddings.
    """

    folder: Path
    database: EmbeddingSet
    width: int
    maker: RowMaker
    checkpoint: str

    def path(self, number: int) -> Path:
        """Return where the rows of a file of the database are."""
        return self.folder / f"{number:05d}.rows"

    def _text(self, number: int) -> Path:
        return self.path(number).with_suffix(".text")

    def make(self, number: int) -> None:
        """Write the rows of one file of the database."""
        with (
            atomic_path(self._text(number)) as text_part,
            atomic_path(self.path(number)) as part,
            text_part.open("wb") as text,
            part.open("wb") as sink,
        ):
            for texts, stored in self.database.pieces(number):
                bases = stored or cached_embedder(self.checkpoint).per_base(texts)
                text.write("".join(texts).encode())
                rows = np.rint(np.clip(self.maker.rows(bases), -1, 1) * _STEPS)
                sink.write(rows.astype("<i2").tobytes())

    def begin(self, lengths: NDArray[np.integer]) -> None:
        """Note the length of every sequence, shape (n,), in nucleotides; before anything else."""
        path = self.folder / "lengths.npy"
        if not path.is_file():
            with atomic_path(path) as temporary, temporary.open("wb") as sink:
                np.save(sink, np.asarray(lengths, np.int64))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every sequence, in nucleotides."""
        return np.asarray(np.load(self.folder / "lengths.npy", mmap_mode="r"))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return _offsets(self.lengths)

    def texts(self, rows: NDArray[np.int64]) -> Strings:
        """Return the sequences of some rows, by global row number, in the order given."""
        lengths = self.lengths[rows]
        offsets = _offsets(lengths)
        data = np.empty(int(offsets[-1]), np.uint8)
        for number, places, local in self.database.by_file(rows):
            origin = self._origin(number, local)
            _, text = self._mapped(number)
            copy_slices(text, origin, data, offsets[places], lengths[places])
        return Strings(data, offsets)

    def side(self, rows: NDArray[np.int64]) -> Side:
        """Read some sequences, by global row number, in the order given; longest first is best."""
        lengths, width = self.lengths[rows], self.width
        starts = _offsets(lengths)
        embeddings = np.empty(int(starts[-1]) * width, np.float32)
        for number, places, local in self.database.by_file(rows):
            origin = self._origin(number, local)
            source, _ = self._mapped(number)
            sizes = lengths[places] * width
            _read_rows(source, origin * width, embeddings, starts[places] * width, sizes)
        sequences = SequenceSet(embeddings.reshape(-1, width), starts)
        return Side(sequences, self.texts(rows).data)

    def _origin(self, number: int, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where sequences of a file begin in it."""
        first = int(self.database.starts[number])
        origin: NDArray[np.int64] = self._starts[first + local] - self._starts[first]
        return origin

    def _mapped(self, number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Map the rows and the text of a file of the database."""
        first, stop = self.database.starts[number : number + 2]
        size = int(self._starts[stop] - self._starts[first])
        path = self.path(number)
        return _map(path, "<i2", size * self.width), _map(self._text(number), "u1", size)


@lru_cache(maxsize=4096)
def _map(path: Path, kind: str, size: int) -> NDArray[Any]:
    """Map a file, once in a process: what was read of it stays at hand."""
    try:
        return np.asarray(np.memmap(path, kind, "r", shape=(size,)))
    except (OSError, ValueError) as error:
        reason = f"does not hold what it was made for ({error}); remove it"
        raise CorpusError(path, reason) from error


@njit(nogil=True, cache=True)
def _read_rows(
    data: NDArray[np.int16],
    sources: NDArray[np.int64],
    out: NDArray[np.float32],
    targets: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Copy pieces of one array to places in another, from steps to numbers."""
    for k in range(len(sources)):
        source, target = sources[k], targets[k]
        for i in range(lengths[k]):
            out[target + i] = np.float32(data[source + i]) * _STEP


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
