"""The verb `verify`: whether embeddings are what their manifest says and their model makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.console import say
from riboray.corpus.strings import Strings, hash_rows
from riboray.embedding.embedder import Embedder, Wanted
from riboray.embedding.origin import model_of
from riboray.embedding.pooling import normalised
from riboray.embedding.schema import column_name
from riboray.embedding.store import EMBEDDINGS_KIND, EmbeddingSet
from riboray.errors import CheckpointError, ConfigError, CorpusError
from riboray.manifest import Manifest, read_manifest
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint

__all__ = ["VerifyConfig", "verify"]

#: Largest difference between a stored number and a recomputed one. float32: other batches and other
#: machines round otherwise, by about 1e-6 for numbers of the size of 1, on a GPU by 1.5e-4 at most
#: of 2.4 million numbers. float16 has 11 bits, and a number of up to 16 is stored to half of 2^-7.
#: bfloat16 arithmetic has 8 bits in every layer; single sequences come out quite other (a cosine of
#: 0.84 to themselves in 20,000), so that of these, 19 numbers in 20 must agree.
_TOLERANCES = {"float32": 5e-4, "float16": 1e-2, "bfloat16": 1.0}


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a directory of embeddings: ``riboray verify EMBEDDINGS``.

    Every file is hashed, every row counted, every length added up; ids must be unique, and a sample
    is embedded again and compared.
    """

    POSITIONAL: ClassVar[str] = "embeddings"

    embeddings: list[str] = field(default_factory=list)
    """Directory that `riboray embed` made; may be given without the flag."""
    checkpoint: str | None = None
    """The model, if it is not where it was when the embeddings were made."""
    sample: int = 64
    """Sequences to embed again."""
    seed: int = 0
    """Which ones."""

    def __post_init__(self) -> None:
        if len(self.embeddings) != 1:
            raise ConfigError(f"give one directory of embeddings, not {len(self.embeddings)}")
        if self.sample < 0:
            raise ConfigError(f"sample must not be negative, not {self.sample}")


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Check a directory of embeddings; return what was found.

    Raises
    ------
    CorpusError
        At the first thing that is not as it should be; it names the file.
    ConfigError, CheckpointError
        If the model cannot be found, or is another one.
    """
    directory = Path(config.embeddings[0]).resolve()
    manifest = read_manifest(directory, EMBEDDINGS_KIND, verify=True)
    stored = EmbeddingSet.open(directory)  # says so if there is no manifest
    assert manifest is not None
    say(f"  {len(manifest.files)} files have the content that the manifest says")
    _recount(stored, manifest)
    counts = manifest.counts
    say(
        f"  {counts['sequences_read']:,} read = {counts['sequences_embedded']:,} embedded + "
        f"{counts['sequences_rejected']:,} rejected + {counts['sequences_failed']:,} failed"
    )
    difference, compared = None, 0
    if config.sample:
        loaded = _model(config, stored)
        difference, compared = _embed_again(config, stored, loaded)
        say(f"  {compared} sequences embedded again: largest difference {difference:.2g}")
    return {
        "embeddings": str(directory),
        **counts,
        "files": len(manifest.files),
        "compared": compared,
        "largest_difference": difference,
    }


def _recount(stored: EmbeddingSet, manifest: Manifest) -> None:
    """Compare rows, lengths, ids and rejects with what the manifest says."""
    counts, nucleotides = manifest.counts, 0
    hashes = []
    for number, path in enumerate(stored.files):
        table = stored.table(number, ["id", "length", "sequence"])
        if len(table) != stored.rows[number]:
            raise CorpusError(path, f"has {len(table)} rows, not {stored.rows[number]}")
        lengths = table["length"].to_numpy()
        if not np.array_equal(Strings.from_arrow(table["sequence"]).lengths, lengths):
            raise CorpusError(path, "has lengths that are not those of its sequences")
        _check_matrices(stored, number, lengths)
        nucleotides += int(lengths.sum())
        ids = Strings.from_arrow(table["id"])
        hashes.append(hash_rows(ids.data, ids.offsets))
    if nucleotides != counts["nucleotides"]:
        reason = f"holds {nucleotides} nucleotides, not {counts['nucleotides']}"
        raise CorpusError(stored.directory, reason)
    every = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    if len(np.unique(every)) < len(every):
        raise CorpusError(stored.directory, "holds an id twice")
    rejects = stored.directory / "rejects.parquet"
    left = pq.read_table(rejects, columns=["outcome"])["outcome"] if rejects.is_file() else []
    outcomes = Counter(map(str, left))
    found = (len(stored), outcomes["rejected"], outcomes["failed"])
    told = tuple(counts[f"sequences_{name}"] for name in ("embedded", "rejected", "failed"))
    if found != told or counts["sequences_read"] != sum(found):
        reason = (
            f"{counts['sequences_read']} read = {told} in the manifest, but {found} in the files"
        )
        raise CorpusError(stored.directory, reason)


def _check_matrices(stored: EmbeddingSet, number: int, lengths: NDArray[np.int32]) -> None:
    """Check the shapes of a file's embeddings, and that all are finite."""
    layers = stored.details["layers"]
    for layer in layers:
        rows = stored.views_of(number, column_name("embedding", layer, layers))
        if len(rows) != len(lengths) or not np.isfinite(rows).all():
            raise CorpusError(stored.files[number], "has embeddings missing or not finite")
        if stored.per_base:
            name = column_name("per_base", layer, layers)
            whole = np.array_equal(stored.base_counts(number, name), lengths)
            if not whole or not all(np.isfinite(b).all() for b in stored.bases(number, name)):
                raise CorpusError(stored.files[number], "has base embeddings missing or not finite")


