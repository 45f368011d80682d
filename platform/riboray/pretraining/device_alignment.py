"""Structural alignment learning without leaving a GPU.

Where pairs are aligned by the thousand, the CPU's half of the loss (`violations`) would keep the
device waiting. Here the device aligns, too, and nothing waits for the CPU: no number of violations
has to be known, since the loss is made of the whole matrix of match scores.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.alignment import GapPenalties, Margins
from riboray.corpus.files import first_line
from riboray.pretraining.cosines import upload
from riboray.pretraining.losses import base_similarity

__all__ = ["aligned_loss", "best_partners", "can_align", "gap_costs_of"]


@cache
def can_align(device: torch.device) -> bool:
    """Tell whether a device can align: a GPU that Triton compiles for. It is tried.

    Triton comes with PyTorch, but builds a part of itself with the machine's C compiler.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    try:
        one = torch.ones(1, dtype=torch.int32, device=device)
        match = torch.ones((1, 1, 1), device=device)
        found = best_partners(match, one, one, one[:, None] - 2, GapPenalties(), Margins())
        return found.tolist() == [[0]]
    except Exception as error:
        warnings.warn(f"the GPU cannot align, CPU threads do ({first_line(error)})", stacklevel=2)
        return False


@torch.no_grad()
def best_partners(
    match: Tensor,
    lengths_a: Tensor,
    lengths_b: Tensor,
    reference: Tensor,
    gaps: GapPenalties,
    margins: Margins,
) -> Tensor:
    """Align with margins, globally.

    Parameters
    ----------
    match : Tensor, shape=(n, width_a, width_b), dtype=float32
        Match scores; what lies beyond a pair's lengths does not matter.
    lengths_a, lengths_b : Tensor, shape=(n,), dtype=int32
        Lengths in nucleotides, at least 1.
    reference : Tensor, shape=(n, width_a), dtype=int32
        Partners of the reference alignments, -1 for none.
    gaps, margins
        Penalties and loss augmentation.

    Returns
    -------
    Tensor, shape=(n, width_a), dtype=int32
        Partners of a best alignment: of several with one score, `align_batch` may take another.
        Sums are float32's: the score is the best up to 1e-5 a hundred nucleotides.

    Notes
    -----
    Gotoh's recursions (1982, doi:10.1016/0022-2836(82)90398-9), a row at a time: gaps along the
    row by a running maximum. One program a pair; O(width_a · width_b) bytes of memory a pair.
    """
    from riboray.pretraining.device_kernels import align_kernel

    count, width_a, width_b = match.shape
    block = max(16, 1 << (width_b - 1).bit_length())
    trace = torch.empty((count, width_a, block), dtype=torch.uint8, device=match.device)
    partners = torch.full((count, width_a), -1, dtype=torch.int32, device=match.device)
    numbers = map(float, (gaps.open, gaps.extend, margins.false, margins.missed))
    with torch.cuda.device_of(match):  # type: ignore[no-untyped-call]  # Triton takes the current
        align_kernel[(count,)](
            *(match.contiguous(), lengths_a, lengths_b, reference.contiguous(), trace, partners),
            *(width_a, width_b, *numbers),
            BLOCK=block,
            num_warps=1,
        )
    return partners


def gap_costs_of(
    partners: Tensor, lengths_a: Tensor, lengths_b: Tensor, gaps: GapPenalties
) -> Tensor:
    """Sum the gap penalties of alignments.

    Parameters
    ----------
    partners : Tensor, shape=(n, width_a), dtype=integer
        Partner in b of each position of a, -1 for none (padding too).
    lengths_a, lengths_b : Tensor, shape=(n,), dtype=integer
        Lengths in nucleotides.
    gaps : GapPenalties
        Penalties.

    Returns
    -------
    Tensor, shape=(n,), dtype=float32
        As `riboray.alignment.gap_costs`.
    """
    count, width = partners.shape
    place = torch.arange(width, device=partners.device, dtype=partners.dtype).expand(count, width)
    there = partners >= 0
    # Past the end of a comes the pair that ends every alignment; before its beginning, one that
    # begins it.
    ends = [torch.where(there, place, -1).cummax(1).values, partners.cummax(1).values]
    start = partners.new_full((count, 1), -1)
    before_a, before_b = (torch.cat([start, end], 1) for end in ends)
    a = torch.cat([place, lengths_a.to(partners.dtype)[:, None]], 1)
    b = torch.cat([partners, lengths_b.to(partners.dtype)[:, None]], 1)
    paired = torch.cat([there, torch.ones_like(start, dtype=torch.bool)], 1)
    symbols = torch.stack([a - before_a - 1, b - before_b - 1]) * paired
    return gaps.open * (symbols > 0).sum((0, 2)).float() + gaps.extend * symbols.sum((0, 2)).float()


def aligned_loss(
    hidden_a: Tensor,
    hidden_b: Tensor,
    lengths_a: NDArray[np.integer],
    lengths_b: NDArray[np.integer],
    reference: NDArray[np.integer],
    gaps: GapPenalties,
    margins: Margins,
) -> Tensor:
    """Structured max-margin loss of structural alignment learning, all of it on the device.

    Parameters
    ----------
    hidden_a, hidden_b : Tensor, shapes=(n, width_a, H) and (n, width_b, H), dtype=float32
        Base embeddings, padded; with gradient.
    lengths_a, lengths_b, reference, gaps, margins
        As for `violations.find_violations`.

    Returns
    -------
    Tensor, shape=(n,), dtype=float32
        As `losses.sal_loss`, without a temperature.
    """
    device = hidden_a.device
    sizes_a, sizes_b, wanted = (
        upload(np.ascontiguousarray(array, np.int32), device)
        for array in (lengths_a, lengths_b, reference)
    )
    with torch.autocast(device.type, enabled=False):
        match = base_similarity(hidden_a.float(), hidden_b.float())
        best = best_partners(match.detach(), sizes_a, sizes_b, wanted, gaps, margins)
        false, missed = ((best != wanted) & (side >= 0) for side in (best, wanted))
        sign = torch.zeros_like(match)
        for side, counted, value in ((best, false, 1.0), (wanted, missed, -1.0)):
            places = side.clamp(min=0).long()[:, :, None]
            sign.scatter_add_(2, places, (value * counted.float())[:, :, None])
        offset = margins.false * false.sum(1) + margins.missed * missed.sum(1)
        offset = offset + gap_costs_of(wanted, sizes_a, sizes_b, gaps)
        offset = offset - gap_costs_of(best, sizes_a, sizes_b, gaps)
        return ((match * sign).sum((1, 2)) + offset).clamp(min=0)
