"""Structural alignment of RNAs from base embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riboray._lazy import lazy_exports

if TYPE_CHECKING:
    from riboray.alignment.columns import (
        AlignedColumns,
        GapPenalties,
        Margins,
        Mode,
        aligned_columns,
        count_aligned,
        gap_costs,
        gapped_strings,
    )
    from riboray.alignment.longpairs import align_embeddings
    from riboray.alignment.pairwise import BatchAlignment, align_batch
    from riboray.alignment.similarity import SequenceSet

__all__ = [
    "AlignedColumns",
    "BatchAlignment",
    "GapPenalties",
    "Margins",
    "Mode",
    "SequenceSet",
    "align_batch",
    "align_embeddings",
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
        "Mode": "columns",
        "SequenceSet": "similarity",
        "align_embeddings": "longpairs",
        "align_batch": "pairwise",
        "aligned_columns": "columns",
        "count_aligned": "columns",
        "gap_costs": "columns",
        "gapped_strings": "columns",
    },
)
