"""Options of the verb `embed`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from riboray.corpus.config import ColumnNames, DuplicateIds, OnInvalid
from riboray.errors import ConfigError
from riboray.model.bundled import DEFAULT_MODEL
from riboray.rayenv import check_memory_per_worker

__all__ = ["STRIDE", "EmbedConfig", "PartwiseOptions", "resolve_layers"]

Precision = Literal["float32", "bfloat16"]

#: With ``fast`` likelihoods, every so manieth base is hidden at a time: 1/7 is near the 15 % of
#: training.
STRIDE = 7

#: Bytes of a value.
_SIZES = {"float16": 2, "float32": 4}

#: Options that do not change what is made.
_WITHOUT_EFFECT = (
    *("output", "device", "compile", "checkpoint"),
    *("num_workers", "memory_per_worker", "ray_address", "dry_run"),
)


@dataclass(frozen=True, kw_only=True)
class PartwiseOptions:
    """What verbs have in common that read sequences part by part and make a file of each."""

    LESS_SPACE: ClassVar[str] = "write elsewhere"
    """What to do if there is not room enough."""

    input: list[str] = field(default_factory=list)
    """Sequences: FASTA files (plain or gzip), Parquet files, folders, corpora that `riboray ingest`
    made, patterns such as 'dir/*.fa.gz' and URLs (s3://, gs://, https://); may be given first,
    without the flag."""
    columns: ColumnNames = field(default_factory=ColumnNames)
    """Columns of Parquet files."""
    on_long: Literal["window", "truncate", "reject"] = "window"
    """RNAs longer than the model: average windows of its full width, each half a window further;
    take their beginning; or leave them out and list them in rejects.parquet."""
    duplicate_ids: DuplicateIds = "error"
    """What to do with a second record of one id: stop, append .2, .3, … to it, or leave it out."""
    on_invalid: OnInvalid = "error"
    """What to do with a record that is no RNA: stop, or leave it out and list it in
    rejects.parquet."""
    shard_bytes: int | None = None
    """Text of the input that goes into one output file, in bytes; what is lost when a process dies
    is at most one file's work. By default a 64th of the input, from 64 KiB to 2 MiB."""
    token_budget: int | None = None
    """Tokens that go through the model at once; by default 8,192 on a CPU and 131,072 on a GPU,
    where a batch that does not fit is halved until it does."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the model runs; auto takes GPUs if the cluster has any now."""
    num_workers: int | list[int] | None = None
    """Processes that run the model, a CPU or a GPU each; [least, most] lets the pool grow and
    shrink with the cluster. By default one for every CPU or GPU there is."""
    memory_per_worker: float | None = None
    """GiB that each process reserves of its machine; nothing by default. Say it where machines have
    less memory than their CPUs' processes take: Ray then puts fewer there, or adds machines."""
    ray_address: str | None = None
    """Ray cluster to use; by default the one of the job, else a Ray of its own on this machine."""
    dry_run: bool = False
    """Read and check the input, say what would be made and how long it would take, and stop."""

    def __post_init__(self) -> None:
        check_memory_per_worker(self.memory_per_worker)
        for name, least in (("shard_bytes", 64), ("token_budget", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        given = self.num_workers
        numbers = given if isinstance(given, list) else [given or 1] * 2
        if given == 0 or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
            raise ConfigError(f"num_workers must be a number or [least, most], not {given}")

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the options that decide what is made; inputs are told by their content."""
        return {k: v for k, v in asdict(self).items() if k not in _WITHOUT_EFFECT}

    def bytes_about(self, rows: int, nucleotides: int, width: int) -> float:
        """Estimate the size of what is made of so many sequences, by a model of a width."""
        raise NotImplementedError

    def passes(self, window: float, width: int) -> float:
        """Tell how often a sequence goes through the model, by the mean length of its windows."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(PartwiseOptions):
    """Embed RNAs: ``riboray embed RNAS.fa --checkpoint MODEL --output EMBEDDINGS``.

    Order and ids of the input are kept, and every record is embedded or, with its reason, in
    rejects.parquet. Killed at any moment, the same command goes on; the result is the same, byte
    for byte.
    """

    POSITIONAL: ClassVar[str] = "input"
    LESS_SPACE: ClassVar[str] = "leave out --per-base, use --dtype float16, or write elsewhere"

    checkpoint: str = DEFAULT_MODEL
    """Model: one that comes with riboray, by its name; a directory that riboray or MultiMolecule
    wrote; the published .pth; or an id of the Hugging Face Hub."""
    output: str = "embeddings"
    """Directory to make; the same command goes on in it where it stopped. On a cluster: a path that
    every node sees."""

    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers to take embeddings from: 0 is what goes into the first layer, 6 (or -1) what comes out
    of the last. With several, columns are called embedding_layer_4 and so on."""
    pooling: Literal["mean", "max", "first"] = "mean"
    """How the base embeddings of a sequence become one: their mean, their largest value in each
    dimension, or that of the first base."""
    per_base: bool = False
    """Keep the embedding of every base too; `riboray search` is faster with it."""
    log_likelihood: Literal["none", "fast", "exact"] = "none"
    """Add each sequence's pseudo-log-likelihood (nats) and pseudo-perplexity: every base hidden by
    itself (exact: as many passes as bases), or every seventh at a time, as dense as in training
    (fast: seven passes)."""
    normalise: bool = False
    """Scale pooled embeddings to length 1, so that dot products are cosines."""
    format: Literal["arrow", "parquet", "npy"] = "arrow"
    """Files to write: Arrow IPC, which programs map into memory (`riboray search` wants it);
    Parquet; or NumPy matrices with an Arrow file of ids beside each."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the pooled embeddings."""
    per_base_dtype: Literal["float32", "float16"] = "float16"
    """Type of the base embeddings."""
    precision: Precision = "float32"
    """Arithmetic of the encoder. bfloat16 is half as fast again on a GPU, and changes what is made:
    one nearest neighbour in 25 (docs/embedding.md). By how much is measured and printed."""
    compile: bool = False
    """Compile the model with torch.compile; pays on a GPU in long runs."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("nothing to embed: give files, folders or URLs")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"layers must name each layer once, not {self.layers}")
        super().__post_init__()

    def bytes_about(self, rows: int, nucleotides: int, width: int) -> float:
        """Estimate the size of the embeddings."""
        layers = len(self.layers)
        size = rows * (60.0 + layers * width * _SIZES[self.dtype]) + nucleotides
        if self.per_base:
            size += float(layers * width * _SIZES[self.per_base_dtype]) * nucleotides
        return size

    def passes(self, window: float, width: int) -> float:
        """Count those for likelihoods, too."""
        passes = {"none": 1.0, "fast": 1.0 + STRIDE}.get(self.log_likelihood)
        return 1.0 + min(window, width) if passes is None else passes


def resolve_layers(layers: list[int], count: int) -> tuple[int, ...]:
    """Return layers as numbers from 0 to ``count``, in the order given.

    Raises
    ------
    ConfigError
        If the model has no such layer, or one is named twice.
    """
    found = tuple(layer + count + 1 if layer < 0 else layer for layer in layers)
    if any(not 0 <= layer <= count for layer in found) or len(set(found)) < len(found):
        raise ConfigError(f"the model has layers 0 to {count} (-1 is {count}), not {layers}")
    return found
