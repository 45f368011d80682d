"""The verb `evaluate mlm`: how well hidden nucleotides are recovered, by type and by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from riboray import __version__
from riboray.console import say, show, show_columns
from riboray.corpus.config import ColumnNames
from riboray.corpus.inputs import find_inputs
from riboray.corpus.records import Reject, hash64
from riboray.corpus.rejects import write_rejects
from riboray.corpus.screening import Block, Rules
from riboray.embedding.embedder import Embedder
from riboray.embedding.reading import admit, list_source, read_parts
from riboray.errors import ConfigError, CorpusError
from riboray.evaluation.accuracy import resampled
from riboray.evaluation.config import named_paths
from riboray.evaluation.figures import draw_filling
from riboray.evaluation.filling import GROUPS, Filled, composition, fill, neighbours
from riboray.evaluation.models import NamedModel, load_models, training_overlap
from riboray.manifest import (
    FileEntry,
    Manifest,
    entered,
    fingerprint,
    finished,
    tidy,
    write_config,
    write_json,
    write_manifest,
)

__all__ = ["MLM_EVALUATION_KIND", "EvaluateMlmConfig", "evaluate_mlm"]

MLM_EVALUATION_KIND = "mlm evaluation"
#: Limits of the bins of positions, nucleotides from an end.
_POSITIONS = (0, 5, 10, 20, 40, 80, 160, 320, 1 << 40)
_PART = 1 << 20
_UNKNOWN = "unknown"
#: Groups shown and drawn; the others are together.
_GROUPS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class EvaluateMlmConfig:
    """Measure how well models recover hidden nucleotides.

    ``riboray evaluate mlm rnas.fa --checkpoint mine=runs/mine/checkpoint``
    """

    POSITIONAL: ClassVar[str] = "input"

    input: list[str] = field(default_factory=list)
    """FASTA, plain or gzip, or Parquet (a corpus too); may be given without the flag."""
    checkpoint: list[str] = field(default_factory=list)
    """Models: [NAME=]PATH, any number; behind it ,padding=masked or ,padding=original."""
    output: str = "mlm-evaluation"
    """Directory to make."""
    group_by: Literal["rna_type", "family", "label", "source", "none"] = "rna_type"
    """What to tell apart: rna_type and family are columns of Parquet; label is the first word after
    the id of a FASTA record, source what stands before the first | of its id. Where the input has
    no RNA types, label takes their place."""
    max_sequences: int = 2000
    """Sequences measured; of more, those with the lowest hashes, which is a draw by chance that is
    the same whatever the order."""
    min_length: int = 10
    """Leave out shorter ones."""
    rounds: int = 1000
    """Draws for confidence intervals, over sequences."""
    seed: int = 0
    """Of these draws."""
    columns: ColumnNames = field(default_factory=ColumnNames)
    """Columns of Parquet files."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to measure on: give sequences")
        if not named_paths(self.checkpoint, "checkpoint", ("padding",)):
            raise ConfigError("nothing to measure: give --checkpoint")
        least = {"max_sequences": 1, "min_length": 1, "rounds": 100}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, not {getattr(self, name)}")


@dataclass
class _Sample:
    """Sequences, each with its group."""

    texts: list[str]
    groups: list[str]
    rejects: list[Reject]
    read: int


def evaluate_mlm(config: EvaluateMlmConfig) -> dict[str, Any]:
    """Measure models on hidden nucleotides; return the figures.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that holds something else.
    """
    models = load_models(config.checkpoint)
    for named in models:
        if named.model.lm_head is None:
            reason = "has no language-model head: it cannot fill in nucleotides"
            raise ConfigError(f"{named.name} {reason}")
        if named.name in ("composition", "neighbours"):
            raise ConfigError(f"a model cannot be called {named.name!r}: a baseline is")
    sample = _read(config)
    options = {k: v for k, v in asdict(config).items() if k not in ("output", "checkpoint")}
    identity = fingerprint(
        {
            "options": options,
            "models": [(m.name, m.loaded.sha256, m.model.config.padding) for m in models],
            "sequences": fingerprint({"texts": sample.texts, "groups": sample.groups}),
            "version": __version__,
        }
    )
    directory = Path(config.output).resolve()
    if (done := finished(directory, MLM_EVALUATION_KIND, identity)) is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **done.details}
    with entered(directory, MLM_EVALUATION_KIND, identity, "evaluating") as done:
        if done is not None:
            return {"output": str(directory), **done.details}
        made: dict[str, Filled] = {}
        for named in models:
            say(f"  {named.name}: hiding each of {sum(map(len, sample.texts)):,} nucleotides once")
            made[named.name] = fill(Embedder(named.model), sample.texts)
        made |= {"composition": composition(sample.texts), "neighbours": neighbours(sample.texts)}
        summary = _summarise(config, sample, made, models)
        _show(summary)
        return _finish(config, directory, identity, sample, summary)


