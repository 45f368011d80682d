"""One part of the input, and what is made of it: files and a note, written last.

What is made, `Maker` leaves to those that derive from it: embeddings (`shards`), predictions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from riboray.batching import count_windows
from riboray.corpus.screening import Block
from riboray.corpus.strings import Strings
from riboray.embedding.config import PartwiseOptions
from riboray.embedding.planning import Part, PlanRules
from riboray.embedding.reading import Admitted, admit
from riboray.embedding.sinks import open_sink
from riboray.errors import RiborayError
from riboray.manifest import FileEntry, write_json
from riboray.model.checkpoint import load_checkpoint
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["Job", "Maker", "Note", "Product", "maker_of", "read_note", "stem_of"]

Note = dict[str, Any]
"""What became of a part: files, counts, and records left out. JSON can hold it."""


@dataclass(frozen=True)
class Product:
    """What is made of sequences.

    Attributes
    ----------
    kind : str
        Of the manifest.
    doing, done : str
        ``embedding``, ``embedded``.
    maker : str
        The class that makes it, as ``module:name``.
    """

    kind: str
    doing: str
    done: str
    maker: str


@dataclass(frozen=True)
class Job:
    """What every part needs to know.

    Attributes
    ----------
    product : Product
        What is made.
    config : PartwiseOptions
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

    product: Product
    config: PartwiseOptions
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

    def note(self, part: Part) -> Path:
        """Return the path of a part's note, which is written last."""
        return Path(self.directory) / "work" / f"{part.number:06d}.json"


def stem_of(path: str) -> str:
    """Return the name of an input file without its endings, fit for a file name."""
    name = re.split(r"[?#]", path.rstrip("/"))[0].rsplit("/", 1)[-1]
    bare = re.sub(r"(\.(b?gz|fa|fasta|fna|ffn|frn|fas|fsa|parquet))+$", "", name, flags=re.I)
    name = re.sub(r"[^\w.-]", "_", bare).encode()[:80].decode("utf-8", "ignore")
    return name.strip(".") or "input"


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


def nothing_made(product: Product, reason: str) -> str:
    """Say that every sequence failed."""
    return f"no sequence can be {product.done}; the first: {reason}"


def maker_of(job: Job) -> Maker:
    """Return what works on a job's parts in this process."""
    module, name = job.product.maker.split(":")
    kind: type[Maker] = getattr(import_module(module), name)
    return kind(job)


class Maker:
    """Works on parts and writes what comes out; there is one in every process.

    Parameters
    ----------
    job : Job
        The run.

    Attributes
    ----------
    schema : pa.Schema
        Of the record batches; set by who derives from this.
    file_format : str
        See `open_sink`.
    most_nucleotides, most_rows : int
        What is worked on together and written as one record batch.
    """

    schema: pa.Schema
    file_format = "arrow"
    most_nucleotides = most_rows = 1 << 62

    def __init__(self, job: Job) -> None:
        if job.device == "cpu":
            torch.set_num_threads(1)
        self.job = job
        loaded = load_checkpoint(job.checkpoint)
        if loaded.sha256 != job.model:
            raise RiborayError(f"{job.checkpoint} has changed since the run began")
        self.prepare(loaded.model)

    def prepare(self, model: RnaBertForPreTraining) -> None:
        """Take the model, and set the schema."""
        raise NotImplementedError

    def look_at(self, block: Block, note: Note) -> None:
        """Note something about a part before work begins."""

    def more_files(self, part: Part, paths: list[Path]) -> list[Path]:
        """Write further files, from those that are there; return their paths."""
        return []

    def compute(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Work on sequences.

        Returns
        -------
        made : object
            What `columns` is to show.
        failed : dict of int to str
            Numbers of sequences that failed, and why.
        """
        raise NotImplementedError

    def columns(self, made: Any, kept: NDArray[np.intp], texts: list[str]) -> dict[str, pa.Array]:
        """Show what was made of those that did not fail, beside ids, sequences and lengths."""
        raise NotImplementedError

    def make(self, part: Part, block: Block) -> Note:
        """Work on a part and commit it. Done twice, after a crash, it is the same files again.

        Raises
        ------
        RiborayError
            If every one of several sequences fails: then it is not them.
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
        if len(admitted.ids):
            self.look_at(admitted, note)
        paths: list[Path] = []
        if len(admitted.ids):
            sink = open_sink(
                self.file_format,
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
            raise RiborayError(nothing_made(self.job.product, note["left"][-1][3]))
        count = note["rows"]
        paths += self.more_files(part, paths) if count else []
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
        most, rows = self.most_nucleotides, self.most_rows
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
        made, failed = self.compute(texts)
        for index, reason in sorted(failed.items()):
            row = int(rows[index])
            record = part.before + int(block.records[row])
            note["left"].append([record, block.ids.text(row), "failed", reason])
        kept = np.delete(np.arange(len(rows)), sorted(failed))
        note["rows"] += len(kept)
        note["nucleotides"] += sum(len(texts[k]) for k in kept.tolist())
        note["truncated"] += int(truncated[kept].sum())
        columns = self._given_columns(block, rows[kept], [texts[k] for k in kept.tolist()])
        columns["truncated"] = pa.array(truncated[kept])
        columns |= self.columns(made, kept, texts)
        return pa.RecordBatch.from_arrays(
            [columns[n] for n in self.schema.names], schema=self.schema
        )

    def _given_columns(
        self, block: Block, chosen: NDArray[np.int64], texts: list[str]
    ) -> dict[str, pa.Array]:
        sizes = np.fromiter(map(len, texts), np.int32, len(texts))
        columns: dict[str, Any] = {
            "id": block.ids.take(chosen).to_arrow(),
            "sequence": pa.array(texts, pa.string()),
            "length": pa.array(sizes, pa.int32()),
            "windows": pa.array(count_windows(sizes, self.job.given.width), pa.int32()),
        }
        known = {"rna_type": block.rna_types, "family": block.families}
        known["taxid"] = pa.array(block.taxids, mask=block.taxids < 0)
        for name in self.job.annotations:
            columns[name] = known[name].take(pa.array(chosen))
        return columns
