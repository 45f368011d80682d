"""The bundled sample: nine RNA families with seed alignments and structures."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["SAMPLE_ALIGNMENTS", "SAMPLE_CORPUS", "SAMPLE_HELD_OUT"]

_HERE = Path(str(files(__name__)))

SAMPLE_CORPUS = str(_HERE / "sequences.fa.gz")
"""FASTA of the sample's distinct sequences."""

SAMPLE_ALIGNMENTS = str(_HERE / "families.sto.gz")
"""Stockholm file of the sample's families."""

SAMPLE_HELD_OUT = ("RF00003", "RF00006")
"""Families kept out of training: the U1 spliceosomal RNA and the vault RNA. Neither has a
homologue among the other seven."""
