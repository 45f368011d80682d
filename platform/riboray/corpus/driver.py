"""The verb `ingest`: a corpus directory and an account of every record."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from riboray.console import Progress, say, warn
from riboray.corpus.config import IngestConfig
from riboray.corpus.ingestion import Inputs, Runner, SerialRunner, ingest
from riboray.corpus.memory import keep_memory
from riboray.manifest import Manifest, warn_if_temporary
from riboray.rayenv import LOCAL, prepare_ray
from riboray.room import byte_size, check_disk

__all__ = ["ingest_corpus", "say_counts", "tell"]

#: Text that this process ingests itself: starting Ray and its workers takes as long.
_SMALL_BYTES = 512 << 20

_KINDS = {
    "sequences": "sequences",
    "windows": "windows",
    "families": "families",
    "rows": "aligned",
}


def tell(line: str) -> None:
    """Say a line of `riboray.corpus.ingestion.ingest`."""
    text = line.removeprefix("warning: ")
    if text == line:
        say(f"  {line}")
    else:
        warn(text)


def say_counts(manifest: Manifest, where: str | None) -> None:
    """Say how many records were read, what became of them, and where they are listed."""
    for kind, label in _KINDS.items():
        read, kept, duplicates, rejected, filtered = (
            manifest.counts.get(f"{kind}_{outcome}", 0)
            for outcome in ("read", "kept", "duplicates", "rejected", "filtered")
        )
        if read:
            say(
                f"  {label:<11} {read:,} read = {kept:,} kept + {duplicates:,} duplicates "
                f"+ {rejected:,} rejected + {filtered:,} filtered"
            )
    reasons = manifest.details.get("reasons", {})
    for outcome, found in reasons.items():
        for label, number in found.items():
            say(f"  {'':<11}   {number:>12,} {outcome}: {label}")
    if where is None:
        return
    if any(reasons.values()):
        say(f"  {'':<11} record by record in {where}/rejects.parquet")
    if manifest.counts.get("sequences_duplicates"):
        say(f"  {'':<11} ids of duplicates in {where}/duplicates.parquet")


def ingest_corpus(config: IngestConfig) -> dict[str, Any]:
    """Make a corpus and return its counts."""
    address = prepare_ray(config.ray_address)
    warn_if_temporary(Path(config.output))
    bar: list[Progress] = []

    def progress(share: float, figures: str) -> None:
        if not bar:
            bar.append(Progress("  ingesting", share))
        bar[0].update(share, figures)

    try:
        inputs = Inputs.find(config)
        if config.dry_run:
            return _rehearse(config, inputs)
        with _runner(config, inputs, address) as runner:
            manifest = ingest(
                config,
                report=tell,
                runner=runner,
                inputs=inputs,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"stopped; what is done lies in {config.output}/work: the same command goes on")
        raise
    finally:
        for shown in bar:
            shown.close()
    say_counts(manifest, config.output)
    split = manifest.details.get("split", {})
    if split.get("validation_sequences"):
        say(f"  {'validation':<11} {split['validation_sequences']:,} sequences set apart")
    return {
        "corpus": str(Path(config.output)),
        **manifest.counts,
        "nucleotides": manifest.details.get("nucleotides"),
        "reasons": manifest.details.get("reasons"),
        "split": split,
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files),
    }


def _rehearse(config: IngestConfig, inputs: Inputs) -> dict[str, Any]:
    """Tell what would be read, without reading it."""
    output = Path(config.output).absolute()
    for file in (*inputs.corpus, *inputs.exclude):
        say(f"  {file.kind:<11} {file.path}, {byte_size(file.size)}")
    for path in config.alignments:
        say(f"  {'alignments':<11} {path}")
    needed = inputs.room_bytes(config)
    say(f"  {'room':<11} about {byte_size(needed)} while it works; nothing was made")
    check_disk(output, needed, "make room or choose another --output")
    return {
        "dry_run": True,
        "corpus": str(output),
        "files": [{"path": f.path, "kind": f.kind, "bytes": f.size} for f in inputs.corpus],
        "text_bytes_about": round(inputs.text_bytes),
        "room_bytes_about": round(needed),
    }


def _runner(config: IngestConfig, inputs: Inputs, address: str) -> AbstractContextManager[Runner]:
    """Choose where to work: here for little, on Ray for much or where it is asked for."""
    asked = config.num_workers is not None or config.ray_address is not None or address != LOCAL
    one = config.num_workers == 1 and address == LOCAL
    if one or (not asked and inputs.text_bytes < _SMALL_BYTES):
        keep_memory()
        return nullcontext(SerialRunner())
    from riboray.corpus.pipeline import ray_runner

    folder = Path(config.output).absolute() / "work"
    return ray_runner(address, config.num_workers, folder, config.memory_per_worker)
