"""Embeddings of one part of the input."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from riboray.corpus.screening import Block
from riboray.embedding.config import EmbedConfig
from riboray.embedding.embedder import Embedded, Embedder, Wanted
from riboray.embedding.likelihood import Likelihoods, log_likelihoods
from riboray.embedding.parts import Maker, Note, Product
from riboray.embedding.pooling import normalised
from riboray.embedding.schema import column_name, embedding_schema, ragged
from riboray.embedding.store import EMBEDDINGS_KIND
from riboray.model.checkpoint import load_checkpoint
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["EMBEDDINGS", "EmbeddingMaker", "cached_embedder"]

EMBEDDINGS = Product(
    EMBEDDINGS_KIND, "embedding", "embedded", "riboray.embedding.shards:EmbeddingMaker"
)

#: Nucleotides, and rows, that are embedded together and written as one record batch with base
#: embeddings, which are in memory all at once.
_GROUP_NUCLEOTIDES, _GROUP_ROWS = 200_000, 256

#: Sequences on which lower precision is compared with float32.
_SAMPLE = 64


@lru_cache(maxsize=2)
def cached_embedder(checkpoint: str) -> Embedder:
    """Load a model once a process, on one thread: there is a process for every CPU."""
    torch.set_num_threads(1)
    return Embedder(load_checkpoint(checkpoint).model)


class EmbeddingMaker(Maker):
    """Embeds parts and writes them; see `Maker`."""

    def prepare(self, model: RnaBertForPreTraining) -> None:
        """Take the model, and set the schema."""
        job, config = self.job, self.job.config
        assert isinstance(config, EmbedConfig)
        self.config, self._model = config, model
        self.file_format = config.format
        self.embedder = Embedder(
            model,
            token_budget=config.token_budget,
            device=job.device,
            precision=job.precision,
            compile=config.compile,
        )
        self.wanted = Wanted(job.layers, config.pooling, config.per_base)
        if config.per_base:
            self.most_nucleotides, self.most_rows = _GROUP_NUCLEOTIDES, _GROUP_ROWS
        metadata = {
            "model": job.model,
            "identity": job.identity,
            "pooling": config.pooling,
            "layer": ",".join(map(str, job.layers)),
            "padding": self.embedder.config.padding,
            "dtype": config.dtype,
            "precision": job.precision,
            "normalised": str(config.normalise).lower(),
        }
        self.schema = embedding_schema(
            self.embedder.width,
            config.dtype,
            metadata,
            layers=job.layers,
            per_base=config.per_base_dtype if config.per_base else None,
            likelihood=config.log_likelihood != "none",
            annotations=job.annotations,
        )
        self._error: float | None = None

    def look_at(self, block: Block, note: Note) -> None:
        """Note what lower precision changes."""
        if self.job.precision != "float32" and self._error is None:
            self._error = self._precision_error(block)
        if self._error is not None:
            note["precision_error"] = self._error

    def compute(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Embed sequences, and say how likely they are if that is wanted."""
        made = self.embedder.embed(texts, self.wanted)
        scores = None
        if self.config.log_likelihood != "none":
            exact = self.config.log_likelihood == "exact"
            scores = log_likelihoods(self.embedder, texts, exact=exact)
            made.failed |= scores.failed
        for index, reason in self._unfit(made).items():
            made.failed.setdefault(index, reason)
        return (made, scores), made.failed

    def _unfit(self, made: Embedded) -> dict[int, str]:
        """Find embeddings that overflow the type they are to be stored in."""
        unfit: dict[int, str] = {}
        limit = np.finfo(np.float16).max
        config = self.config
        for rows in made.pooled.values() if config.dtype == "float16" else ():
            for index in np.flatnonzero(np.abs(rows).max(axis=1, initial=0) > limit).tolist():
                unfit[index] = "its embedding does not fit float16; use --dtype float32"
        if config.per_base_dtype == "float16":
            for layer in made.per_base.values():
                for index, rows in enumerate(layer):
                    if np.abs(rows).max(initial=0) > limit:
                        unfit[index] = "its embeddings do not fit float16: --per-base-dtype float32"
        return unfit

    def columns(self, made: Any, kept: NDArray[np.intp], texts: list[str]) -> dict[str, pa.Array]:
        """Show embeddings and likelihoods."""
        embedded: Embedded
        scores: Likelihoods | None
        embedded, scores = made
        columns, width = {}, self.embedder.width
        for layer in self.job.layers:
            pooled = embedded.pooled[layer][kept]
            pooled = normalised(pooled) if self.config.normalise else pooled
            flat = pooled.astype(self.config.dtype).ravel()
            name = column_name("embedding", layer, self.job.layers)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
            if self.wanted.per_base:
                bases = [embedded.per_base[layer][k] for k in kept.tolist()]
                name = column_name("per_base", layer, self.job.layers)
                columns[name] = ragged(bases, width, self.config.per_base_dtype)
        if scores is not None:
            columns["log_likelihood"] = pa.array(scores.sums[kept].astype(np.float32))
            columns["pseudo_perplexity"] = pa.array(scores.perplexities[kept].astype(np.float32))
        return columns

    def _precision_error(self, block: Block) -> float:
        """Return the largest difference that lower precision makes to a sample of sequences."""
        texts = [block.sequences.text(row) for row in range(min(_SAMPLE, len(block)))]
        texts = [text[: self.job.given.width] for text in texts]
        wanted = Wanted(self.job.layers, self.config.pooling)
        exact = Embedder(self._model, device=self.job.device)
        ours, theirs = self.embedder.embed(texts, wanted), exact.embed(texts, wanted)
        return max(float(np.abs(ours.pooled[k] - theirs.pooled[k]).max()) for k in self.job.layers)
