"""Rows to align of a whole database, on disk: one file of them for every file of embeddings.

Where candidates lie all over a database, the rows of any sequence must be at hand, and those of all
do not fit into memory. These files are mapped, so that processes of one machine share what the
operating system keeps of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.sides import Side
from riboray.alignment.similarity import RowMaker, SequenceSet
from riboray.embedding.shards import cached_embedder
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CorpusError
from riboray.manifest import atomic_path

__all__ = ["RowFiles"]

#: Sequences whose base embeddings are in memory together while rows are made.
_PIECE = 512


@dataclass(frozen=True)
class RowFiles:
    """Rows of the sequences of a database.

    Attributes
    ----------
    folder : Path
        Where the files lie: ``00000.rows``, float16 of shape (nucleotides, width), and
        ``00000.text``, the sequences as ASCII.
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
            for texts, bases in self._pieces(number):
                text.write("".join(texts).encode())
                sink.write(self.maker.rows(bases).astype("<f2").tobytes())

    def _pieces(self, number: int) -> Iterator[tuple[list[str], list[NDArray[np.floating]]]]:
        """Yield sequences and base embeddings of a file, some at a time."""
        count = self.database.rows[number]
        for start in range(0, count, _PIECE):
            local = np.arange(start, min(start + _PIECE, count))
            texts = self.database.take(number, local, ["sequence"])["sequence"].to_pylist()
            if self.database.per_base:
                yield texts, list(self.database.base_embeddings(number, local))
            else:
                yield texts, list(cached_embedder(self.checkpoint).per_base(texts))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every sequence, in nucleotides."""
        lengths: NDArray[np.int64] = self.database.column("length").to_numpy().astype(np.int64)
        return lengths

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(np.concatenate([[0], self.lengths]), dtype=np.int64)

    def _mapped(self, number: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Map the rows and the text of a file of the database."""
        first, stop = self.database.starts[number : number + 2]
        size = int(self._starts[stop] - self._starts[first])
        try:
            rows = np.memmap(self.path(number), "<f2", "r", shape=(size, self.width))
            text = np.memmap(self._text(number), np.uint8, "r", shape=(size,))
        except (OSError, ValueError) as error:
            reason = f"does not hold what it was made for ({error}); remove it"
            raise CorpusError(self.path(number), reason) from error
        return rows, text

    def side(self, rows: NDArray[np.int64]) -> Side:
        """Read some sequences, by global row number, in the order given; longest first is best."""
        lengths = self.lengths[rows]
        starts = np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)
        embeddings = np.empty((int(starts[-1]), self.width), np.float16)
        nucleotides = np.empty(int(starts[-1]), np.uint8)
        for number, places, local in self.database.by_file(rows):
            source, text = self._mapped(number)
            first = int(self.database.starts[number])
            origin = self._starts[first + local] - self._starts[first]
            taken, put = _ranges(origin, lengths[places]), _ranges(starts[places], lengths[places])
            embeddings[put] = source[taken]
            nucleotides[put] = text[taken]
        return Side(SequenceSet(embeddings.astype(np.float32), starts), nucleotides)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join ranges of numbers."""
    ends = np.cumsum(lengths)
    offsets = np.repeat(starts - (ends - lengths), lengths)
    ranges: NDArray[np.int64] = offsets + np.arange(int(ends[-1]) if len(ends) else 0)
    return ranges
