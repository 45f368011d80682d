"""From FASTA, Parquet and Stockholm files to a corpus directory.

The steps: `parts` (screen, hash, deal to partitions), `mapping` (join taxids and RNA types),
`partitions` (filter, deduplicate), `naming` (unique ids), `shards` (what users see). What one step
hands to the next lies in ``work/`` below the output and is whole or absent, so a run that was
killed goes on with what is there. Nothing depends on how many processes do the work or in which
order.

``work/`` is not forced to disk: it would cost more than it saves. A machine that goes down loses
it, and the next run, which sees another boot, begins again.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from riboray import __version__
from riboray.corpus.config import IngestConfig
from riboray.corpus.files import location
from riboray.corpus.inputs import InputFile, find_inputs, identify, local_size
from riboray.errors import ConfigError, CorpusError, RiborayError, StockholmError
from riboray.manifest import (
    Manifest,
    claim,
    exclusive,
    fingerprint,
    finished,
    tidy,
    write_config,
    write_manifest,
)
from riboray.room import check_disk

__all__ = ["CORPUS_KIND", "Inputs", "Runner", "SerialRunner", "ingest"]

CORPUS_KIND = "corpus"

#: Bytes on disk, while it works, for a byte of text: parts, partitions and the shards themselves.
_ROOM = 3.0
#: The same with windows, which overlap by half, each with the description of its record.
_ROOM_WITH_WINDOWS = 8.0
#: How much gzip shortens FASTA, about.
GZIP_FACTOR = 4


class Runner(Protocol):
    """Something that calls functions, here or in other processes."""

    @property
    def workers(self) -> int:
        """How many calls are made at a time."""

    def map(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Call ``function(*item)`` for every item; yield results as they come, in any order."""