def _read(config: EvaluateMlmConfig) -> _Sample:
    """Read all sequences; keep those with the lowest hashes."""
    rules = Rules(min_length=config.min_length, max_length=1 << 62, on_long="reject")
    files = find_inputs(config.input, Path(config.output).resolve(), validation=True)
    chosen: dict[int, tuple[str, str]] = {}
    rejects: list[Reject] = []
    read = 0
    for number, file in enumerate(files):
        source = list_source(number, file, _PART, config.columns)
        before = 0
        for unit in source.units():
            for _, block in read_parts(source, unit, config.columns):
                admitted = admit(block, rules)
                read += len(block)
                for left in admitted.left:
                    where = (file.path, before + left.record, left.id)
                    rejects.append(Reject(*where, "rejected", left.reason))
                before += len(block)
                kept = admitted.block
                groups = _groups_of(config.group_by, kept)
                for row in range(len(kept)):
                    text = kept.sequences.text(row)
                    chosen.setdefault(hash64(text), (text, groups[row]))
            if len(chosen) > 4 * config.max_sequences:
                chosen = dict(sorted(chosen.items())[: config.max_sequences])
    best = sorted(chosen.items())[: config.max_sequences]
    if not best:
        raise CorpusError(", ".join(config.input), "holds no sequence that can be used")
    texts, names = zip(*(value for _, value in best), strict=True)
    say(f"  input       {read:,} sequences, {len(texts):,} different ones measured")
    return _Sample(list(texts), list(names), rejects, read)


def _groups_of(kind: str, block: Block) -> list[str]:
    known = {"rna_type": block.rna_types, "family": block.families}.get(kind)
    if known is not None and known.null_count < len(known):
        return [value or _UNKNOWN for value in known.to_pylist()]
    rows = range(len(block))
    if kind == "source":
        ids = [block.ids.text(row) for row in rows]
        return [name.partition("|")[0] if "|" in name else _UNKNOWN for name in ids]
    if kind in ("rna_type", "label"):
        words = [block.descriptions.text(row).split() for row in rows]
        return [some[0] if some else _UNKNOWN for some in words]
    return ["all" if kind == "none" else _UNKNOWN for _ in rows]


def _summarise(
    config: EvaluateMlmConfig,
    sample: _Sample,
    made: dict[str, Filled],
    models: Sequence[NamedModel],
) -> dict[str, Any]:
    lengths = np.array(list(map(len, sample.texts)))
    asked = next(iter(made.values())).asked
    owner = np.repeat(np.arange(len(lengths)), lengths)[asked]
    from_start = np.concatenate([np.arange(n) for n in lengths])[asked]
    from_end = np.concatenate([np.arange(n)[::-1] for n in lengths])[asked]
    common = [name for name, _ in Counter(sample.groups).most_common(_GROUPS_SHOWN)]
    groups = np.array([name if name in common else "others" for name in sample.groups])[owner]
    entries = []
    for name, filled in made.items():
        right, surprise = filled.correct(), filled.surprise()
        entry: dict[str, Any] = {"name": name, **_figures(right, surprise)}
        entry |= _intervals(right, surprise, owner, config)
        kinds = [*common, *(["others"] if "others" in groups else [])]
        entry["by_group"] = [
            {"group": kind, **_figures(right, surprise, groups == kind)} for kind in kinds
        ]
        for key, position in (("from_5_end", from_start), ("from_3_end", from_end)):
            places = np.searchsorted(_POSITIONS, position, side="right") - 1
            entry[key] = [
                {"low": _POSITIONS[k], "high": _high(k), **_figures(right, surprise, places == k)}
                for k in np.unique(places).tolist()
            ]
        entry["confusion"] = _confusion(filled)
        entries.append(entry)
    for entry, named in zip(entries, models, strict=False):
        entry |= named.about
        entry["training_overlap"] = training_overlap(named.name, named.loaded, sample.texts)
    return {
        "files": config.input,
        "sequences_read": sample.read,
        "sequences_measured": len(sample.texts),
        "nucleotides_measured": int(asked.sum()),
        "hidden_at_a_time": 1 / GROUPS,
        "group_by": config.group_by,
        "models": entries,
    }