def _model(config: VerifyConfig, stored: EmbeddingSet) -> LoadedCheckpoint:
    path = config.checkpoint or model_of(stored.directory)
    loaded = load_checkpoint(path)
    if loaded.sha256 != stored.model:
        raise CheckpointError(path, "is not the model that made the embeddings")
    return loaded


def _embed_again(
    config: VerifyConfig, stored: EmbeddingSet, loaded: LoadedCheckpoint
) -> tuple[float, int]:
    """Embed a sample; return the largest difference and the number of sequences."""
    generator = np.random.default_rng(config.seed)
    count = min(config.sample, len(stored))
    rows = np.sort(generator.choice(len(stored), count, replace=False))
    layers = tuple(stored.details["layers"])
    embedder, worst = Embedder(loaded.model), 0.0
    for number, _, local in stored.by_file(rows):
        texts = stored.take(number, local, ["sequence"])["sequence"].to_pylist()
        made = embedder.embed(texts, Wanted(layers, stored.pooling, stored.per_base))
        for layer in layers:
            pooled = made.pooled[layer]
            pooled = normalised(pooled) if stored.details["normalised"] else pooled
            kept = stored.views_of(number, column_name("embedding", layer, layers))[local]
            worst = max(worst, _compare(stored, number, kept, pooled))
            if stored.per_base:
                name = column_name("per_base", layer, layers)
                for k, row in enumerate(local.tolist()):
                    bases = stored.per_base_of(int(stored.starts[number]) + row, name)
                    worst = max(worst, _compare(stored, number, bases, made.per_base[layer][k]))
    return worst, count


def _compare(
    stored: EmbeddingSet, number: int, kept: NDArray[Any], made: NDArray[np.float32]
) -> float:
    differences = np.abs(kept.astype(np.float32) - made)
    found = float(differences.max(initial=0))
    limit, measure = _TOLERANCES[str(kept.dtype)], found
    if stored.details["precision"] != "float32" and differences.size:
        limit, measure = _TOLERANCES["bfloat16"], float(np.quantile(differences, 0.95))
    if not measure <= limit:  # also if it is not a number
        reason = f"embeddings differ by {measure:.2g} from what the model makes (limit {limit:g})"
        raise CorpusError(stored.files[number], reason)
    return found
