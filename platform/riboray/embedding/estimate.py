"""How long embedding will take, told before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from riboray.embedding.config import PartwiseOptions
from riboray.embedding.embedder import Embedder, Wanted
from riboray.embedding.planning import Plan, PlanRules
from riboray.embedding.reading import Source, admit, read_parts, wanted_units
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["estimate_seconds"]

#: Sequences embedded for the estimate.
_SAMPLE = 48


def estimate_seconds(
    config: PartwiseOptions,
    model: RnaBertForPreTraining,
    sources: Sequence[Source],
    plan: Plan,
    given: PlanRules,
) -> float:
    """Return the seconds that one process takes, from how fast this one embeds a few sequences.

    Attention makes long sequences dearer than short ones by the nucleotide; the few are taken from
    the first part, at equal distances.
    """
    part = next(part for part in plan.parts if part.rows)
    ((source, unit, inside),) = wanted_units(sources, [(part.source, part.part)])
    ((_, block),) = read_parts(source, unit, given.columns, inside)
    sequences = admit(block, given.rules).block.sequences
    rows = np.linspace(0, len(sequences) - 1, min(len(sequences), _SAMPLE)).astype(int)
    texts = [sequences.text(row)[: given.width] for row in rows.tolist()]
    embedder = Embedder(model, token_budget=config.token_budget)
    wanted = Wanted((model.config.num_hidden_layers,))
    embedder.embed(texts[:1], wanted)  # compiles, or loads, the kernels
    start = time.perf_counter()
    embedder.embed(texts, wanted)
    pace = sum(map(len, texts)) / max(time.perf_counter() - start, 1e-9)
    nucleotides, windows, count = (plan.total(n) for n in ("nucleotides", "windows", "rows"))
    # Windows overlap by half: what lies in two of them is embedded twice.
    nucleotides += (windows - count) * given.width // 2
    return nucleotides * config.passes(nucleotides / windows, given.width) / pace
