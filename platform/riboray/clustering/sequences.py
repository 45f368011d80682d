"""What is clustered: FASTA records, or the rows of a directory of embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from riboray.clustering.config import ClusterConfig
from riboray.corpus.fasta import scan_fasta
from riboray.corpus.records import Reject
from riboray.corpus.sequences import read_sequences
from riboray.embedding.origin import model_of
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CheckpointError, ConfigError, CorpusError, FastaError
from riboray.manifest import MANIFEST_NAME, atomic_path
from riboray.model.bundled import DEFAULT_MODEL
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint

__all__ = ["Sequences", "count_records", "find_model", "open_input"]

#: Sequences looked at together.
ROWS = 10_000


@dataclass(frozen=True)
class Sequences:
    """Sequences in the order of the input.

    Attributes
    ----------
    ids : LargeStringArray
        Unique names without white space.
    texts : LargeStringArray
        Upper case, U for T.
    lengths : ndarray, shape=(n,), dtype=int32
        Nucleotides of each.
    source : str
        Where they come from, for messages.
    rejects : list of Reject
        Records left out.
    stored : EmbeddingSet or None
        Their embeddings, row for row.
    """

    ids: pa.Array
    texts: pa.Array
    lengths: NDArray[np.int32]
    source: str
    rejects: list[Reject] = field(default_factory=list)
    stored: EmbeddingSet | None = None

    @classmethod
    def of_fasta(cls, config: ClusterConfig, *, ambiguity: bool = True) -> Sequences:
        """Read FASTA files.

        Raises
        ------
        FastaError, ConfigError
            As `riboray.corpus.sequences.read_sequences`.
        """
        named = read_sequences(
            config.input,
            duplicate_ids=config.duplicate_ids,
            on_invalid=config.on_invalid,
            ambiguity=ambiguity,
        )
        lengths = np.fromiter(map(len, named.sequences), np.int32, len(named))
        ids, texts = (pa.array(c, pa.large_string()) for c in (named.ids, named.sequences))
        return cls(ids, texts, lengths, ", ".join(config.input), named.rejects)

    @classmethod
    def of_embeddings(cls, stored: EmbeddingSet) -> Sequences:
        """Take the rows of a directory of embeddings.

        Raises
        ------
        CorpusError
            If it is empty, or an id holds white space: FASTA and clusters.tsv cannot.
        """
        if not len(stored):
            raise CorpusError(stored.directory, "holds no embeddings: nothing to cluster")
        ids = _in_one_piece(stored.ids)
        bad = pc.match_substring_regex(ids, r"^$|\s")
        if (row := pc.index(bad, True).as_py()) >= 0:
            reason = f"id {ids[row].as_py()!r} is empty or holds white space"
            raise CorpusError(stored.directory, reason, row + 1)
        lengths = stored.column("length").to_numpy().astype(np.int32)
        texts = _in_one_piece(stored.column("sequence"))
        return cls(ids, texts, lengths, str(stored.directory), stored=stored)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: NDArray[np.integer]) -> tuple[list[str], list[str]]:
        """Return ids and sequences of some rows, in the order asked for."""
        places = pa.array(rows)
        return self.ids.take(places).to_pylist(), self.texts.take(places).to_pylist()

    def pieces(self, rows: NDArray[np.integer]) -> Iterator[tuple[list[str], list[str]]]:
        """Yield ids and sequences of many rows, some at a time."""
        for start in range(0, len(rows), ROWS):
            yield self.take(rows[start : start + ROWS])

    def write_fasta(self, path: Path, rows: NDArray[np.integer]) -> None:
        """Write some rows as FASTA, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as sink:
            for ids, texts in self.pieces(rows):
                sink.writelines(f">{i}\n{t}\n" for i, t in zip(ids, texts, strict=True))


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """Join a column: taking rows of one in pieces joins them every time."""
    whole = column.cast(pa.large_string()).combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def open_input(config: ClusterConfig) -> EmbeddingSet | None:
    """Open the directory of embeddings that is the input, if it is one.

    Raises
    ------
    CorpusError, ConfigError
        If it is another directory, or not the only input.
    """
    folders = [path for path in config.input if Path(path).is_dir()]
    if not folders:
        return None
    if len(config.input) > 1:
        raise ConfigError("give FASTA files, or one directory of embeddings")
    folder = Path(folders[0]).resolve()
    if (folder / "pairs").is_dir() and (folder / MANIFEST_NAME).is_file():
        raise CorpusError(
            folder, "holds compared pairs; give it as --hits, and the sequences as the input"
        )
    return EmbeddingSet.open(folder)


def count_records(config: ClusterConfig) -> int:
    """Count the records of FASTA files, without holding them.

    Raises
    ------
    FastaError
        If a file cannot be read.
    """
    for path in config.input:
        if not Path(path).exists():
            raise FastaError(path, "no such file")
    return sum(scan_fasta(path) for path in config.input)


def find_model(config: ClusterConfig, stored: EmbeddingSet | None) -> LoadedCheckpoint | None:
    """Load the model asked for, or the one that made the embeddings; None if none is needed.

    Raises
    ------
    ConfigError, CheckpointError
        If it is needed and not there, or is not the one that made the embeddings.
    """
    path = config.checkpoint
    needed = config.hits is None or config.alignments
    if path is None and stored is not None:
        try:
            path = model_of(stored.directory)
        except ConfigError:
            if needed:
                raise
    if path is None:
        if not needed:
            return None
        path = DEFAULT_MODEL
    loaded = load_checkpoint(path)
    if stored is not None and loaded.sha256 != stored.model:
        raise CheckpointError(path, f"is not the model that made {stored.directory}")
    return loaded
