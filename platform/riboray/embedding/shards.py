"""One part of the input, embedded and written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from riboray.corpus.screening import Block
from riboray.corpus.strings import Strings
from riboray.embedding.config import EmbedConfig
from riboray.embedding.embedder import Embedded, Embedder, Wanted
from riboray.embedding.likelihood import Likelihoods, log_likelihoods
from riboray.embedding.planning import Part, PlanRules
from riboray.embedding.pooling import normalised
from riboray.embedding.reading import Admitted, admit
from riboray.embedding.sinks import open_sink
from riboray.embedding.store import column_name, embedding_schema
from riboray.errors import RiborayError
from riboray.manifest import FileEntry, write_json
from riboray.model.checkpoint import load_checkpoint

__all__ = ["Job", "Note", "PartMaker", "cached_embedder", "read_note"]

#: Nucleotides, and rows, that are embedded together and written as one record batch, without and
#: with base embeddings, which are in memory all at once.
_GROUP_NUCLEOTIDES = {False: 1 << 62, True: 200_000}
_GROUP_ROWS = {False: 1 << 62, True: 256}

#: Sequences on which lower precision is compared with float32.
_SAMPLE = 64

Note = dict[str, Any]
"""What became of a part: files, counts, and records left out. JSON can hold it."""


@dataclass(frozen=True)
class Job:
    """What every part needs to know.

    Attributes
    ----------
    config : EmbedConfig
        The options.
    directory : str
        Output directory.
    identity : str
        Hash of all that decides the result.
    model : str
        sha256 of the weights.
    checkpoint : str
        Where they are.
    layers : tuple of int
        Layers wanted, from 0 on.
    annotations : tuple of str
        Columns of the input to carry along.
    given : PlanRules
        Which records are embedded.
    stems : tuple of str
        What files are called after each input.
    device : str
        Torch device.
    precision : str
        ``float32`` or ``bfloat16``.
    """

    config: EmbedConfig
    directory: str
    identity: str
    model: str
    checkpoint: str
    layers: tuple[int, ...]
    annotations: tuple[str, ...]
    given: PlanRules
    stems: tuple[str, ...]
    device: str
    precision: str

    def stem(self, part: Part) -> Path:
        """Return the path of a part's files, without ending; names sort as the input does."""
        return Path(self.directory) / f"{part.number:06d}-{self.stems[part.source]}"

    @property
    def plan(self) -> Path:
        """Path of the plan that every process reads."""
        return Path(self.directory) / "work" / "plan.json"

    def note(self, part: Part) -> Path:
        """Return the path of a part's note, which is written last."""
        return Path(self.directory) / "work" / f"{part.number:06d}.json"


def stem_of(path: str) -> str:
    """Return the name of an input file without its endings, fit for a file name."""
    name = re.split(r"[?#]", path.rstrip("/"))[0].rsplit("/", 1)[-1]
    bare = re.sub(r"(\.(b?gz|fa|fasta|fna|ffn|frn|fas|fsa|parquet))+$", "", name, flags=re.I)
    name = re.sub(r"[^\w.-]", "_", bare).encode()[:80].decode("utf-8", "ignore")
    return name.strip(".") or "input"


@lru_cache(maxsize=2)
def cached_embedder(checkpoint: str) -> Embedder:
    """Load a model once a process, on one thread: there is a process for every CPU."""
    torch.set_num_threads(1)
    return Embedder(load_checkpoint(checkpoint).model)


