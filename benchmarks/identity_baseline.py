"""How well plain sequence identity aligns the held-out pairs of a run: what a model must beat.

    python -m benchmarks.identity_baseline runs/NAME

Match 1, mismatch 0, the aligner and the pairs that measured the run. The first line has the run's
own gap penalties; the others show what tuning them (on these very pairs, so in its favour) gains.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from riboray.alignment import GapPenalties, align_batch, count_aligned
from riboray.options import parse_config
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data

OTHER_GAPS = [(1.5, 0.1), (2.0, 0.2), (3.0, 0.3)]


def main(run: Path) -> None:
    """Print a table."""
    arguments = ["--config", str(run / "resolved_config.yaml")]
    config = parse_config("pretrain", PretrainConfig, arguments)
    folder = next((f for f in map(Path, config.corpus) if f.is_dir()), run / "corpus")
    batches = prepare_data(folder, config, config.batches_per_step or 1).validation.sal
    print("| scores | gap open | gap extend | F1 |\n|---|---|---|---|")
    for opened, extended in [(config.gaps.open, config.gaps.extend), *OTHER_GAPS]:
        counts = np.zeros(3)
        for batch in batches:
            first, second = np.split(batch.input_ids, 2)
            match = (first[:, :, None] == second[:, None, :]).astype(np.float32)
            lengths = np.split(batch.lengths, 2)
            gaps = GapPenalties(opened, extended)
            width = batch.reference.shape[1]
            best = align_batch(match[:, :width], *lengths, gaps).partners
            counts += count_aligned(best, batch.reference)
        f1 = 2 * counts[0] / (counts[1] + counts[2])
        print(f"| identity | {opened} | {extended} | {f1:.3f} |")
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    print(
        f"| model | {config.gaps.open} | {config.gaps.extend} | {summary['after']['sal_f1']:.3f} |"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
