"""The verb `evaluate paper`: the experiments of the RNABERT paper, on public data, on one page.

Akiyama & Sakakibara 2022, doi:10.1093/nargab/lqac012: alignment on BRAliBase 2.1 (k2), clustering
of Rfam families, base embeddings laid out by t-SNE.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from riboray import __version__
from riboray.alignment.columns import GapPenalties
from riboray.console import say, show
from riboray.corpus.config import read_families
from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError
from riboray.evaluation.alignment import evaluate_alignment
from riboray.evaluation.bases import BaseSet, look
from riboray.evaluation.clustering import EvaluateClusteringConfig, evaluate_clustering
from riboray.evaluation.config import MODEL_SETTINGS, EvaluateAlignmentConfig
from riboray.evaluation.figures import draw_bases
from riboray.evaluation.measures import MEASURES
from riboray.evaluation.methods import list_methods
from riboray.evaluation.models import NamedModel, load_models, untrained_model
from riboray.evaluation.paper_page import PaperResults, write_page
from riboray.evaluation.partition import ClusterMethod
from riboray.evaluation.provenance import Source, sources_of
from riboray.evaluation.references import read_references
from riboray.evaluation.seed_families import (
    Member,
    draw_members,
    in_hash_order,
    one_of_each,
    usable_families,
)
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_path,
    entered,
    fingerprint,
    finished,
    tidy,
    write_config,
    write_json,
    write_manifest,
)
from riboray.options import command_line

__all__ = ["PAPER_KIND", "EvaluatePaperConfig", "evaluate_paper"]

PAPER_KIND = "paper evaluation"
#: What is measured of clusters, the paper's own score among it.
_MEASURES = ("kmer3", "identity", "pooled", "soft-align", "alignment", "centred-alignment")


@dataclass(frozen=True, kw_only=True)
class EvaluatePaperConfig:
    """Repeat the experiments of the RNABERT paper on public data: one command, one page.

    ``riboray evaluate paper --bralibase k2 --rfam Rfam.seed.gz --checkpoint mine=DIRECTORY``.
    Without data, the bundled sample of nine families shows what the page looks like.
    """

    bralibase: list[str] = field(default_factory=list)
    """Reference alignments, those of BRAliBase 2.1's k2: its folder, or whatever `evaluate
    alignment` reads."""
    rfam: list[str] = field(default_factory=list)
    """Seed alignments with structures, Stockholm: Rfam.seed.gz."""
    checkpoint: list[str] = field(default_factory=list)
    """Models: [NAME=]PATH, with ,padding=original or ,padding=masked, ,open= and ,extend= behind
    it as for `evaluate alignment`."""
    predictions: list[str] = field(default_factory=list)
    """Alignments of other aligners that exist already: [NAME=]PATH."""
    aligners: list[str] = field(default_factory=list)
    """Programs on PATH to run beside, or `installed` for all that are there."""
    baselines: list[str] = field(default_factory=lambda: ["identity", "ribosum", "untrained"])
    """Scores to compare with, as for `evaluate alignment`."""
    fit_gaps: list[str] = field(default_factory=list)
    """Development alignments to fit gap penalties to; see `evaluate alignment`."""
    gaps: GapPenalties = field(default_factory=GapPenalties)
    """Gap penalties of models, unless fitted or given with a checkpoint."""
    max_length: int = 440
    """Longest sequence, in nucleotides; those with other letters than A, C, G and U are left out
    too, as the published model knows no others."""
    max_pairs: int | None = None
    """Pairs aligned; of more, so many drawn by chance."""
    families: list[str] = field(default_factory=list)
    """Text files with the Rfam families to cluster and to map, one accession or name a line; name
    those kept out of training. Default: those with five sequences or more that come first by the
    sha256 of their accession."""
    family_count: int = 100
    """How many, where --families is not given."""
    members: int = 10
    """Sequences of each family, at most."""
    measures: list[str] = field(default_factory=lambda: list(_MEASURES))
    """Similarities to cluster by; `soft-align` is the paper's."""
    cluster_with: ClusterMethod = "spectral"
    """How to cluster: spectral, as the paper does, or agglomerative."""
    bases: int = 3000
    """Nucleotides laid out by t-SNE, about: whole sequences, a family after the other."""
    output: str = "paper"
    """Directory to make; the same command goes on in it where it stopped."""
    rounds: int = 2000
    """Draws for confidence intervals."""
    num_workers: int | None = None
    """Programs at a time; by default one for every CPU."""
    timeout: float = 600.0
    """Seconds that a program may take for a pair."""
    seed: int = 0
    """Of every draw, of the untrained model and of layouts."""

    def __post_init__(self) -> None:
        for name, lowest in {
            "family_count": 2,
            "members": 2,
            "bases": 50,
            "max_length": 20,
        }.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if self.families and not self.rfam:
            raise ConfigError("--families says which families of --rfam: give that too")
        if unknown := sorted({*self.measures} - {*MEASURES}):
            raise ConfigError(f"unknown measure {unknown[0]!r}; known are {', '.join(MEASURES)}")
        _alignment_config(self, self.bralibase or ["-"])  # says what is wrong with its options

    @property
    def is_sample(self) -> bool:
        """Whether no data are given."""
        return not self.bralibase and not self.rfam


class _Inputs(NamedTuple):
    """What is measured on."""

    bralibase: list[str]
    rfam: list[str]
    drawn: list[tuple[str, Member]]
    models: list[NamedModel]
    sources: list[Source]


def evaluate_paper(config: EvaluatePaperConfig) -> dict[str, Any]:
    """Run the experiments; write figures, tables and one page; return where they are.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that holds something else.

    Notes
    -----
    The directory gets ``report.html``, ``paper.json``, ``families.fa`` (the sequences clustered),
    ``bases.png``, and the directories ``alignment`` and ``clustering`` of those evaluations.
    """
    inputs = _inputs(config)
    identity = _identity(config, inputs)
    directory = Path(config.output).resolve()
    if (done := finished(directory, PAPER_KIND, identity)) is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **done.details}
    with entered(directory, PAPER_KIND, identity, "evaluating") as done:
        if done is not None:
            return {"output": str(directory), **done.details}
        write_config(directory / "resolved_config.yaml", asdict(config))
        results = PaperResults(
            command=command_line("evaluate paper", config),
            sample=config.is_sample,
            sources=inputs.sources,
            models={model.name: model.about for model in inputs.models},
        )
        if inputs.bralibase:
            _align(config, inputs, directory, results)
        if inputs.rfam:
            _cluster(config, inputs, directory, results)
            _map(config, inputs, directory, results)
        return _finish(directory, identity, results)


def _inputs(config: EvaluatePaperConfig) -> _Inputs:
    """Read what can be wrong before anything is computed."""
    bralibase, rfam = config.bralibase, config.rfam
    if config.is_sample:
        say("  no data given: the bundled sample of nine families")
        bralibase = rfam = [SAMPLE_ALIGNMENTS]
    if bralibase:
        read_references(bralibase, max_length=config.max_length, ambiguity=False)
        list_methods(_alignment_config(config, bralibase))
    models = load_models(config.checkpoint, MODEL_SETTINGS)
    drawn: list[tuple[str, Member]] = []
    if rfam:
        only = read_families(config.families)
        families = usable_families(rfam, only=only, longest=config.max_length)
        chosen = in_hash_order(families)[: None if only else config.family_count]
        drawn = draw_members(families, chosen, config.members, config.seed)
        say(f"  families    {len(chosen):,} of {len(families):,}, {len(drawn):,} sequences")
    sources = [
        *sources_of("reference alignments", bralibase),
        *sources_of("seed alignments", rfam),
        *sources_of("alignments to fit gap penalties to", config.fit_gaps),
        *sources_of("lists of families", config.families),
    ]
    return _Inputs(bralibase, rfam, drawn, models, sources)


def _identity(config: EvaluatePaperConfig, inputs: _Inputs) -> str:
    options = asdict(config)
    for name in ("output", "num_workers", "checkpoint", "bralibase", "rfam", "families"):
        options.pop(name)
    return fingerprint(
        {
            "options": options,
            "sources": [(source.role, source.sha256) for source in inputs.sources],
            "models": [(m.name, {**m.about, "path": None}) for m in inputs.models],
            "version": __version__,
        }
    )


def _alignment_config(
    config: EvaluatePaperConfig, reference: Sequence[str], output: str = "-"
) -> EvaluateAlignmentConfig:
    return EvaluateAlignmentConfig(
        reference=list(reference),
        checkpoint=config.checkpoint,
        predictions=config.predictions,
        aligners=config.aligners,
        baselines=config.baselines,
        fit_gaps=config.fit_gaps,
        gaps=config.gaps,
        output=output,
        max_pairs=config.max_pairs,
        max_length=config.max_length,
        ambiguity="reject",
        rounds=config.rounds,
        num_workers=config.num_workers,
        timeout=config.timeout,
        seed=config.seed,
    )


def _align(
    config: EvaluatePaperConfig, inputs: _Inputs, directory: Path, results: PaperResults
) -> None:
    say("\n  alignment")
    part = _alignment_config(config, inputs.bralibase, str(directory / "alignment"))
    evaluate_alignment(part)
    results.commands["Alignment"] = command_line("evaluate alignment", part)
    results.alignment = _read_json(directory / "alignment" / "alignment.json")


def _cluster(
    config: EvaluatePaperConfig, inputs: _Inputs, directory: Path, results: PaperResults
) -> None:
    say("\n  families")
    fasta = directory / "families.fa"
    with atomic_path(fasta) as temporary:
        records = (f">{m.id} {family}\n{m.sequence}\n" for family, m in inputs.drawn)
        temporary.write_text("".join(records), "utf-8")
    models = [f"{m.name}={m.loaded.name},padding={m.model.config.padding}" for m in inputs.models]
    part = EvaluateClusteringConfig(
        input=[str(fasta)],
        checkpoint=models,
        measures=[n for n in config.measures if models or not MEASURES[n].needs_model],
        cluster_with=config.cluster_with,
        duplicate_ids="reject",
        output=str(directory / "clustering"),
        resamples=config.rounds,
        seed=config.seed,
    )
    evaluate_clustering(part)
    results.commands["Families"] = command_line("evaluate clustering", part)
    results.clustering = _read_json(directory / "clustering" / "clustering.json")


def _map(
    config: EvaluatePaperConfig, inputs: _Inputs, directory: Path, results: PaperResults
) -> None:
    bases = BaseSet.of(one_of_each(inputs.drawn, config.bases))
    say(
        f"\n  bases       {len(bases):,} of {len(bases.sequences):,} sequences, "
        f"{bases.families:,} families"
    )
    embedders = [(model.name, Embedder(model.model).per_base) for model in inputs.models]
    embedders.append(("untrained", Embedder(untrained_model(config.seed)).per_base))
    seen = look(bases, embedders, config.seed)
    draw_bases(directory / "bases.png", bases, seen)
    results.bases = {
        "bases": len(bases),
        "sequences": len(bases.sequences),
        "families": bases.families,
        "classes": bases.counted,
        "seen": [one.figures() for one in seen],
    }
    for one in seen:
        show(f"  {one.name}: nucleotide {one.nucleotide:.3f}, context {one.context:.3f}")


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def _finish(directory: Path, identity: str, results: PaperResults) -> dict[str, Any]:
    write_page(directory, results)
    write_json(directory / "paper.json", asdict(results))
    names = ("bases.png", "families.fa", "paper.json", "report.html", "resolved_config.yaml")
    files = tuple(FileEntry.of(directory / n) for n in names if (directory / n).is_file())
    details = {"report": str(directory / "report.html")}
    write_manifest(
        directory, Manifest(kind=PAPER_KIND, fingerprint=identity, files=files, details=details)
    )
    tidy(directory)
    say(f"\n  report      {directory / 'report.html'}")
    return {"output": str(directory), **details}
