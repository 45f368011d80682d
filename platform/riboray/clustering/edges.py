"""From compared pairs to the edges of a graph: which pairs are linked, and what an edge weighs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from riboray.alignment.hits import SCHEMA_VERSION as HITS_VERSION
from riboray.alignment.store import ALIGNMENTS_KIND
from riboray.clustering.config import ClusterConfig, Weight
from riboray.clustering.graph import EdgeCollector
from riboray.clustering.sequences import Sequences
from riboray.errors import CorpusError
from riboray.manifest import check_schema, read_manifest, sha256_file

__all__ = ["Hits", "collect_edges", "edge_weights", "link", "needed_values", "open_hits"]

#: Pairs looked at together.
_ROWS = 1 << 20

#: Column that a weight is made from.
_COLUMN: dict[Weight, str] = {
    "calibrated": "z_score",
    "z_score": "z_score",
    "normalised_score": "score",
    "score": "score",
    "identity": "identity",
}

#: What pairs.tsv calls a column.
_IN_TSV = {"identity": "fident"}


def edge_weights(
    weight: Weight, values: NDArray[np.floating], shorter: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Say how similar pairs are.

    Parameters
    ----------
    weight : Weight
        ``calibrated``: the z-score over the square root of the shorter length. A z-score is a
        sum of as many parts as nucleotides over a spread that grows as its square root; so this is
        the excess over chance per nucleotide, whatever the length. ``normalised_score``: the
        score over the shorter length. The others are taken as they are.
    values : ndarray, shape=(k,)
        z-scores, scores or identities.
    shorter : ndarray, shape=(k,), dtype=int32
        Length of the shorter sequence of each pair.

    Returns
    -------
    ndarray, shape=(k,), dtype=float32
        Pairs that are not above 0 are not linked.
    """
    result: NDArray[np.floating] = values
    if weight == "calibrated":
        result = values / np.sqrt(shorter)
    elif weight == "normalised_score":
        result = values / shorter
    return result.astype(np.float32)


@dataclass(frozen=True)
class Hits:
    """Pairs on disk.

    Attributes
    ----------
    path : Path
        The directory, or the TSV file.
    files : tuple of Path
        Arrow files, or the TSV file.
    evalue_scale : float
        What their E-values are multiplied with to be about one sequence against all.
    identity : str
        Hash of what they are.
    """

    path: Path
    files: tuple[Path, ...]
    evalue_scale: float
    identity: str

    def batches(self, columns: list[str]) -> Iterator[tuple[Path, pa.Table]]:
        """Yield pairs, some at a time, with the file they are from.

        Raises
        ------
        CorpusError
            If a file cannot be read or lacks a column.
        """
        for path in self.files:
            read = _read_arrow if path.suffix == ".arrow" else _read_tsv
            for table in read(path, ["query", "target", *columns]):
                yield path, table


def open_hits(path: str) -> Hits:
    """Open what `riboray align --all-pairs` or `riboray search` made, or a TSV file.

    Raises
    ------
    CorpusError
        If it is neither, or not complete.
    """
    found = Path(path).resolve()
    if found.is_file():
        return Hits(found, (found,), 1.0, sha256_file(found))
    if not found.exists():
        raise CorpusError(found, "no such directory or file")
    manifest = read_manifest(found, ALIGNMENTS_KIND)
    if manifest is None:
        raise CorpusError(
            found,
            "no complete comparison here; make it with `riboray align --all-pairs` or "
            "`riboray search`",
        )
    files = tuple(found / e.name for e in manifest.files if e.name.startswith("pairs/"))
    counts, scale = manifest.counts, 1.0
    if "sequences_aligned" in counts:  # E-values of all pairs, not of one query
        scale = (counts["sequences_aligned"] - 1) / max(counts["pairs_compared"], 1)
    return Hits(found, files, scale, manifest.fingerprint)


def _lacks(path: Path, name: str, there: list[str]) -> CorpusError:
    hint = "; give the directory instead of the table" if name == "z_score" else ""
    return CorpusError(path, f"has no column {name!r}; there are {', '.join(there)}{hint}")