def read_note(job: Job, part: Part) -> Note | None:
    """Return the note of a part that is done, else None."""
    path = job.note(part)
    if not path.is_file():
        return None
    try:
        note: Note = json.loads(path.read_text("utf-8"))
        for entry in note["files"]:
            if (Path(job.directory) / entry["name"]).stat().st_size != entry["bytes"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if note.get("identity") == job.identity else None


class PartMaker:
    """Embeds parts and writes them; there is one in every process.

    Parameters
    ----------
    job : Job
        The run.
    """

    def __init__(self, job: Job) -> None:
        if job.device == "cpu":
            torch.set_num_threads(1)
        self.job = job
        self._model = load_checkpoint(job.checkpoint)
        if self._model.sha256 != job.model:
            raise RiborayError(f"{job.checkpoint} has changed since the run began")
        config = job.config
        self.embedder = Embedder(
            self._model.model,
            token_budget=config.token_budget,
            device=job.device,
            precision=job.precision,
            compile=config.compile,
        )
        self.wanted = Wanted(job.layers, config.pooling, config.per_base)
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

    def make(self, part: Part, block: Block) -> Note:
        """Embed a part and commit it. Done twice, after a crash, it is the same files again.

        Raises
        ------
        RiborayError
            If none of several sequences can be embedded: then it is not them.
        """
        if (done := read_note(self.job, part)) is not None:
            return done
        found = admit(block, self.job.given.rules)
        admitted, left = self._named(part, found)
        note: Note = {
            "identity": self.job.identity,
            "rows": 0,
            "nucleotides": 0,
            "truncated": 0,
            "left": left,
        }
        if self.job.precision != "float32" and self._error is None and len(admitted.ids):
            self._error = self._precision_error(admitted)
        if self._error is not None:
            note["precision_error"] = self._error
        paths: list[Path] = []
        if len(admitted.ids):
            sink = open_sink(
                self.job.config.format,
                self.job.stem(part),
                self.schema,
                len(admitted.ids),
                part.nucleotides,
            )
            with sink as (writer, paths):
                for rows in self._groups(admitted):
                    writer.write(self._batch(part, admitted, rows, note))
        if len(admitted.ids) > 1 and not note["rows"]:
            for path in paths:
                path.unlink(missing_ok=True)
            raise RiborayError(f"no sequence can be embedded; the first: {note['left'][-1][3]}")
        count = note["rows"]
        note["files"] = [vars(FileEntry.of(path, count)) for path in paths]
        note["left"].sort()
        write_json(self.job.note(part), note)
        return note

    def _named(self, part: Part, found: Admitted) -> tuple[Block, list[list[Any]]]:
        """Give rows their final ids; leave out second records of an id."""
        before = part.before
        left = [[before + x.record, x.id, "rejected", x.reason] for x in found.left]
        block = found.block
        if not part.renamed:
            return block, left
        names = [block.ids.text(row) for row in range(len(block))]
        gone = []
        for row, name in part.renamed:
            if name is None:
                reason = f"another record is called {names[row]!r} too"
                left.append([before + int(block.records[row]), names[row], "rejected", reason])
                gone.append(row)
            else:
                names[row] = name
        named = replace(block, ids=Strings.of(names))
        return named.take(np.delete(np.arange(len(block)), gone)), left

    def _groups(self, block: Block) -> Iterator[NDArray[np.int64]]:
        """Cut rows into runs that fit in memory; a longer sequence has a run of its own."""
        per_base = self.wanted.per_base
        most, rows = _GROUP_NUCLEOTIDES[per_base], _GROUP_ROWS[per_base]
        start, filled = 0, 0
        lengths = block.sequences.lengths.tolist()
        for index, length in enumerate(lengths):
            if index > start and (index - start >= rows or filled + length > most):
                yield np.arange(start, index)
                start, filled = index, 0
            filled += length
        yield np.arange(start, len(lengths))

    def _batch(
        self, part: Part, block: Block, rows: NDArray[np.int64], note: Note
    ) -> pa.RecordBatch:
        texts = [block.sequences.text(row) for row in rows.tolist()]
        limit = self.job.given.width
        truncated = np.zeros(len(rows), np.bool_)
        if self.job.given.truncate:
            truncated = np.array([len(text) > limit for text in texts])
            texts = [text[:limit] for text in texts]
        made = self.embedder.embed(texts, self.wanted)
        scores = None
        if self.job.config.log_likelihood != "none":
            exact = self.job.config.log_likelihood == "exact"
            scores = log_likelihoods(self.embedder, texts, exact=exact)
            made.failed |= scores.failed
        for index, reason in self._unfit(made).items():
            made.failed.setdefault(index, reason)
        for index, reason in sorted(made.failed.items()):
            row = int(rows[index])
            record = part.before + int(block.records[row])
            note["left"].append([record, block.ids.text(row), "failed", reason])
        kept = np.delete(np.arange(len(rows)), sorted(made.failed))
        note["rows"] += len(kept)
        note["nucleotides"] += sum(len(texts[k]) for k in kept.tolist())
        note["truncated"] += int(truncated[kept].sum())
        return self._columns(block, rows, kept, texts, truncated, made, scores)

    def _unfit(self, made: Embedded) -> dict[int, str]:
        """Find embeddings that overflow the type they are to be stored in."""
        unfit: dict[int, str] = {}
        limit = np.finfo(np.float16).max
        config = self.job.config
        for rows in made.pooled.values() if config.dtype == "float16" else ():
            for index in np.flatnonzero(np.abs(rows).max(axis=1, initial=0) > limit).tolist():
                unfit[index] = "its embedding does not fit float16; use --dtype float32"
        if config.per_base_dtype == "float16":
            for layer in made.per_base.values():
                for index, rows in enumerate(layer):
                    if np.abs(rows).max(initial=0) > limit:
                        unfit[index] = "its embeddings do not fit float16: --per-base-dtype float32"
        return unfit

    def _columns(
        self,
        block: Block,
        rows: NDArray[np.int64],
        kept: NDArray[np.int64],
        texts: list[str],
        truncated: NDArray[np.bool_],
        made: Embedded,
        scores: Likelihoods | None,
    ) -> pa.RecordBatch:
        chosen, width = rows[kept], self.embedder.width
        sizes = [len(texts[k]) for k in kept.tolist()]
        columns: dict[str, Any] = {
            "id": block.ids.take(chosen).to_arrow(),
            "sequence": pa.array([texts[k] for k in kept.tolist()], pa.string()),
            "length": pa.array(sizes, pa.int32()),
            "windows": pa.array([self.embedder.windows(size) for size in sizes], pa.int32()),
            "truncated": pa.array(truncated[kept]),
        }
        for layer in self.job.layers:
            pooled = made.pooled[layer][kept]
            pooled = normalised(pooled) if self.job.config.normalise else pooled
            flat = pooled.astype(self.job.config.dtype).ravel()
            name = column_name("embedding", layer, self.job.layers)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
            if self.wanted.per_base:
                bases = [made.per_base[layer][k] for k in kept.tolist()]
                name = column_name("per_base", layer, self.job.layers)
                columns[name] = _ragged(bases, width, self.job.config.per_base_dtype)
        if scores is not None:
            columns["log_likelihood"] = pa.array(scores.sums[kept].astype(np.float32))
            columns["pseudo_perplexity"] = pa.array(scores.perplexities[kept].astype(np.float32))
        known = {"rna_type": block.rna_types, "family": block.families}
        known["taxid"] = pa.array(block.taxids, mask=block.taxids < 0)
        for name in self.job.annotations:
            columns[name] = known[name].take(pa.array(chosen))
        return pa.RecordBatch.from_arrays(
            [columns[n] for n in self.schema.names], schema=self.schema
        )

    def _precision_error(self, block: Block) -> float:
        """Return the largest difference that lower precision makes to a sample of sequences."""
        texts = [block.sequences.text(row) for row in range(min(_SAMPLE, len(block)))]
        texts = [text[: self.job.given.width] for text in texts]
        wanted = Wanted(self.job.layers, self.job.config.pooling)
        exact = Embedder(self._model.model, device=self.job.device)
        ours, theirs = self.embedder.embed(texts, wanted), exact.embed(texts, wanted)
        return max(float(np.abs(ours.pooled[k] - theirs.pooled[k]).max()) for k in self.job.layers)


def _ragged(rows: list[NDArray[np.float32]], width: int, kind: str) -> pa.Array:
    flat = np.concatenate([r.astype(kind) for r in rows]) if rows else np.empty((0, width), kind)
    bases = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), width)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), bases)
