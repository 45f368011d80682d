"""The verb `report`: one page about a pre-training run, finished or still going on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from riboray import __version__
from riboray.console import say
from riboray.errors import CheckpointError, ConfigError, RiborayError
from riboray.manifest import atomic_path, check_writable
from riboray.page import printable
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.page_head import Facts
from riboray.pretraining.run_report_state import (
    RunView,
    candidate_checkpoints,
    find_corpus,
    read_run,
)
from riboray.room import byte_size

__all__ = ["ReportConfig", "report"]

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Describe a pre-training run, finished or going on, on one HTML page."""

    POSITIONAL: ClassVar[str] = "run"

    run: list[str] = field(default_factory=list)
    """Run directory that `riboray pretrain` made; may be given without the flag."""
    output: str | None = None
    """File to write; by default report.html in the run directory."""
    max_points: int = 1000
    """Sequences on the map of embeddings, at most; 0 leaves the map out."""
    alignments: int = 6
    """Held-out pairs whose alignments are shown, from the best to the worst; 0 shows none."""
    no_model: bool = False
    """Leave out what needs a checkpoint: the example alignments and the map."""
    seed: int = 0
    """Of the choice of sequences for the map, and of its layout."""

    def __post_init__(self) -> None:
        if len(self.run) != 1:
            raise ConfigError(f"give one run directory, not {len(self.run)}")
        for name in ("max_points", "alignments", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.seed >= 1 << 32:
            raise ConfigError(f"seed must be less than 2**32, not {self.seed}")


def report(config: ReportConfig) -> Record:
    """Write the page about a run.

    Parameters
    ----------
    config : ReportConfig
        The run, and what to show of it.

    Returns
    -------
    dict
        Where the page is, the run's state and figures, and what the page had to leave out.

    Raises
    ------
    InputError
        If it is no run directory, has measured nothing yet, or a file of it is damaged.
    ConfigError
        If the page cannot be written; found out before anything is computed.

    Notes
    -----
    The run's files are only read, so a run that is going on is not disturbed. The page needs no
    other file and makes no request.
    """
    run = read_run(Path(config.run[0]))
    output = run.directory.path / "report.html" if config.output is None else Path(config.output)
    check_writable(output, "output")
    say(f"  run         {printable(run.name, 120)}: {run.state}, step {run.last['step']:,}")
    known, problem = _corpus_facts(run)
    shown = _Shown()
    if config.no_model:
        shown.alignments = shown.map = _absent("Left out, as asked (--no-model).", "lead")
    elif problem is not None:
        shown.alignments = shown.map = _absent(problem)
        shown.left_out.append(problem)
    else:
        assert run.config is not None
        _use_model(run, run.config, known, config, shown)
    page = _page(run, _facts(run, known, shown.notes), shown)
    with atomic_path(output) as temporary:
        temporary.write_text(page, "utf-8")
    size = output.stat().st_size
    say(f"  page        {output} ({byte_size(size)})")
    last = run.validations[-1] if run.validations else {}
    return {
        "output": str(output),
        "bytes": size,
        "run": run.name,
        "state": run.state,
        "step": run.last["step"],
        "progress": run.last.get("progress"),
        "elapsed_s": run.last["elapsed_s"],
        "measurements": len(run.validations),
        "events": len(run.events),
        "last_measurement": {k: last[k] for k in last if k.startswith(("mlm_", "sal_", "ss_"))},
        "checkpoint": shown.checkpoint,
        "pairs_aligned": shown.pairs,
        "sequences_mapped": shown.points,
        "notes": [*run.notes, *shown.notes, *dict.fromkeys(shown.left_out)],
    }


@dataclass
class _Shown:
    """The two sections that need a model, and what they hold."""

    alignments: str = ""
    map: str = ""
    checkpoint: str | None = None
    pairs: int = 0
    points: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of the data: of the summary or, before the end, of the corpus itself."""

    corpus: Path | None = None
    counts: dict[str, int] = field(default_factory=dict)
    held_out_families: tuple[str, ...] = ()


def _absent(reason: str, css_class: str = "warning") -> str:
    return f'<p class="{css_class}">{escape(printable(reason, 500))}</p>'


def _corpus_facts(run: RunView) -> tuple[_Known, str | None]:
    """Find the corpus and what is held out of it; say why if they cannot be found."""
    data, families = run.summary.get("data"), run.summary.get("held_out_families")
    summary = isinstance(data, dict) and isinstance(families, list)
    counts = {k: v for k, v in data.items() if isinstance(v, int)} if isinstance(data, dict) else {}
    held_out = tuple(map(str, families)) if isinstance(families, list) else ()
    known = _Known(counts=counts, held_out_families=held_out)
    if run.config is None:
        return known, "Left out: the run's options cannot be read by this version of riboray."
    try:
        corpus, _ = find_corpus(run)
        if not summary or run.state != "finished":
            from riboray.pretraining.data import prepare_data

            config = run.config
            streams = config.batches_per_step or 1
            found = prepare_data(corpus, config, streams)
            counts, held_out = found.counts, found.held_out_families
    except (RiborayError, OSError) as error:
        return known, f"Left out: {error}."
    return _Known(corpus=corpus, counts=counts, held_out_families=held_out), None


def _facts(run: RunView, known: _Known, notes: list[str]) -> Facts:
    parameters = None
    if run.config is not None:
        import torch

        from riboray.model.heads import RnaBertForPreTraining

        with torch.device("meta"):  # shapes without numbers
            model = RnaBertForPreTraining(run.config.model)
        parameters = sum(p.numel() for p in model.parameters())
    return Facts(
        counts=known.counts,
        held_out_families=known.held_out_families,
        parameters=parameters,
        notes=tuple(notes),
    )


def _use_model(
    run: RunView, options: PretrainConfig, known: _Known, config: ReportConfig, shown: _Shown
) -> None:
    """Load the run's newest usable checkpoint and make the sections that need it."""
    from riboray.embedding.embedder import Embedder
    from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint

    loaded: LoadedCheckpoint | None = None
    step: int | None = None
    for at, path in candidate_checkpoints(run):
        try:
            loaded, step = load_checkpoint(path), at
            break
        except (CheckpointError, OSError, ValueError, KeyError) as error:
            # It may be damaged, or removed by the run, which keeps the newest only.
            shown.notes.append(f"A checkpoint could not be read: {error}.")
    if loaded is None:
        reason = "Left out: the run has no checkpoint that can be read yet."
        shown.left_out.append(reason)
        shown.alignments = shown.map = _absent(reason)
        return
    shown.checkpoint = str(loaded.path)
    origin = f"By the model in {loaded.path}" + (f" (step {step:,})." if step is not None else ".")
    embedder = Embedder(loaded.model)
    for name, make in (("alignments", _alignments), ("map", _map)):
        try:
            setattr(shown, name, make(known, options, config, embedder, origin, shown))
        except (RiborayError, OSError, ValueError) as error:
            reason = f"Left out: {error}."
            shown.left_out.append(reason)
            setattr(shown, name, _absent(reason))


def _alignments(
    known: _Known,
    options: PretrainConfig,
    config: ReportConfig,
    embedder: Any,
    origin: str,
    shown: _Shown,
) -> str:
    from riboray.pretraining.page_alignments import alignments_section
    from riboray.pretraining.run_report_alignments import align_pairs, held_out_pairs

    assert known.corpus is not None
    pairs = held_out_pairs(known.corpus, known.held_out_families, options.validation_pairs)
    say(f"  alignments  {len(pairs):,} held-out pairs")
    aligned = align_pairs(pairs, embedder, options.gaps)
    shown.pairs = len(aligned)
    return alignments_section(aligned, config.alignments, origin)


def _map(
    known: _Known,
    options: PretrainConfig,
    config: ReportConfig,
    embedder: Any,
    origin: str,
    shown: _Shown,
) -> str:
    from riboray.embedding.plane import LEAST_POINTS
    from riboray.pretraining.page_map import map_section
    from riboray.pretraining.run_report_map import draw_sample, map_embeddings

    assert known.corpus is not None
    if not config.max_points:
        return _absent("Left out, as asked (--max-points 0).", "lead")
    sample = draw_sample(
        known.corpus,
        config.max_points,
        held_out_families=known.held_out_families,
        validation_share=options.validation_share,
        seed=config.seed,
    )
    if len(sample.ids) < LEAST_POINTS:
        return _absent(f"Left out: {len(sample.ids)} sequences make no map.")
    say(f"  map         {len(sample.ids):,} of {sample.total:,} sequences")
    drawn = map_embeddings(sample, embedder, config.seed)
    shown.points = len(sample.ids)
    return map_section(sample, drawn, origin)


def _page(run: RunView, facts: Facts, shown: _Shown) -> str:
    """Put the sections together."""
    from riboray.page import html_page
    from riboray.pretraining.page_curves import curves_section, throughput_section
    from riboray.pretraining.page_head import headline, options_section, validation_section
    from riboray.pretraining.page_style import CSS, SCRIPT
    from riboray.pretraining.page_svg import CLIP

    def sections() -> Iterator[tuple[str, str, str]]:
        yield "curves", "Curves", curves_section(run)
        yield "throughput", "Throughput", throughput_section(run)
        yield "measurements", "Measurements on held-out data", validation_section(run)
        yield "alignments", "Alignments of held-out pairs", shown.alignments
        yield "map", "Map of embeddings", shown.map

    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{html}</section>\n'
        for name, title, html in sections()
    )
    origin = (
        f"{run.directory.path}, made by riboray {__version__} on {facts.now:%Y-%m-%d %H:%M} UTC"
    )
    footer = f"<footer>{escape(printable(origin, 600))}</footer>\n"
    whole = f"{CLIP}{headline(run, facts)}{options_section(run)}{body}</main>\n{footer}"
    return html_page(f"Run {printable(run.name, 120)}", whole, css=CSS, script=SCRIPT)