def _high(bin_: int) -> int | None:
    return None if bin_ == len(_POSITIONS) - 2 else _POSITIONS[bin_ + 1]


def _figures(
    right: NDArray[np.bool_],
    surprise: NDArray[np.float64],
    chosen: NDArray[np.bool_] | slice = slice(None),
) -> dict[str, Any]:
    some = surprise[chosen]
    return {
        "nucleotides": len(some),
        "accuracy": float(right[chosen].mean()),
        "perplexity": float(np.exp(some.mean())),
    }


def _intervals(
    right: NDArray[np.bool_],
    surprise: NDArray[np.float64],
    owner: NDArray[np.int64],
    config: EvaluateMlmConfig,
) -> dict[str, Any]:
    """Draw sequences with replacement: bases of one sequence are not independent."""
    _, unit = np.unique(owner, return_inverse=True)
    size = int(unit.max()) + 1
    values = right, surprise, np.ones(len(unit))
    columns = [np.bincount(unit, weights=value, minlength=size) for value in values]
    sums: NDArray[np.float64] = np.column_stack(columns).astype(np.float64)
    drawn = resampled(sums, config.rounds, config.seed)
    accuracy = np.percentile(drawn[:, 0] / drawn[:, 2], [2.5, 97.5]).tolist()
    perplexity = np.percentile(np.exp(drawn[:, 1] / drawn[:, 2]), [2.5, 97.5]).tolist()
    return {"accuracy_interval": accuracy, "perplexity_interval": perplexity}


def _confusion(filled: Filled) -> dict[str, dict[str, int]]:
    """Count what stands there (outer) against what is found likeliest (inner)."""
    truth = filled.truth[filled.asked]
    likeliest = filled.probabilities[filled.asked].argmax(axis=1)
    table = np.bincount(truth.astype(np.int64) * 4 + likeliest, minlength=16).reshape(4, 4)
    return {
        base: dict(zip("ACGU", table[k].tolist(), strict=True)) for k, base in enumerate("ACGU")
    }


def _show(summary: dict[str, Any]) -> None:
    show()
    rows = [["", "accuracy", "95 %", "perplexity", "95 %"]]
    for entry in summary["models"]:
        spans = [
            "-".join(f"{value:.3f}" for value in entry[f"{name}_interval"])
            for name in ("accuracy", "perplexity")
        ]
        figures = [f"{entry[name]:.3f}" for name in ("accuracy", "perplexity")]
        rows.append([entry["name"], figures[0], spans[0], figures[1], spans[1]])
    show_columns(rows)
    names = [entry["name"] for entry in summary["models"]]
    first = summary["models"][0]
    for title, key in (
        (f"accuracy by {summary['group_by']}", "by_group"),
        ("accuracy by distance from the 5' end, nt", "from_5_end"),
        ("accuracy by distance from the 3' end, nt", "from_3_end"),
    ):
        if key == "by_group" and len(first[key]) < 2:
            continue
        show(f"\n  {title}")
        rows = [["", "nucleotides", *names]]
        for k, part in enumerate(first[key]):
            high = part.get("high")
            label = part.get("group") or f"{part['low']}-{high - 1 if high else ''}"
            figures = [f"{entry[key][k]['accuracy']:.3f}" for entry in summary["models"]]
            rows.append([label[:30], f"{part['nucleotides']:,}", *figures])
        show_columns(rows)


def _finish(
    config: EvaluateMlmConfig,
    directory: Path,
    identity: str,
    sample: _Sample,
    summary: dict[str, Any],
) -> dict[str, Any]:
    write_config(directory / "resolved_config.yaml", asdict(config))
    write_json(directory / "mlm.json", summary)
    draw_filling(directory / "mlm.png", summary)
    names = ["mlm.json", "mlm.png"]
    if write_rejects(sample.rejects, directory):
        names.append("rejects.parquet")
    keys = ("name", "accuracy", "perplexity")
    details = {"models": [{key: entry[key] for key in keys} for entry in summary["models"]]}
    counts = {
        "sequences_read": sample.read,
        "sequences_measured": len(sample.texts),
        "sequences_rejected": len(sample.rejects),
        "nucleotides_measured": summary["nucleotides_measured"],
    }
    write_manifest(
        directory,
        Manifest(
            kind=MLM_EVALUATION_KIND,
            fingerprint=identity,
            files=tuple(FileEntry.of(directory / name) for name in names),
            counts=counts,
            details=details,
        ),
    )
    tidy(directory)
    say(f"  figure      {directory / 'mlm.png'}")
    return {"output": str(directory), **counts, **details}
