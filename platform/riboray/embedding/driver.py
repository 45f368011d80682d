"""The verb `embed`."""

from __future__ import annotations

import shutil
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
from riboray.embedding.config import EmbedConfig, resolve_layers
from riboray.embedding.local import LocalPool
from riboray.embedding.planning import Part, Plan
from riboray.embedding.preparation import Preparation, find_sources
from riboray.embedding.reading import Source
from riboray.embedding.shards import Job, Note, read_note, stem_of
from riboray.embedding.store import EMBEDDINGS_KIND
from riboray.errors import ConfigError, RiborayError
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
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import prepare_ray

if TYPE_CHECKING:
    from riboray.embedding.pipeline import EmbeddingPool

__all__ = ["embed"]


def embed(config: EmbedConfig) -> dict[str, Any]:
    """Embed every sequence of the input, in its order; return the counts.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that something else made.
    """
    address = prepare_ray(config.ray_address)
    directory = Path(config.output).resolve()
    if "working_dir_files" in Path.cwd().parts and not Path(config.output).is_absolute():
        say("  warning     --output is relative: it lies in the job's temporary copy of the code")
    loaded = load_checkpoint(config.checkpoint)
    if config.log_likelihood != "none" and loaded.model.lm_head is None:
        raise ConfigError("--log-likelihood needs a model with a language-model head")
    layers = resolve_layers(config.layers, loaded.model.config.num_hidden_layers)
    sources = find_sources(config, directory)
    values = {**config.fingerprint_values(), "input": [s.file.identity for s in sources]}
    names = [s.file.path for s in sources]
    values |= {"weights": loaded.sha256, "names": list(map(stem_of, names)), "version": __version__}
    identity = fingerprint(values)
    done = finished(directory, EMBEDDINGS_KIND, identity)
    if done is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **done.counts}
    is_new = not directory.exists()
    with entered(directory, EMBEDDINGS_KIND, identity, "another process is embedding into it"):
        if (done := finished(directory, EMBEDDINGS_KIND, identity)) is not None:
            return {"output": str(directory), **done.counts}  # another process was faster
        try:
            work = Preparation(config, loaded, sources, directory, address)
            return _embed(work, identity, layers)
        except RiborayError as error:
            notes = (directory / "work").glob("[0-9]*.json")
            if error.exit_code == 2 and is_new and not any(notes):  # nothing of use is there
                shutil.rmtree(directory, ignore_errors=True)
            raise
        except KeyboardInterrupt:
            say(f"  stopped; the same command goes on from what is in {directory}")
            raise


def _embed(work: Preparation, identity: str, layers: tuple[int, ...]) -> dict[str, Any]:
    config, directory = work.config, work.directory
    # Absolute: `riboray verify` looks for the model from anywhere.
    values = {**asdict(config), "checkpoint": work.loaded.name}
    write_config(directory / "resolved_config.yaml", values)
    (directory / "work").mkdir(exist_ok=True)
    began = time.monotonic()
    with work.pool() as pool:
        plan = work.plan(pool.runner)
        job = Job(
            config=config,
            directory=str(directory),
            # Numbers of another precision are other numbers: parts that have them are not these.
            identity=fingerprint({"identity": identity, "precision": config.precision}),
            model=work.loaded.sha256,
            checkpoint=work.loaded.name,
            layers=layers,
            annotations=tuple(plan.annotations),
            given=work.given,
            stems=tuple(stem_of(source.file.path) for source in work.sources),
            device="cuda" if pool.use_gpu else "cpu",
            precision=config.precision,
        )
        work.announce(pool)
        notes = _run(work.sources, plan, job, pool)
    return _finish(work.sources, plan, job, notes, identity, time.monotonic() - began)


def _run(
    sources: list[Source], plan: Plan, job: Job, pool: EmbeddingPool | LocalPool
) -> dict[int, Note]:
    """Embed what is missing; return the notes of all parts."""
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
    with _closing(Progress("  embedding", done / max(total, 1))) as progress:
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
    seconds: float,
) -> dict[str, Any]:
    """Write the list of what was left out and the manifest; tidy up; return the summary."""
    config, directory = job.config, Path(job.directory)
    embedded = sum(note["rows"] for note in notes.values())
    outcomes: Counter[str] = sum((Counter(n["outcomes"]) for n in notes.values()), Counter())
    if outcomes["failed"] and not embedded:
        _forget(plan, job, notes)
    files = [FileEntry(**entry) for part in plan.parts for entry in notes[part.number]["files"]]
    rejects = write_rejects(_left(sources, plan, job), directory) if outcomes.total() else 0
    if rejects:
        files.append(FileEntry.of(directory / "rejects.parquet", rejects))
    counts = {
        "sequences_read": plan.total("read"),
        "sequences_embedded": embedded,
        "sequences_rejected": outcomes["rejected"],
        "sequences_failed": outcomes["failed"],
        "sequences_truncated": sum(note["truncated"] for note in notes.values()),
        "nucleotides": sum(note["nucleotides"] for note in notes.values()),
    }
    if counts["sequences_read"] != embedded + rejects:
        raise RiborayError(f"{directory}: records do not add up: {counts}; this is a bug")
    details = {
        "per_base": config.per_base,
        "pooling": config.pooling,
        "model": job.model,
        "format": config.format,
        "layers": list(job.layers),
        "normalised": config.normalise,
        "log_likelihood": config.log_likelihood,
        "precision": job.precision,
        "inputs": [source.file.path for source in sources],
    }
    write_manifest(
        directory,
        Manifest(
            kind=EMBEDDINGS_KIND,
            fingerprint=identity,
            files=tuple(files),
            counts=counts,
            details=details,
        ),
    )
    shutil.rmtree(directory / "work", ignore_errors=True)
    tidy(directory)
    _say_counts(counts, notes)
    return {
        "output": str(directory),
        **counts,
        "files": len(files),
        "bytes": sum(entry.bytes for entry in files),
        "seconds": round(seconds, 3),
        "sequences_per_s": round(embedded / max(seconds, 1e-9), 1),
    }


def _left(sources: list[Source], plan: Plan, job: Job) -> Iterator[Reject]:
    """Yield the records that are not embedded, in the order of the input."""
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
    raise RiborayError(f"no sequence can be embedded; the first: {reason}")


def _say_counts(counts: dict[str, int], notes: dict[int, Note]) -> None:
    say(
        f"  {counts['sequences_read']:,} read = {counts['sequences_embedded']:,} embedded "
        f"+ {counts['sequences_rejected']:,} rejected + {counts['sequences_failed']:,} failed"
    )
    errors = [note["precision_error"] for note in notes.values() if "precision_error" in note]
    if errors:
        say(f"  lower precision changed embeddings by {max(errors):.2g} at most, on a sample")
