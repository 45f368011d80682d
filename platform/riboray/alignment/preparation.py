"""What every comparison starts with: model, sequences, projection, chance scores."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from riboray.alignment.columns import GapPenalties
from riboray.alignment.config import AlignmentOptions
from riboray.alignment.estimate import embed_side, fit_null, sample_sequences
from riboray.alignment.sides import Rule
from riboray.alignment.similarity import Projection, RowMaker, fit_projection
from riboray.alignment.statistics import NullModel
from riboray.console import say
from riboray.corpus.rejects import write_rejects
from riboray.corpus.sequences import NamedSequences, read_sequences
from riboray.embedding.embedder import Embedder
from riboray.errors import CorpusError
from riboray.manifest import atomic_path, write_config, write_json
from riboray.model.checkpoint import LoadedCheckpoint

__all__ = [
    "Prepared",
    "duration",
    "fit_comparison",
    "load_fit",
    "prepare",
    "save_fit",
    "write_beside",
]


@dataclass(frozen=True)
class Prepared:
    """What a comparison starts from.

    Attributes
    ----------
    loaded : LoadedCheckpoint
        The model.
    embedder : Embedder
        The same, ready to embed.
    named : NamedSequences
        The input.
    maker : RowMaker
        To fewer dimensions, if asked for.
    rule : Rule
        With the null model and the thresholds.
    """

    loaded: LoadedCheckpoint
    embedder: Embedder
    named: NamedSequences
    maker: RowMaker
    rule: Rule


def prepare(
    config: AlignmentOptions,
    loaded: LoadedCheckpoint,
    inputs: list[str],
    comparisons: Callable[[int], int],
    targets: list[str] | None = None,
) -> Prepared:
    """Read sequences; fit projection and chance scores.

    Parameters
    ----------
    config : AlignmentOptions
        Options.
    loaded : LoadedCheckpoint
        The model.
    inputs : list of str
        FASTA files.
    comparisons : callable
        Number of comparisons for a number of sequences, for E-values.
    targets : list of str, optional
        Sampled targets, if they are another set.

    Returns
    -------
    Prepared
    """
    named = read_sequences(
        inputs,
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        ambiguity=loaded.model.config.tokens.id_of("N") is not None,
    )
    embedder = Embedder(loaded.model)
    count = comparisons(len(named))
    maker, rule = fit_comparison(config, embedder, named.sequences, count, targets)
    return Prepared(loaded, embedder, named, maker, rule)


def fit_comparison(
    config: AlignmentOptions,
    embedder: Embedder,
    sequences: Sequence[str],
    comparisons: int,
    targets: Sequence[str] | None = None,
) -> tuple[RowMaker, Rule]:
    """Fit projection and chance scores to a sample of what will be aligned.

    Parameters
    ----------
    config : AlignmentOptions
        Options.
    embedder : Embedder
        The model.
    sequences : sequence of str
        What will be aligned, or the queries.
    comparisons : int
        Number of comparisons, for E-values.
    targets : sequence of str, optional
        Sampled targets, if they are another set.

    Returns
    -------
    maker : RowMaker
    rule : Rule
        With the thresholds.
    """
    maker = RowMaker(config.centred)
    if config.dimensions is not None:
        sample = sample_sequences([*sequences, *(targets or [])], config.seed)
        rows = embed_side(embedder, sample, maker=maker).sequences.embeddings
        projection = fit_projection(rows, config.dimensions, config.seed)
        say(f"  projection  {projection.describe()}")
        maker = RowMaker(config.centred, projection)
    rule = Rule(config.gaps, config.mode, config.arithmetic, config.min_score)
    if config.statistics:
        null = fit_null(embedder, sequences, rule, maker=maker, seed=config.seed, targets=targets)
        rule = replace(rule, null=null)
        if null is None:
            say("  statistics  left out: shuffling sequences this long would take minutes")
        elif config.max_evalue is not None:
            rule = replace(rule, min_z=null.z_at_evalue(config.max_evalue, comparisons))
    return maker, rule


def save_fit(path: Path, maker: RowMaker, rule: Rule) -> None:
    """Write what `fit_comparison` found, for every process to work with the same."""
    null = None if rule.null is None else rule.null.to_json()
    values: dict[str, Any] = {"centred": maker.centred, "rule": {**asdict(rule), "null": null}}
    arrays: dict[str, Any] = {}
    if maker.projection is not None:
        values["errors"] = [maker.projection.rms_error, maker.projection.max_error]
        arrays["basis"] = maker.projection.basis
    with atomic_path(path) as temporary, temporary.open("wb") as sink:
        np.savez(sink, values=np.array(json.dumps(values)), **arrays)


def load_fit(path: Path) -> tuple[RowMaker, Rule]:
    """Read what `save_fit` wrote.

    Raises
    ------
    CorpusError
        If it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = json.loads(str(stored["values"]))
            projection = None
            if "basis" in stored:
                projection = Projection(stored["basis"], *values["errors"])
        options = values["rule"]
        null = None if options["null"] is None else NullModel.from_json(options["null"])
        rule = Rule(**{**options, "gaps": GapPenalties(**options["gaps"]), "null": null})
        return RowMaker(values["centred"], projection), rule
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CorpusError(path, f"cannot be read ({error}); remove it") from error


def write_beside(config: AlignmentOptions, work: Prepared, directory: Path) -> None:
    """Write the resolved options, the chance scores and the rejects next to the result."""
    if work.rule.null is not None:
        write_json(directory / "chance_scores.json", work.rule.null.to_json())
    if work.named.rejects:
        write_rejects(work.named.rejects, directory)
    write_config(directory / "resolved_config.yaml", asdict(config))


def duration(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