def _read_arrow(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            check_schema(path, table.schema.metadata, HITS_VERSION)
            for name in columns:
                if name not in table.column_names:
                    raise _lacks(path, name, table.column_names)
            table = table.select(columns)
            for start in range(0, len(table), _ROWS):
                yield table.slice(start, _ROWS)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(path, f"not a readable Arrow file ({error})") from error


def _read_tsv(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Read a table with a header; names are text, whatever they look like."""
    parse = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    names = [_IN_TSV.get(name, name) for name in columns]
    kinds = {name: pa.string() if k < 2 else pa.float64() for k, name in enumerate(names)}
    try:
        with path.open("rb") as source:
            header = source.readline().decode("utf-8").rstrip("\r\n").split("\t")
        for name in names:
            if name not in header:
                raise _lacks(path, name, header)
        convert = pa.csv.ConvertOptions(
            column_types=kinds, include_columns=names, strings_can_be_null=False
        )
        read = pa.csv.ReadOptions(block_size=16 << 20)
        with pa.csv.open_csv(path, read, parse, convert) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch]).rename_columns(columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(path, f"not a table of pairs ({' '.join(str(error).split())})") from error


def _rows_of(path: Path, column: pa.ChunkedArray, sequences: Sequences) -> NDArray[np.int32]:
    """Translate names to rows; each name of a batch is looked up once."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    parts = [np.empty(0, np.int32)]
    for chunk in column.chunks:
        names = chunk.dictionary.cast(sequences.ids.type)
        rows = pc.index_in(names, value_set=sequences.ids)
        if rows.null_count:
            codes = chunk.indices.to_numpy()
            missing = np.asarray(rows.is_null())
            used = np.flatnonzero(missing[codes])
            if len(used):
                name = names[int(codes[used[0]])].as_py()
                raise CorpusError(
                    path,
                    f"names {name!r}, which is none of the {len(sequences):,} sequences of "
                    f"{sequences.source}; give the sequences that were compared",
                )
            rows = rows.fill_null(0)
        parts.append(rows.to_numpy().astype(np.int32)[chunk.indices.to_numpy()])
    return np.concatenate(parts)


def _numbers(path: Path, table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table[name]
    if column.null_count:
        raise CorpusError(
            path,
            f"has no values of {name}: the pairs were compared without statistics; use --weight "
            "normalised_score with --min-normalised-score, without --max-evalue",
        )
    numbers: NDArray[Any] = column.to_numpy()
    return numbers.astype(np.float64)


def needed_values(config: ClusterConfig) -> list[str]:
    """Return what `link` needs to know of a pair."""
    needed = [_COLUMN[config.weight]]
    if config.method != "spectral" and config.max_evalue is not None:
        needed.append("evalue")
    if config.method != "spectral" and config.min_normalised_score is not None:
        needed.append("score")
    return list(dict.fromkeys(needed))


def collect_edges(
    hits: Hits, sequences: Sequences, config: ClusterConfig, collector: EdgeCollector
) -> int:
    """Add the pairs that pass the thresholds to a graph.

    Parameters
    ----------
    hits : Hits
        The pairs.
    sequences : Sequences
        The nodes.
    config : ClusterConfig
        Thresholds and weight. Of spectral clustering, which takes every pair, the weight alone.
    collector : EdgeCollector
        Where the edges go.

    Returns
    -------
    int
        Pairs read.

    Raises
    ------
    CorpusError
        If a pair names a sequence that is not there, or what is needed was not computed.
    """
    needed = needed_values(config)
    read = 0
    for path, table in hits.batches(needed):
        read += len(table)
        one = _rows_of(path, table["query"], sequences)
        other = _rows_of(path, table["target"], sequences)
        shorter = np.minimum(sequences.lengths[one], sequences.lengths[other])
        values = {name: _numbers(path, table, name) for name in needed}
        kept, weights = link(config, values, shorter, hits.evalue_scale)
        collector.add(one[kept], other[kept], weights[kept])
    return read


def link(
    config: ClusterConfig,
    values: Mapping[str, NDArray[np.floating]],
    shorter: NDArray[np.integer],
    evalue_scale: float = 1.0,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Decide which pairs are linked, and what their edges weigh.

    Parameters
    ----------
    config : ClusterConfig
        Thresholds and weight.
    values : mapping of str to ndarray, shape=(k,)
        ``score``, ``z_score``, ``evalue``, ``identity``: those that `needed_values` names.
    shorter : ndarray, shape=(k,)
        Length of the shorter sequence of each pair.
    evalue_scale : float
        What E-values are multiplied with to be about one sequence against all.

    Returns
    -------
    kept : ndarray, shape=(k,), dtype=bool
    weights : ndarray, shape=(k,), dtype=float32
        Of all pairs.
    """
    weights = edge_weights(config.weight, values[_COLUMN[config.weight]], shorter)
    kept = np.ones(len(shorter), bool)
    if config.method == "spectral":
        return kept, weights
    if config.max_evalue is not None:
        # A hair more: the comparison itself may have stopped at this very value.
        kept &= values["evalue"] * evalue_scale <= config.max_evalue * (1 + 1e-6)
    if config.min_normalised_score is not None:
        kept &= values["score"] / shorter >= config.min_normalised_score
    return kept, weights
