"""The verb `corpus-stats`: what a corpus directory holds, what was left out of it, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from riboray.console import say, show, show_columns
from riboray.corpus.counting import SPLITS, count_files, opened_parquet, split_of
from riboray.corpus.structure import SS_CLASSES
from riboray.errors import ConfigError, CorpusError
from riboray.manifest import MANIFEST_NAME, Manifest, check_writable, read_manifest
from riboray.page import printable
from riboray.room import byte_size

__all__ = ["CorpusStatsConfig", "Table", "corpus_stats", "headline", "tables"]

FIGURE_SUFFIXES = (".png", ".svg", ".html")
KINDS = ("sequences", "windows", "families", "rows")
OUTCOMES = ("kept", "duplicates", "rejected", "filtered")

Stats = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CorpusStatsConfig:
    """Describe a corpus directory: what it holds, what was left out of it, and why."""

    POSITIONAL: ClassVar[str] = "corpus"

    corpus: list[str] = field(default_factory=list)
    """Directory that `riboray ingest` made; may be given without the flag."""
    figure: str | None = None
    """File to draw into: .png, .svg, or .html, a page with the figures and every table. By default
    nothing is drawn."""
    top: int = 15
    """RNA types, families and taxa that are listed at most, the largest first."""

    def __post_init__(self) -> None:
        if len(self.corpus) != 1:
            raise ConfigError(f"give one corpus directory, not {len(self.corpus)}")
        if self.top < 1:
            raise ConfigError(f"top must be at least 1, not {self.top}")
        if self.figure is not None and Path(self.figure).suffix not in FIGURE_SUFFIXES:
            endings = ", ".join(FIGURE_SUFFIXES)
            raise ConfigError(f"figure {self.figure!r} must end in one of {endings}")


def corpus_stats(config: CorpusStatsConfig) -> Stats:
    """Count what a corpus holds, print it as tables, and draw it if asked.

    Parameters
    ----------
    config : CorpusStatsConfig
        The directory, and what to draw.

    Returns
    -------
    dict
        Every figure of the tables, fit for JSON.

    Raises
    ------
    CorpusError
        If the directory is no corpus, a file of it is damaged, or rows and manifest disagree.
    ConfigError
        If the figure cannot be written; found out before anything is counted.

    Notes
    -----
    Files are read a batch at a time and only counts are kept: memory does not grow with the number
    of sequences, but with that of different lengths, families and taxa.
    """
    directory = Path(config.corpus[0])
    manifest = read_manifest(directory, "corpus")
    if manifest is None:
        raise CorpusError(directory, "no corpus manifest; make one with `riboray ingest`")
    if config.figure is not None:
        check_writable(Path(config.figure), "figure")
    stats = _describe(directory, manifest, config.top)
    show_tables(stats)
    if config.figure is not None:
        from riboray.corpus.figures import write_figure

        write_figure(stats, Path(config.figure))
        stats["figure"] = config.figure
        say(f"figure in {config.figure}")
    return stats


def _describe(directory: Path, manifest: Manifest, top: int) -> Stats:
    rows = _check_rows(directory, manifest)
    counted = count_files(directory, rows, top)
    return {
        "corpus": str(directory),
        "fingerprint": manifest.fingerprint,
        "riboray_version": manifest.riboray_version,
        "problems": [
            *_problems(manifest, directory),
            *_wrong_nucleotides(manifest, counted["nucleotides"]),
            *counted.pop("problems"),
        ],
        "accounting": {kind: a for kind in KINDS if (a := _account(manifest.counts, kind))},
        **{key: manifest.details[key] for key in ("reasons", "split") if key in manifest.details},
        **counted,
        "files": _files(manifest),
        "bytes": sum(e.bytes for e in manifest.files) + (directory / MANIFEST_NAME).stat().st_size,
    }


def _files(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Add files up by kind."""
    files: dict[str, dict[str, int]] = {}
    for entry in manifest.files:
        split, name = split_of(entry.name)
        label = name if split == "train" else f"validation_{name}"
        kind = files.setdefault(label, {"files": 0, "rows": 0, "bytes": 0})
        kind["files"] += 1
        kind["rows"] += entry.rows or 0
        kind["bytes"] += entry.bytes
    return files


