"""Structural alignment of RNAs from base embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riboray._lazy import lazy_exports

if TYPE_CHECKING:
    from riboray.alignment.columns import (
        AlignedColumns,
        GapPenalties,
        Margins,
        aligned_columns,
        count_aligned,
        gap_costs,
        gapped_strings,
    )
    from riboray.alignment.pairwise import BatchAlignment, align_batch

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

__getattr__ = lazy_exports(
    __name__,
    {
        "AlignedColumns": "columns",
        "BatchAlignment": "pairwise",
        "GapPenalties": "columns",
        "Margins": "columns",
        "align_batch": "pairwise",
        "aligned_columns": "columns",
        "count_aligned": "columns",
        "gap_costs": "columns",
        "gapped_strings": "columns",
    },
)
