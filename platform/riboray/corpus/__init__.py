"""From the files biologists have to a corpus that trains: reading, checking, storing."""

from __future__ import annotations

from riboray.corpus.fasta import FastaRecord, read_fasta
from riboray.corpus.ingest import IngestConfig, ingest
from riboray.corpus.stockholm import FamilyAlignment, read_stockholm

__all__ = [
    "FamilyAlignment",
    "FastaRecord",
    "IngestConfig",
    "ingest",
    "read_fasta",
    "read_stockholm",
]
