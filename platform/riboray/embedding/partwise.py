"""From input files to a directory of files, part by part: what `embed` and `predict` share."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riboray import __version__
from riboray.console import Progress, say
from riboray.corpus.records import Reject
from riboray.corpus.rejects import write_rejects
from riboray.embedding.config import PartwiseOptions
from riboray.embedding.local import LocalPool
from riboray.embedding.parts import Job, Note, Product, nothing_made, read_note, stem_of
from riboray.embedding.planning import Part, Plan
from riboray.embedding.preparation import Preparation, find_sources
from riboray.embedding.reading import Source
from riboray.errors import RiborayError
from riboray.manifest import (
    FileEntry,
    Manifest,
    entered,
    fingerprint,
    finished,
    tidy,
    write_config,
    write_manifest,
)
from riboray.model.checkpoint import LoadedCheckpoint

if TYPE_CHECKING:
    from riboray.embedding.pipeline import EmbeddingPool

__all__ = ["make_parts"]


def make_parts(
    config: PartwiseOptions,
    output: str,
    loaded: LoadedCheckpoint,
    product: Product,
    address: str,
    details: dict[str, Any],
    layers: tuple[int, ...] = (),
    precision: str = "float32",
) -> dict[str, Any]:
    """Work on every sequence of the input, in its order; return the counts.

    Parameters
    ----------
    config : PartwiseOptions
        The options.
    output : str
        Directory to make.
    loaded : LoadedCheckpoint
        The model.
    product : Product
        What is made.
    address : str
        Which Ray.
    details : dict
        Of the manifest.
    layers, precision
        See `Job`.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that something else made.
    """
    directory = Path(output).resolve()
    sources = find_sources(config, directory)
    values = {**config.fingerprint_values(), "input": [s.file.identity for s in sources]}
    names = [s.file.path for s in sources]
    values |= {"weights": loaded.sha256, "names": list(map(stem_of, names)), "version": __version__}
    identity = fingerprint(values)
    done = finished(directory, product.kind, identity)
    if done is not None:
        say(f"  {directory} is complete already")
        size = sum(entry.bytes for entry in done.files)
        return {"output": str(directory), **done.counts, "files": len(done.files), "bytes": size}
    if config.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            work = Preparation(config, loaded, sources, directory, address, Path(scratch))
            return {"output": str(directory), **work.rehearse()}
    is_new = not directory.exists()
    with entered(directory, product.kind, identity, product.doing) as done:
        if done is not None:
            return {"output": str(directory), **done.counts}
        try:
            work = Preparation(config, loaded, sources, directory, address)
            return _work(work, product, identity, layers, precision, details)
        except RiborayError as error:
            notes = (directory / "work").glob("[0-9]*.json")
            if error.exit_code == 2 and is_new and not any(notes):  # nothing of use is there
                shutil.rmtree(directory, ignore_errors=True)
            raise


def _work(
    work: Preparation,
    product: Product,
    identity: str,
    layers: tuple[int, ...],
    precision: str,
    details: dict[str, Any],
) -> dict[str, Any]:
    config, directory = work.config, work.directory
    # Absolute: `riboray verify` looks for the model from anywhere.
    values = {**asdict(config), "checkpoint": work.loaded.name}
    write_config(directory / "resolved_config.yaml", values)
    (directory / "work").mkdir(exist_ok=True)
    began = time.monotonic()
    with work.pool() as pool:
        plan = work.plan(pool.runner)
        job = Job(
            product=product,
            config=config,
            directory=str(directory),
            # Numbers of another precision are other numbers: parts that have them are not these.
            identity=fingerprint({"identity": identity, "precision": precision}),
            model=work.loaded.sha256,
            checkpoint=work.loaded.name,
            layers=layers,
            annotations=tuple(plan.annotations),
            given=work.given,
            stems=tuple(stem_of(source.file.path) for source in work.sources),
            device="cuda" if pool.use_gpu else "cpu",
            precision=precision,
        )
        work.announce(str(pool.size), pool.size.least, use_gpu=pool.use_gpu)
        notes = _run(work.sources, plan, job, pool)
    return _finish(work.sources, plan, job, notes, identity, details, time.monotonic() - began)


def _run(
    sources: list[Source], plan: Plan, job: Job, pool: EmbeddingPool | LocalPool
) -> dict[int, Note]:
    """Work on what is missing; return the notes of all parts."""
    notes: dict[int, Note] = {}
    for part in plan.parts:
        if (note := read_note(job, part)) is not None:
            notes[part.number] = _slim(note)
    missing = [part for part in plan.parts if part.number not in notes]
    if notes:
        say(f"  {len(notes)} of {len(plan.parts)} files are done already")
    if not missing:
        return notes
    parts = {part.number: part for part in plan.parts}
    total = plan.total("nucleotides")
    done = sum(parts[number].nucleotides for number in notes)
    pace = _Pace(total, done)
    with _closing(Progress(f"  {job.product.doing:<10}", done / max(total, 1))) as progress:
        for number, note in pool.embed(sources, missing, job):
            notes[number] = _slim(note)
            progress.update(*pace.after(parts[number]))
    return notes


def _slim(note: Note) -> Note:
    """Count the records left out of a part instead of keeping them in memory."""
    outcomes = Counter(outcome for _, _, outcome, _ in note["left"])
    return {**note, "left": None, "outcomes": dict(outcomes)}


@contextmanager
def _closing(progress: Progress) -> Iterator[Progress]:
    try:
        yield progress
    finally:
        progress.close()


class _Pace:
    """How far the work is and how fast it goes."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        self._start = time.monotonic()
        self._rows = self._nucleotides = 0

    def after(self, part: Part) -> tuple[float, str]:
        """Return the share done and a line of figures, with one more part."""
        self._rows += part.rows
        self._nucleotides += part.nucleotides
        seconds = max(time.monotonic() - self._start, 1e-9)
        share = (self._done + self._nucleotides) / max(self._total, 1)
        rates = f"{self._rows / seconds:,.0f} sequences/s  {self._nucleotides / seconds:,.0f} nt/s"
        return share, rates