def _account(counts: dict[str, int], kind: str) -> dict[str, int]:
    """Say what became of the records of one kind; empty if the manifest does not say."""
    account = {o: counts[f"{kind}_{o}"] for o in ("read", *OUTCOMES) if f"{kind}_{o}" in counts}
    return {o: account.get(o, 0) for o in ("read", *OUTCOMES)} if account else {}


def _problems(manifest: Manifest, directory: Path) -> list[str]:
    """Find what is wrong with the books, though the corpus can be read."""
    problems = []
    for kind in KINDS:
        account = _account(manifest.counts, kind)
        outcomes = sum(account.get(outcome, 0) for outcome in OUTCOMES)
        if account and account["read"] != outcomes:
            problems.append(
                f"{kind} do not add up: {account['read']:,} read, but kept, duplicates, rejected "
                f"and filtered make {outcomes:,}"
            )
    listed = {entry.name for entry in manifest.files}
    found = sorted(path.name for path in directory.glob("*.parquet"))
    problems += [f"{n} is not in the manifest: not counted" for n in found if n not in listed]
    return problems


def _wrong_nucleotides(manifest: Manifest, found: dict[str, int]) -> list[str]:
    wanted, total = manifest.details.get("nucleotides"), sum(found.values())
    if wanted in (None, total):
        return []
    return [f"the files hold {total:,} nucleotides, but the manifest says {wanted:,}"]


def _check_rows(directory: Path, manifest: Manifest) -> dict[str, int]:
    """Compare rows with the manifest, by file and in all; return the rows of each file."""
    rows: dict[str, int] = {}
    for entry in manifest.files:
        if not entry.name.endswith(".parquet"):
            continue
        with opened_parquet(directory / entry.name) as file:
            rows[entry.name] = number = file.metadata.num_rows
        if entry.rows not in (None, number):
            reason = f"holds {number:,} rows; its manifest says {entry.rows:,}"
            raise CorpusError(directory / entry.name, reason)
    found = sum(n for name, n in rows.items() if split_of(name)[1] == "sequences")
    wanted = sum(manifest.counts.get(f"{kind}_kept", 0) for kind in ("sequences", "windows"))
    if found != wanted:
        raise CorpusError(
            directory,
            f"the files hold {found:,} sequences, but sequences_kept and windows_kept of the "
            f"manifest make {wanted:,}; make the corpus anew with `riboray ingest`",
        )
    return rows


class Table(NamedTuple):
    """A heading, titles of columns, and rows. The first ``texts`` columns are words."""

    heading: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int = 1
    detail: bool = False
    """Too long for a terminal."""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def share(part: float, whole: float) -> str:
    """Say a part in per cent; what is there is never 0.0 %."""
    percent = 100 * part / whole if whole else 0.0
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def tables(stats: Stats) -> list[Table]:
    """Lay the statistics out as tables.

    Parameters
    ----------
    stats : dict
        From `riboray.corpus.stats.corpus_stats`.

    Returns
    -------
    list of Table
        Those that have rows.
    """
    return [table for table in _all_tables(stats) if table.rows]


def _all_tables(stats: Stats) -> Iterator[Table]:
    books = stats["accounting"]
    yield Table(
        "Records read, and what became of them",
        ("records", "read", *OUTCOMES),
        [(k, *(_number(n) for n in account.values())) for k, account in books.items()],
    )
    reasons = [
        (outcome, printable(reason), _number(number))
        for outcome, of_outcome in stats.get("reasons", {}).items()
        for reason, number in sorted(of_outcome.items(), key=lambda item: -item[1])
    ]
    yield Table("Why records were left out", ("outcome", "reason", "records"), reasons, texts=2)
    both = ("sequences", "nucleotides", "pairs")
    content = [(name, *(_number(stats[name][s]) for s in SPLITS)) for name in both]
    yield Table("Content", ("", "training", "validation"), content)
    split = stats["split"].items() if isinstance(stats.get("split"), dict) else ()
    listed = [(k, ", ".join(map(str, v)) or "none" if isinstance(v, list) else v) for k, v in split]
    rows = [(printable(k), printable(v, 200)) for k, v in listed]
    yield Table("Validation", ("", ""), rows, texts=2)
    lengths = stats["lengths"]
    cuts = ("min", "q1", "median", "q3", "max", "mean")
    yield Table("Lengths (nt)", cuts, [tuple(_number(lengths[cut]) for cut in cuts)], texts=0)
    yield _composition(stats)
    titles = {"rna_types": "RNA types", "families": "Families", "taxa": "Taxa (NCBI)"}
    for key, title in titles.items():
        yield _ranking(title, stats[key])
    yield _ranking("Families of the seed alignments", stats["members"]["families"])
    classes = stats["members"]["structure_classes"]
    yield Table(
        f"Structure classes of {stats['members']['with_structure']:,} seed sequences",
        ("class", "nucleotides", "share"),
        [
            (f"{digit} {SS_CLASSES[digit]}", _number(n), share(n, sum(classes.values())))
            for digit, n in classes.items()
        ],
    )
    files = [
        (printable(kind), *(_number(f[k]) for k in ("files", "rows")), byte_size(f["bytes"]))
        for kind, f in stats["files"].items()
    ]
    yield Table("Files", ("", "files", "rows", "bytes"), files)
    yield from _histograms(stats)


