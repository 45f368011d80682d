"""The verb `embed`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from riboray.console import Progress, say
from riboray.corpus.rejects import write_rejects
from riboray.corpus.sequences import NamedSequences, read_sequences
from riboray.embedding.config import EmbedConfig
from riboray.embedding.shards import Shard
from riboray.embedding.store import EMBEDDINGS_KIND, shard_done
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_path,
    claim,
    finished,
    write_manifest,
)
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import prepare_ray
from riboray.room import byte_size, check_disk

__all__ = ["embed"]


def embed(config: EmbedConfig) -> dict[str, Any]:
    """Embed every sequence of the input, in its order; return the counts.

    Raises
    ------
    RiborayError
        On input that cannot be used, or an output directory that something else made.
    """
    address = prepare_ray(config.ray_address)
    directory = Path(config.output).resolve()
    loaded = load_checkpoint(Path(config.checkpoint).resolve())
    identity = config.identity(loaded.sha256)
    done = finished(directory, EMBEDDINGS_KIND, identity)
    if done is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **done.counts}
    named = read_sequences(
        config.input,
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        ambiguity=loaded.model.config.tokens.id_of("N") is not None,
    )
    nucleotides = sum(map(len, named.sequences))
    width = loaded.model.config.hidden_size
    size = len(named) * (60.0 + width * (2 if config.dtype == "float16" else 4)) + nucleotides
    if config.per_base:
        size += 2.0 * width * nucleotides
    say(f"  {len(named):,} sequences, {nucleotides:,} nt; about {byte_size(size)}")
    check_disk(directory, size, "leave out --per-base, use --dtype float16, or write elsewhere")
    claim(directory, EMBEDDINGS_KIND, identity)
    with atomic_path(directory / "resolved_config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(asdict(config), sort_keys=False), "utf-8")
    if named.rejects:
        write_rejects(named.rejects, directory)
    shards = _shards(config, named, directory, str(loaded.path), loaded.sha256, identity)
    _run(shards, config, address, identity)
    counts = {
        "sequences_read": len(named) + len(named.rejects),
        "sequences_embedded": len(named),
        "sequences_rejected": len(named.rejects),
        "nucleotides": nucleotides,
    }
    manifest = Manifest(
        kind=EMBEDDINGS_KIND,
        fingerprint=identity,
        files=tuple(FileEntry.of(Path(s.path), len(s.ids)) for s in shards),
        counts=counts,
        details={"per_base": config.per_base, "pooling": config.pooling, "model": loaded.sha256},
    )
    write_manifest(directory, manifest)
    return {"output": str(directory), **counts}


def _shards(
    config: EmbedConfig,
    named: NamedSequences,
    directory: Path,
    checkpoint: str,
    model: str,
    identity: str,
) -> list[Shard]:
    size = config.rows_per_shard
    return [
        Shard(
            path=str(directory / f"shard-{start // size:05d}.arrow"),
            ids=named.ids[start : start + size],
            sequences=named.sequences[start : start + size],
            checkpoint=checkpoint,
            model=model,
            identity=identity,
            pooling=config.pooling,
            dtype=config.dtype,
            per_base=config.per_base,
        )
        for start in range(0, len(named), size)
    ]


def _run(shards: list[Shard], config: EmbedConfig, address: str, identity: str) -> None:
    missing = [s for s in shards if shard_done(Path(s.path), identity) != len(s.ids)]
    if len(missing) < len(shards):
        say(f"  {len(shards) - len(missing)} of {len(shards)} files are done already")
    if not missing:
        return
    from riboray.embedding.pipeline import embed_shards

    total = sum(len(shard.ids) for shard in shards)
    done = total - sum(len(shard.ids) for shard in missing)
    start, before = time.monotonic(), done
    progress = Progress("  embedding", done / total)
    for _, rows in embed_shards(missing, address, config.num_workers):
        done += rows
        pace = (done - before) / (time.monotonic() - start)
        progress.update(done / total, f"{done:,} of {total:,} sequences  {pace:,.0f}/s")
    progress.close()
