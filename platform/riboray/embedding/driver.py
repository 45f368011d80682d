"""The verb `embed`."""

from __future__ import annotations

import json
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
from riboray.errors import OutputError
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_path,
    read_manifest,
    write_json,
    write_manifest,
)
from riboray.model.checkpoint import load_checkpoint
from riboray.rayenv import prepare_ray

__all__ = ["embed"]

_MARKER = "embeddings.json"


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
    finished = _claim(directory, identity)
    if finished is not None:
        say(f"  {directory} is complete already")
        return {"output": str(directory), **finished.counts}
    named = read_sequences(
        config.input,
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        ambiguity=loaded.model.config.tokens.id_of("N") is not None,
    )
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
        "nucleotides": sum(map(len, named.sequences)),
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


def _claim(directory: Path, identity: str) -> Manifest | None:
    marker = directory / _MARKER
    if marker.is_file():
        if json.loads(marker.read_text("utf-8")).get("identity") != identity:
            reason = "holds embeddings of other inputs or options; choose another --output"
            raise OutputError(directory, reason)
        return read_manifest(directory, EMBEDDINGS_KIND)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OutputError(directory, "exists already and holds something else")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(marker, {"identity": identity})
    return None


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
