"""The figures of an evaluation of aligners: for people, and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray.console import show, show_columns
from riboray.evaluation.accuracy import METRICS, Counts, bootstrap, compare, interval, measure
from riboray.evaluation.config import EvaluateAlignmentConfig
from riboray.evaluation.methods import ByScores, Method
from riboray.evaluation.models import training_overlap
from riboray.evaluation.references import References

__all__ = [
    "Measured",
    "Rows",
    "Summary",
    "comparison_rows",
    "identity_rows",
    "overview_rows",
    "show_summary",
    "summarise",
]

Summary = dict[str, Any]
#: Families from which intervals by families make sense.
_FEWEST_FAMILIES = 5
#: Families shown on the terminal.
_SHOWN = 12


@dataclass(frozen=True)
class Measured:
    """What one method did.

    Attributes
    ----------
    method : Method
        The method.
    counts : ndarray, shape=(pairs, 3), dtype=int64
        From `tally`.
    seconds : ndarray, shape=(pairs,), dtype=float64
        CPU seconds, NaN where nobody knows.
    failed : list of str
        Why pairs have no alignment.
    alignments : Path
        Where its alignments are.
    """

    method: Method
    counts: Counts
    seconds: NDArray[np.float64]
    failed: list[str]
    alignments: Path


def summarise(
    references: References, measured: list[Measured], config: EvaluateAlignmentConfig
) -> Summary:
    """Put all figures together."""
    pairs = references.pairs
    families = sorted({pair.family for pair in pairs})
    place = {family: number for number, family in enumerate(families)}
    family = np.array([place[pair.family] for pair in pairs])
    identity = np.array([pair.identity for pair in pairs])
    by_family = config.resample == "families" and len(families) >= _FEWEST_FAMILIES
    units = family if by_family else np.arange(len(pairs))
    drawn = bootstrap([one.counts for one in measured], units, config.rounds, config.seed)
    bins = np.clip(
        np.searchsorted(config.bins, identity, side="right") - 1, 0, len(config.bins) - 2
    )
    by_identity = [
        ({"low": low, "high": high}, _group(measured, bins == k, config))
        for k, (low, high) in enumerate(zip(config.bins, config.bins[1:], strict=False))
        if (bins == k).any()
    ]
    of_families = [
        ({"family": name}, _group(measured, family == k, config)) for k, name in enumerate(families)
    ]
    methods = []
    for number, one in enumerate(measured):
        entry = _describe(one, references, drawn[number])
        entry["by_identity"] = [{**label, **figures[number]} for label, figures in by_identity]
        entry["by_family"] = [{**label, **figures[number]} for label, figures in of_families]
        methods.append(entry)
    comparisons = [
        {
            "first": measured[i].method.name,
            "second": measured[j].method.name,
            **asdict(compare(measured[i].counts, measured[j].counts, drawn[i], drawn[j])),
        }
        for i in range(len(measured))
        for j in range(i + 1, len(measured))
    ]
    return {
        "reference": _reference(references, config, identity, len(families)),
        "resampled": "families" if by_family else "pairs",
        "rounds": config.rounds,
        "overview": [_overview(entry) for entry in methods],
        "methods": methods,
        "comparisons": comparisons,
    }


def _reference(
    references: References,
    config: EvaluateAlignmentConfig,
    identity: NDArray[np.float64],
    families: int,
) -> Summary:
    reasons = Counter(reject.reason for reject in references.rejects)
    return {
        "files": config.reference,
        "pairs": len(references.pairs),
        "families": families,
        "sequences": len(references.sequences),
        "mean_identity": float(identity.mean()),
        "left_out": dict(sorted(reasons.items())),
        "counts": {
            "pairs_read": len(references.pairs) + len(references.rejects),
            "pairs_used": len(references.pairs),
            "pairs_left_out": len(references.rejects),
        },
    }


def _describe(one: Measured, references: References, drawn: NDArray[np.float64]) -> Summary:
    method = one.method
    entry: Summary = {"name": method.name, "about": method.about}
    if isinstance(method, ByScores):
        entry["gaps"] = asdict(method.gaps)
        entry["fitted"] = None if method.fitted is None else asdict(method.fitted)
        if method.loaded is not None:
            entry["training_overlap"] = training_overlap(
                method.name, method.loaded, references.sequences
            )
    known = one.seconds[np.isfinite(one.seconds)]
    return {
        **entry,
        "failed": len(one.failed),
        "metrics": measure(one.counts),
        "intervals": {
            name: asdict(interval(drawn[:, column])) for column, name in enumerate(METRICS)
        },
        "cpu_seconds_per_pair": float(known.mean()) if len(known) else None,
    }


def _group(
    measured: list[Measured], chosen: NDArray[np.bool_], config: EvaluateAlignmentConfig
) -> list[Summary]:
    """Measure every method on a part of the pairs.

    Intervals come from drawing pairs, as a part may be of one family.
    """
    counts, pairs = [one.counts[chosen] for one in measured], int(chosen.sum())
    drawn = bootstrap(counts, np.arange(pairs), config.rounds, config.seed)
    column = METRICS.index("f1")
    return [
        {"pairs": pairs, **measure(one), "f1_interval": asdict(interval(rows[:, column]))}
        for one, rows in zip(counts, drawn, strict=True)
    ]


def _overview(entry: Summary) -> Summary:
    low, high = (entry["intervals"]["f1"][name] for name in ("low", "high"))
    overlap = entry.get("training_overlap") or {}
    seconds = entry["cpu_seconds_per_pair"]
    return {
        "method": entry["name"],
        **{name: round(entry["metrics"][name], 4) for name in ("f1", "sensitivity", "ppv")},
        "f1_low": round(low, 4),
        "f1_high": round(high, 4),
        **{name: round(entry["metrics"][name], 4) for name in ("mean_f1", "sps")},
        "cpu_seconds_per_pair": None if seconds is None else float(f"{seconds:.3g}"),
        "failed": entry["failed"],
        "trained_on_masked": overlap.get("masked"),
        "trained_on_aligned": overlap.get("aligned"),
    }


Rows = list[list[str]]


def overview_rows(summary: Summary) -> Rows:
    """Return a row a method, below a heading: F1, its interval, the other measures, time."""
    heading = ["", "F1", "95 %", "sens.", "PPV", "mean F1", "SPS", "CPU s/pair", "failed"]
    rows = [heading]
    for row in summary["overview"]:
        seconds = row["cpu_seconds_per_pair"]
        figures = [f"{row[name]:.3f}" for name in ("sensitivity", "ppv", "mean_f1", "sps")]
        span = f"{row['f1_low']:.3f}-{row['f1_high']:.3f}"
        spent = "?" if seconds is None else f"{seconds:.2g}"
        rows.append(
            [row["method"], f"{row['f1']:.3f}", span, *figures, spent, f"{row['failed']:,}"]
        )
    return rows


def identity_rows(summary: Summary) -> Rows:
    """Return F1 by identity, a row a method, below the bins and how many pairs they have."""
    bins = summary["methods"][0]["by_identity"]
    rows = [["", *(f"{b['low']}-{b['high']}" for b in bins)]]
    rows.append(["pairs", *(f"{b['pairs']:,}" for b in bins)])
    for entry in summary["methods"]:
        rows.append([entry["name"], *(f"{b['f1']:.3f}" for b in entry["by_identity"])])
    return rows


def comparison_rows(summary: Summary) -> Rows:
    """Return how the first method compares with each other one, below a heading."""
    name = summary["methods"][0]["name"]
    rows = [["", "difference", "95 %", "p", "better", "worse", "equal"]]
    for c in summary["comparisons"]:
        if c["first"] == name:
            span = f"{c['interval']['low']:+.3f} to {c['interval']['high']:+.3f}"
            counts = [f"{c[key]:,}" for key in ("better", "worse", "equal")]
            rows.append(
                [c["second"], f"{c['difference']:+.4f}", span, f"{c['p_bootstrap']:.2g}", *counts]
            )
    return rows


def show_summary(summary: Summary) -> None:
    """Print tables: all methods, F1 by identity, differences."""
    show()
    show_columns(overview_rows(summary))
    show(f"  95 % intervals by drawing {summary['resampled']} {summary['rounds']:,} times")
    show("\n  F1 by identity, percent")
    show_columns(identity_rows(summary))
    _say_families(summary)
    if len(compared := comparison_rows(summary)) > 1:
        show(f"\n  {summary['methods'][0]['name']}, F1 minus that of")
        show_columns(compared)


def _say_families(summary: Summary) -> None:
    first = summary["methods"][0]["by_family"]
    if len(first) > _SHOWN or len(first) < 2:
        return
    show("\n  F1 by family")
    rows = [["", "pairs", *(entry["name"] for entry in summary["methods"])]]
    for k, family in enumerate(first):
        figures = [f"{entry['by_family'][k]['f1']:.3f}" for entry in summary["methods"]]
        rows.append([family["family"], f"{family['pairs']:,}", *figures])
    show_columns(rows)