class SerialRunner:
    """Calls functions in this process, one after the other."""

    workers = 1

    def map(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Call ``function(*item)`` for every item."""
        for item in items:
            yield function(*item)


@dataclass(frozen=True)
class Inputs:
    """The files of a run, found and looked at.

    Attributes
    ----------
    corpus, exclude : list of InputFile
        Sequences to take, and to leave out.
    excluded_families : tuple of str
        Accessions and names.
    identity : str
        Hash of all inputs' contents and of the options that matter.
    """

    corpus: list[InputFile]
    exclude: list[InputFile]
    excluded_families: tuple[str, ...]
    identity: str

    @classmethod
    def find(cls, config: IngestConfig) -> Inputs:
        """Find the inputs of a run.

        Raises
        ------
        InputError
            If one is missing, unreadable or empty.
        """
        output = Path(config.output).resolve()
        corpus = find_inputs(config.corpus, output)
        exclude = find_inputs(config.exclude, output, validation=True)
        families = config.families_to_exclude()
        if families and not config.alignments and all(f.kind != "parquet" for f in corpus):
            raise ConfigError(
                "--exclude-families needs --alignments with these families (or Parquet files that "
                "name families): nothing else says which sequences are meant"
            )
        _refuse_twice(config.alignments)
        values = config.fingerprint_values()
        values["corpus"] = [file.identity for file in corpus]
        values["exclude"] = [file.identity for file in exclude]
        values["exclude_families"] = families
        values["alignments"] = [
            identify(path, StockholmError, "Stockholm") for path in config.alignments
        ]
        if config.id_mapping is not None:
            values["id_mapping"] = identify(config.id_mapping, CorpusError, "tab-separated")
        return cls(corpus, exclude, families, fingerprint(values))

    def room_bytes(self, config: IngestConfig) -> float:
        """Bytes on disk that the run needs while it works, about."""
        factor = _ROOM if config.on_long != "window" else _ROOM_WITH_WINDOWS
        mapping = [] if config.id_mapping is None else [config.id_mapping]
        # Pairs take about ten times the size of gzipped seed alignments.
        others = 10 * sum(map(local_size, config.alignments)) + 4 * sum(map(local_size, mapping))
        return factor * self.text_bytes + others

    @property
    def text_bytes(self) -> int:
        """Bytes of text to read, about."""
        factors = {"fasta": 1, "fasta.gz": GZIP_FACTOR, "parquet": 3}
        return sum(file.size * factors[file.kind] for file in (*self.exclude, *self.corpus))


def ingest(
    config: IngestConfig,
    *,
    report: Callable[[str], None] = lambda _: None,
    runner: Runner | None = None,
    inputs: Inputs | None = None,
    progress: Callable[[float, str], None] = lambda share, figures: None,
) -> Manifest:
    """Make a corpus directory, or recognise the one that is there.

    Parameters
    ----------
    config : IngestConfig
        Inputs, output and rules.
    report : callable
        Receives a line for people now and then; what begins with ``warning: `` is not to be missed.
    runner : Runner, optional
        Where the work is done; in this process by default.
    inputs : Inputs, optional
        What `Inputs.find` gave for this configuration, if it was asked already.
    progress : callable
        Receives the share done and a line of figures.

    Returns
    -------
    Manifest
        Of the corpus; ``counts`` accounts for every record.

    Raises
    ------
    InputError
        If an input is unusable as a whole, or nothing usable is in it. Nothing is left behind.
    OutputError
        If the output directory holds something else, or another process is at work in it.

    Notes
    -----
    Rows are ordered by the sha256 of their sequence: shards are random samples of the input, and
    the same whatever the order of the input's records, but for records that share a sequence or an
    id: of these the first is kept, or keeps its name.
    """
    output = Path(config.output).resolve()
    inputs = inputs or Inputs.find(config)
    done = finished(output, CORPUS_KIND, inputs.identity)
    if done is not None:
        _tidy(output)
        report(f"corpus {output} is complete already")
        return done
    room = inputs.room_bytes(config)
    check_disk(output, room, "choose another --output, or ingest fewer files")
    new_parents = [path for path in (output, *output.parents) if not path.exists()]
    claim(output, CORPUS_KIND, inputs.identity)
    with exclusive(output, "another process is making a corpus in it"):
        if (done := finished(output, CORPUS_KIND, inputs.identity)) is not None:
            return done  # another process was faster
        try:
            manifest = _make(config, inputs, output, runner or SerialRunner(), report, progress)
        except RiborayError as error:
            if error.exit_code == 2:  # nothing that is there could be of use later
                shutil.rmtree(output, ignore_errors=True)
                for parent in new_parents[1:]:
                    with suppress(OSError):
                        parent.rmdir()
            raise
        write_manifest(output, manifest)
        _tidy(output)
    return manifest


def _make(
    config: IngestConfig,
    inputs: Inputs,
    output: Path,
    runner: Runner,
    report: Callable[[str], None],
    progress: Callable[[float, str], None],
) -> Manifest:
    from riboray.corpus.steps import Run

    write_config(output / "resolved_config.yaml", asdict(config))
    work = output / "work"
    boot = _boot()
    mark = work / "boot"
    if work.exists() and not (mark.is_file() and _goes_on(mark.read_text(), boot)):
        report("what an earlier run left may be torn, or is of another version: beginning again")
        shutil.rmtree(work)
    work.mkdir(exist_ok=True)
    mark.write_text(boot)
    run = Run(config, inputs, output, work, runner, report, progress)
    files = run.make()
    return Manifest(
        kind=CORPUS_KIND,
        fingerprint=inputs.identity,
        files=tuple(sorted(files, key=lambda entry: entry.name)),
        counts=run.counts,
        details={"config": asdict(config), **run.details},
    )


def _refuse_twice(paths: list[str]) -> None:
    places = [location(path) for path in paths]
    for number, (path, place) in enumerate(zip(paths, places, strict=True)):
        if place in places[:number]:
            raise CorpusError(path, "is given twice")


def _boot() -> str:
    """Return the version at work, the machine, and what changes when the machine starts anew."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = "unknown"
    return f"{__version__} {platform.node()} {boot}"


def _goes_on(before: str, now: str) -> bool:
    """Tell whether work of another run can be trusted: not after its machine went down."""
    old, new = before.split(), now.split()
    return old[:1] == new[:1] and (old[1:2] != new[1:2] or old == new)


def _tidy(output: Path) -> None:
    """Remove what a finished corpus does not need."""
    shutil.rmtree(output / "work", ignore_errors=True)
    tidy(output)
