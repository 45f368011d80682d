"""What is done before the first sequence is embedded: reading, counting, an estimate."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from riboray.console import clock, say
from riboray.corpus.ingestion import GZIP_FACTOR, Runner, SerialRunner
from riboray.corpus.inputs import InputFile, find_inputs
from riboray.corpus.screening import Rules
from riboray.embedding.config import PartwiseOptions
from riboray.embedding.estimate import estimate_seconds
from riboray.embedding.local import LocalPool
from riboray.embedding.planning import Plan, PlanRules, make_plan
from riboray.embedding.reading import Source, list_source
from riboray.model.checkpoint import LoadedCheckpoint
from riboray.rayenv import LOCAL
from riboray.room import byte_size, check_disk

if TYPE_CHECKING:
    from riboray.embedding.pipeline import EmbeddingPool

__all__ = ["Preparation", "find_sources"]

#: Text of a file's part by default: a share of the input between these bounds.
_FILES, _LEAST_TEXT, _MOST_TEXT = 64, 64 << 10, 2 << 20
#: Text that this process reads by itself before it starts Ray.
_SMALL_TEXT = 64 << 20
#: Work of one core that this process does itself: Ray, its workers and their imports take as long.
_SMALL_SECONDS = 30.0


def find_sources(config: PartwiseOptions, directory: Path) -> list[Source]:
    """Return the input's files, each with how it is read in parts.

    Raises
    ------
    RiborayError
        If one is missing or of no known kind.
    """
    files = find_inputs(config.input, directory, validation=True)
    share = sum(map(_text_size, files)) // _FILES
    size = config.shard_bytes or min(max(share, _LEAST_TEXT), _MOST_TEXT)
    return [list_source(k, file, size, config.columns) for k, file in enumerate(files)]


def _text_size(file: InputFile) -> int:
    """Bytes of text in a file, about."""
    return file.size * {"fasta": 1, "fasta.gz": GZIP_FACTOR, "parquet": 3}[file.kind]


def _plan_rules(config: PartwiseOptions, loaded: LoadedCheckpoint) -> PlanRules:
    width = loaded.model.config.max_sequence_length
    has_codes = loaded.model.config.tokens.id_of("N") is not None
    rules = Rules(
        min_length=1,
        max_length=width if config.on_long == "reject" else 1 << 62,
        ambiguity="keep" if has_codes else "reject",
        on_long="reject",
    )
    return PlanRules(
        rules=rules,
        columns=config.columns,
        width=width,
        truncate=config.on_long == "truncate",
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
    )


class Preparation:
    """An input, a model and an output directory, before work begins.

    Parameters
    ----------
    config : PartwiseOptions
        The options.
    loaded : LoadedCheckpoint
        The model.
    sources : list of Source
        The input's files.
    directory : Path
        Where the output goes; it is there, and this process's alone.
    address : str
        Which Ray.
    scratch : Path, optional
        Folder for notes on the way, in place of one in the output directory, which need not be
        there then.

    Attributes
    ----------
    given : PlanRules
        What is accepted of the input.
    """

    def __init__(
        self,
        config: PartwiseOptions,
        loaded: LoadedCheckpoint,
        sources: list[Source],
        directory: Path,
        address: str,
        scratch: Path | None = None,
    ) -> None:
        self.config, self.loaded, self.sources = config, loaded, sources
        self.directory, self.address = directory, address
        self.given = _plan_rules(config, loaded)
        self._path = (scratch or directory / "work") / "plan.json"
        self._plan = Plan.read(self._path)

    def pool(self) -> AbstractContextManager[EmbeddingPool | LocalPool]:
        """Choose where to work: here for little, on Ray for much or where it is asked for."""
        if self._plan is None and sum(_text_size(s.file) for s in self.sources) <= _SMALL_TEXT:
            self.plan(SerialRunner())  # mistakes show before Ray is started
        config = self.config
        asked = config.num_workers is not None or self.address != LOCAL
        gpu = config.device == "gpu" or (config.device == "auto" and torch.cuda.is_available())
        if self._plan is not None and not (asked or gpu) and self._seconds < _SMALL_SECONDS:
            return nullcontext(LocalPool())
        from riboray.embedding.pipeline import embedding_pool

        return embedding_pool(config, self.address)

    def plan(self, runner: Runner) -> Plan:
        """Return which records go into which file; read the input for it if nobody has yet.

        Raises
        ------
        RiborayError
            On input that cannot be used.
        """
        if self._plan is None:
            more = f" and {len(self.sources) - 3} more" if len(self.sources) > 3 else ""
            names = ", ".join(source.file.path for source in self.sources[:3])
            say(f"  reading     {names}{more}")
            self._plan = make_plan(self.sources, self.given, runner)
            self._plan.write(self._path)
        return self._plan

    @cached_property
    def _seconds(self) -> float:
        """Seconds that one process takes, about."""
        assert self._plan is not None
        model = self.loaded.model
        return estimate_seconds(self.config, model, self.sources, self._plan, self.given)

    def rehearse(self) -> dict[str, Any]:
        """Say what would be made, without a pool; return the figures.

        Raises
        ------
        RiborayError
            As `plan` and `announce`.
        """
        plan = self.plan(SerialRunner())
        config = self.config
        gpu = config.device == "gpu" or (config.device == "auto" and torch.cuda.is_available())
        given = config.num_workers or os.cpu_count() or 1
        workers = given if isinstance(given, int) else given[0]
        if config.num_workers is None and not gpu and self._seconds < _SMALL_SECONDS:
            workers = 1
        size = self.announce(f"{workers}", workers, use_gpu=gpu)
        return {
            "dry_run": True,
            "sequences_read": plan.total("read"),
            "sequences": plan.total("rows"),
            "nucleotides": plan.total("nucleotides"),
            "files": len(plan.parts),
            "bytes_about": round(size),
            "seconds_about": None if gpu else round(self._seconds / workers, 1),
        }

    def announce(self, workers: str, least: int, *, use_gpu: bool) -> float:
        """Say what is to be made and how long it takes, and refuse what the disk cannot hold.

        Parameters
        ----------
        workers : str
            How many processes, in words.
        least : int
            How many at least.
        use_gpu : bool
            Whether they have a GPU each.

        Returns
        -------
        float
            Bytes of what is to be made, about.

        Raises
        ------
        RiborayError
            If there is not room enough.
        """
        assert self._plan is not None
        config, directory = self.config, self.directory
        rows, nucleotides = self._plan.total("rows"), self._plan.total("nucleotides")
        size = config.bytes_about(rows, nucleotides, self.loaded.model.config.hidden_size)
        kind = "GPU" if use_gpu else "CPU"
        say(f"  {rows:,} sequences, {nucleotides:,} nt; about {byte_size(size)}")
        say(f"  workers     {workers}, a {kind} each")
        there = directory.iterdir() if directory.is_dir() else ()
        done = sum(path.stat().st_size for path in there if path.is_file())
        check_disk(directory, max(size - done, 0), config.LESS_SPACE)
        if not use_gpu:
            say(f"  estimate    {clock(self._seconds / least)}, by the speed of this process")
        return size