def _finish(
    sources: list[Source],
    plan: Plan,
    job: Job,
    notes: dict[int, Note],
    identity: str,
    details: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Write the list of what was left out and the manifest; tidy up; return the summary."""
    directory, done = Path(job.directory), job.product.done
    made = sum(note["rows"] for note in notes.values())
    outcomes: Counter[str] = sum((Counter(n["outcomes"]) for n in notes.values()), Counter())
    if outcomes["failed"] and not made:
        _forget(plan, job, notes)
    files = [FileEntry(**entry) for part in plan.parts for entry in notes[part.number]["files"]]
    rejects = write_rejects(_left(sources, plan, job), directory) if outcomes.total() else 0
    if rejects:
        files.append(FileEntry.of(directory / "rejects.parquet", rejects))
    counts = {
        "sequences_read": plan.total("read"),
        f"sequences_{done}": made,
        "sequences_rejected": outcomes["rejected"],
        "sequences_failed": outcomes["failed"],
        "sequences_truncated": sum(note["truncated"] for note in notes.values()),
        "nucleotides": sum(note["nucleotides"] for note in notes.values()),
    }
    if counts["sequences_read"] != made + rejects:
        raise RiborayError(f"{directory}: records do not add up: {counts}; this is a bug")
    details = {
        "model": job.model,
        "precision": job.precision,
        **details,
        "inputs": [source.file.path for source in sources],
    }
    write_manifest(
        directory,
        Manifest(
            kind=job.product.kind,
            fingerprint=identity,
            files=tuple(files),
            counts=counts,
            details=details,
        ),
    )
    shutil.rmtree(directory / "work", ignore_errors=True)
    tidy(directory)
    _say_counts(counts, notes, done)
    return {
        "output": str(directory),
        **counts,
        "files": len(files),
        "bytes": sum(entry.bytes for entry in files),
        "seconds": round(seconds, 3),
        "sequences_per_s": round(made / max(seconds, 1e-9), 1),
    }


def _left(sources: list[Source], plan: Plan, job: Job) -> Iterator[Reject]:
    """Yield the records that nothing was made of, in the order of the input."""
    for part in plan.parts:
        note = read_note(job, part)
        assert note is not None, part
        for left in note["left"]:
            yield Reject(sources[part.source].file.path, *left)


def _forget(plan: Plan, job: Job, notes: dict[int, Note]) -> None:
    """Refuse a result in which every sequence failed: it was not them.

    Raises
    ------
    RiborayError
        Always; parts with failures are done anew by the next run.
    """
    reason = ""
    for part in plan.parts:
        if notes[part.number]["outcomes"].get("failed"):
            note = read_note(job, part)
            reason = reason or (note["left"][-1][3] if note is not None else "")
            job.note(part).unlink(missing_ok=True)
    raise RiborayError(nothing_made(job.product, reason))


def _say_counts(counts: dict[str, int], notes: dict[int, Note], done: str) -> None:
    say(
        f"  {counts['sequences_read']:,} read = {counts[f'sequences_{done}']:,} {done} "
        f"+ {counts['sequences_rejected']:,} rejected + {counts['sequences_failed']:,} failed"
    )
    errors = [note["precision_error"] for note in notes.values() if "precision_error" in note]
    if errors:
        say(f"  lower precision changed embeddings by {max(errors):.2g} at most, on a sample")
