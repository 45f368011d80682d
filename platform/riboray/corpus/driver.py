"""The verb `ingest`: a corpus directory and an account of every record."""

from __future__ import annotations

from typing import Any

from riboray.console import say
from riboray.corpus.ingestion import IngestConfig, ingest
from riboray.manifest import Manifest

__all__ = ["ingest_corpus", "say_counts"]


def say_counts(manifest: Manifest, where: str) -> None:
    """Print how many records were read and what became of them."""
    for kind in ("sequences", "families", "rows"):
        read, kept, duplicates, rejected = (
            manifest.counts.get(f"{kind}_{outcome}", 0)
            for outcome in ("read", "kept", "duplicates", "rejected")
        )
        label = "aligned" if kind == "rows" else kind
        if read:
            say(
                f"  {label:<11} {read:,} read = {kept:,} kept + {duplicates:,} duplicates "
                f"+ {rejected:,} rejected"
            )
    if any(n for name, n in manifest.counts.items() if name.endswith(("rejected", "duplicates"))):
        say(f"  {'':<11} reasons in {where}/rejects.parquet")


def ingest_corpus(config: IngestConfig) -> dict[str, Any]:
    """Make a corpus and return its counts."""
    manifest = ingest(config, report=say)
    say_counts(manifest, config.output)
    return {"corpus": config.output, **manifest.counts}
