"""From the files biologists have to a corpus that trains: reading, checking, storing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riboray._lazy import lazy_exports

if TYPE_CHECKING:
    from riboray.corpus.config import IngestConfig
    from riboray.corpus.fasta import FastaRecord, read_fasta
    from riboray.corpus.ingestion import ingest
    from riboray.corpus.stockholm import FamilyAlignment, read_stockholm

__all__ = [
    "FamilyAlignment",
    "FastaRecord",
    "IngestConfig",
    "ingest",
    "read_fasta",
    "read_stockholm",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "FamilyAlignment": "stockholm",
        "FastaRecord": "fasta",
        "IngestConfig": "config",
        "ingest": "ingestion",
        "read_fasta": "fasta",
        "read_stockholm": "stockholm",
    },
)
