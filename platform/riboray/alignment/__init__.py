"""Structural alignment of RNAs from base embeddings."""

from __future__ import annotations

from riboray.alignment.pairwise import (
    AlignedColumns,
    BatchAlignment,
    GapPenalties,
    Margins,
    align_batch,
    aligned_columns,
    count_aligned,
    gap_costs,
    gapped_strings,
)

__all__ = [
    "AlignedColumns",
    "BatchAlignment",
    "GapPenalties",
    "Margins",
    "align_batch",
    "aligned_columns",
    "count_aligned",
    "gap_costs",
    "gapped_strings",
]