def _histograms(stats: Stats) -> Iterator[Table]:
    histogram = stats["lengths"]["histogram"]
    bins = zip(histogram["edges"], histogram["train"], histogram["validation"], strict=False)
    lengths = [(f"from {low}", _number(train), _number(held)) for low, train, held in bins]
    yield Table("Histogram of lengths", ("nt", "training", "validation"), lengths, detail=True)
    identity = stats["pairs"]["identity"]["histogram"]
    shares = zip(identity["edges"], identity["counts"], strict=False)
    rows = [(f"from {low:.2f}", _number(n)) for low, n in shares if sum(identity["counts"])]
    yield Table("Histogram of pair identity", ("identity", "pairs"), rows, detail=True)


def _composition(stats: Stats) -> Table:
    composition = stats["composition"]
    letters = composition["letters"]
    total = sum(letters.values())
    rows = [(letter, _number(n), share(n, total)) for letter, n in letters.items()]
    if composition["gc_share"] is not None:
        rows.append(("G or C, of ACGU", "", share(composition["gc_share"], 1)))
    sequences = sum(stats["sequences"].values())
    ambiguous = composition["with_ambiguity"]
    rows.append(("sequences with ambiguity codes", _number(ambiguous), share(ambiguous, sequences)))
    return Table("Composition", ("letter", "number", "share"), rows)


def label(entry: Stats, width: int = 60) -> str:
    """Name a family with its title, or another label."""
    name, title = entry["name"], entry.get("title")
    return printable(name if title in (None, name) else f"{name} {title}", width) or "(empty)"


def _ranking(title: str, ranking: Stats) -> Table:
    """Lay out labels by sequences; a label that no sequence has makes no table."""
    if not ranking["number"]:
        return Table(title, (), [])
    rows = [(label(entry), _number(entry["sequences"])) for entry in ranking["top"]]
    if left := ranking["number"] - len(rows):
        rows.append((f"{left:,} others", _number(ranking["others"])))
    if ranking["without"]:
        rows.append(("unknown", _number(ranking["without"])))
    sizes = ranking["sizes"]
    span = f"{_number(sizes['min'])}–{_number(sizes['max'])}, median {_number(sizes['median'])}"
    heading = f"{title}: {ranking['number']:,} ({span} sequences each)"
    return Table(heading, ("", "sequences"), rows)


def headline(stats: Stats) -> str:
    """Say what the corpus holds in a line."""
    sequences, nucleotides = (sum(stats[k].values()) for k in ("sequences", "nucleotides"))
    pairs = stats["pairs"]["train"] + stats["pairs"]["validation"]
    line = f"{sequences:,} sequences, {nucleotides:,} nt"
    return line + (f", {pairs:,} pairs of {stats['pairs']['families']:,} families" if pairs else "")


def show_tables(stats: Stats) -> None:
    """Print the tables to standard error."""
    show(f"corpus {printable(stats['corpus'], 200)}: {headline(stats)}")
    for table in tables(stats):
        if table.detail:
            continue
        show(f"\n{table.heading}")
        cells = [table.columns, *table.rows] if any(table.columns) else table.rows
        show_columns(cells, table.texts)
    for problem in stats["problems"]:
        show(f"\nWARNING: {printable(problem, 300)}")
