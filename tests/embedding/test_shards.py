"""One part, embedded and written in every form; and opened again."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

import riboray
from riboray.corpus.ingestion import SerialRunner
from riboray.embedding import partwise
from riboray.embedding.config import EmbedConfig, resolve_layers
from riboray.embedding.driver import details_of, embed
from riboray.embedding.embedder import Embedder, Wanted
from riboray.embedding.parts import Job, stem_of
from riboray.embedding.pooling import pool
from riboray.embedding.preparation import Preparation, find_sources
from riboray.embedding.reading import read_parts
from riboray.embedding.schema import embedding_schema
from riboray.embedding.shards import EMBEDDINGS, EmbeddingMaker
from riboray.embedding.sinks import open_sink
from riboray.embedding.store import EMBEDDINGS_KIND
from riboray.embedding.verification import VerifyConfig, verify
from riboray.errors import (
    ConfigError,
    CorpusError,
    FastaError,
    OutputError,
    RiborayError,
)
from riboray.manifest import claim
from riboray.model import load_checkpoint
from riboray.rayenv import LOCAL
from tests.conftest import random_sequences
from tests.disks import small_disk


def write(folder, sequences):
    text = "".join(f">s{k} ü\n{s}\n" for k, s in enumerate(sequences))
    (folder / "rnas.fa").write_text(text)
    return [str(folder / "rnas.fa")]


def embed_here(folder, checkpoint, inputs, spoil=lambda maker: None, **options):
    """Do what the verb does, in this process and without Ray."""
    config = EmbedConfig(
        input=inputs, checkpoint=str(checkpoint), output=str(folder / "out"), **options
    )
    loaded = load_checkpoint(checkpoint)
    directory = folder / "out"
    sources = find_sources(config, directory)
    claim(directory, EMBEDDINGS_KIND, "abc")
    (directory / "work").mkdir(exist_ok=True)
    (directory / "resolved_config.yaml").write_text(f"checkpoint: {checkpoint}\n")
    work = Preparation(config, loaded, sources, directory, LOCAL)
    plan, given = work.plan(SerialRunner()), work.given
    job = Job(
        product=EMBEDDINGS,
        config=config,
        directory=str(directory),
        identity="abc",
        model=loaded.sha256,
        checkpoint=str(checkpoint),
        layers=resolve_layers(config.layers, 2),
        annotations=tuple(plan.annotations),
        given=given,
        stems=tuple(stem_of(source.file.path) for source in sources),
        device="cpu",
        precision=config.precision,
    )
    maker, notes = EmbeddingMaker(job), {}
    spoil(maker)
    for part in plan.parts:
        source = sources[part.source]
        unit = next(u for u in source.units() if not u or part.part in u)
        ((_, block),) = read_parts(source, unit, given.columns, [part.part])
        notes[part.number] = partwise._slim(maker.make(part, block))
    details = details_of(config, job.layers)
    return partwise._finish(sources, plan, job, notes, "abc", details, 1.0)


@pytest.mark.parametrize("kind", ["arrow", "parquet", "npy"])
@pytest.mark.parametrize("layers", [[-1], [0, 2]])
def test_every_form_holds_the_same(checkpoint, tmp_path, rng, kind, layers):
    texts = [*random_sequences(rng, 300, 1, 90), *random_sequences(rng, 2, 200, 400)]
    summary = embed_here(
        tmp_path,
        checkpoint,
        write(tmp_path, texts),
        format=kind,
        layers=layers,
        per_base=True,
        shard_bytes=4000,
    )
    assert summary["sequences_embedded"] == 302
    stored = riboray.open_embeddings(tmp_path / "out")
    assert len(stored.files) > 2
    assert stored.ids.to_pylist() == [f"s{k}" for k in range(302)]
    assert stored.column("sequence").to_pylist() == texts
    numbers = resolve_layers(layers, 2)
    made = Embedder(load_checkpoint(checkpoint).model).embed(
        texts, Wanted(numbers, "mean", per_base=True)
    )
    for layer in numbers:
        end = "" if len(layers) == 1 else f"_layer_{layer}"
        np.testing.assert_allclose(
            stored.to_numpy(f"embedding{end}"), made.pooled[layer], atol=1e-5
        )
        for row in (0, 5, 150, 299, 301):
            bases = stored.per_base_of(row, f"per_base{end}")
            assert bases.shape == (len(texts[row]), 24)
            np.testing.assert_allclose(bases, made.per_base[layer][row], atol=5e-3)
    assert verify(VerifyConfig(embeddings=[str(tmp_path / "out")]))["compared"] == 64
    assert not (tmp_path / "out" / "work").exists()


def test_arrow_is_mapped_and_opened_by_others(checkpoint, tmp_path, rng):
    texts = random_sequences(rng, 200, 1, 60)
    embed_here(tmp_path, checkpoint, write(tmp_path, texts), shard_bytes=4000)
    stored = riboray.open_embeddings(str(tmp_path / "out"))
    views = stored.views()
    assert len(views) > 1
    for view in views:
        assert not view.flags.owndata
        assert not view.flags.writeable
    files = sorted((tmp_path / "out").glob("*.arrow"))
    table = pyarrow.dataset.dataset(files, format="ipc").to_table()
    assert table["id"].to_pylist() == [f"s{k}" for k in range(200)], "names sort as the input does"
    assert table["length"].to_pylist() == [len(t) for t in texts]
    assert table.schema.metadata[b"riboray.layer"] == b"2"
    with pytest.raises(CorpusError, match="no column 'nothing'"):
        stored.views("nothing")
    with pytest.raises(CorpusError, match="embed with --per-base"):
        stored.per_base_of(3)


@pytest.mark.parametrize("how", ["window", "truncate", "reject"])
def test_long_sequences(checkpoint, tmp_path, rng, how):
    texts = random_sequences(rng, 4, 61, 150) + random_sequences(rng, 4, 60, 60)
    summary = embed_here(
        tmp_path, checkpoint, write(tmp_path, texts), on_long=how, log_likelihood="fast"
    )
    stored = riboray.open_embeddings(tmp_path / "out")
    assert summary["sequences_read"] == 8
    if how == "reject":
        assert summary["sequences_rejected"] == 4
        reasons = pq.read_table(tmp_path / "out" / "rejects.parquet")
        assert reasons["record"].to_pylist() == [1, 2, 3, 4]
        assert reasons["reason"][0].as_py() == f"{len(texts[0])} nt, longer than 60"
        assert stored.ids.to_pylist() == ["s4", "s5", "s6", "s7"]
        return
    kept = [t[:60] for t in texts] if how == "truncate" else texts
    assert stored.column("length").to_pylist() == [len(t) for t in kept]
    truncated = [how == "truncate"] * 4 + [False] * 4
    assert stored.column("truncated").to_pylist() == truncated
    assert summary["sequences_truncated"] == sum(truncated)
    embedder = Embedder(load_checkpoint(checkpoint).model)
    assert stored.column("windows").to_pylist() == [embedder.windows(len(t)) for t in kept]
    expected = [pool(rows, "mean") for rows in embedder.per_base(kept)]
    np.testing.assert_allclose(stored.to_numpy(), expected, atol=1e-5)
    scores = stored.column("log_likelihood").to_numpy()
    perplexity = stored.column("pseudo_perplexity").to_numpy()
    np.testing.assert_allclose(np.exp(-scores / [len(t) for t in kept]), perplexity, rtol=1e-4)


def test_normalised_and_half_precision(checkpoint, tmp_path, rng):
    texts = random_sequences(rng, 20, 5, 60)
    embed_here(
        tmp_path, checkpoint, write(tmp_path, texts), normalise=True, dtype="float16", pooling="max"
    )
    stored = riboray.open_embeddings(tmp_path / "out")
    rows = stored.to_numpy()
    assert rows.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=2e-3)
    verify(VerifyConfig(embeddings=[str(tmp_path / "out")]))
    with pytest.raises(CorpusError, match="normalised"):
        stored.check_searchable(2)
    with pytest.raises(CorpusError, match="needs the last, 7"):
        stored.check_searchable(7)


def poison(maker):
    """Let every sequence with an N fail."""
    bad, states = maker.embedder.config.tokens.id_of("N"), maker.embedder.states

    def fail(ids, edges, layers):
        if (ids == bad).any():
            raise ValueError("no luck")
        return states(ids, edges, layers)

    maker.embedder.states = fail


@pytest.mark.parametrize("kind", ["arrow", "parquet", "npy"])
def test_one_that_fails_is_listed_and_the_others_are_there(checkpoint, tmp_path, rng, kind):
    texts = random_sequences(rng, 30, 5, 50)
    texts = [t.replace("N", "A") for t in texts]
    texts[7], texts[20] = "ACGNU", "N" + "A" * 70
    summary = embed_here(
        tmp_path, checkpoint, write(tmp_path, texts), poison, format=kind, per_base=True
    )
    assert (summary["sequences_embedded"], summary["sequences_failed"]) == (28, 2)
    left = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(r["record"], r["id"], r["outcome"]) for r in left] == [
        (8, "s7", "failed"),
        (21, "s20", "failed"),
    ]
    assert "no luck" in left[0]["reason"]
    stored = riboray.open_embeddings(tmp_path / "out")
    assert stored.ids.to_pylist() == [f"s{k}" for k in range(30) if k not in (7, 20)]
    verify(VerifyConfig(embeddings=[str(tmp_path / "out")]))


def test_if_all_fail_it_is_not_them(checkpoint, tmp_path):
    with pytest.raises(RiborayError, match="no sequence can be embedded.*no luck"):
        embed_here(tmp_path, checkpoint, write(tmp_path, ["NACGU", "ACGNU"]), poison)
    assert not list((tmp_path / "out").glob("*.arrow"))


def test_if_all_fail_one_by_one_it_is_not_them_either(checkpoint, tmp_path):
    """Parts of one record each: only the whole tells."""
    inputs = write(tmp_path, ["NACGU" * 12, "ACGNU" * 12])
    with pytest.raises(RiborayError, match="no sequence can be embedded; the first: .*no luck"):
        embed_here(tmp_path, checkpoint, inputs, poison, shard_bytes=64)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out" / "work").glob("0*.json")), "to be done anew"


def test_what_is_done_outlives_an_input_that_vanishes(checkpoint, tmp_path, rng, monkeypatch):
    texts = random_sequences(rng, 60, 5, 60)
    inputs = write(tmp_path, texts)
    config = EmbedConfig(
        input=inputs, checkpoint=str(checkpoint), output=str(tmp_path / "out"), shard_bytes=300
    )
    away = tmp_path / "away.fa"
    slim = partwise._slim

    def vanish(note):
        if len(list((tmp_path / "out").glob("*.arrow"))) == 4 and not away.exists():
            (tmp_path / "rnas.fa").rename(away)
        return slim(note)

    monkeypatch.setattr(partwise, "_slim", vanish)
    with pytest.raises(FastaError, match="no such file"):
        embed(config)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}
    assert len(done) == 4
    away.rename(tmp_path / "rnas.fa")
    monkeypatch.setattr(partwise, "_slim", slim)
    assert embed(config)["sequences_embedded"] == 60
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    assert verify(VerifyConfig(embeddings=[str(tmp_path / "out")]))["compared"] == 60


def test_another_runs_directory_is_told_by_its_manifest(checkpoint, tmp_path, rng):
    inputs = write(tmp_path, random_sequences(rng, 5, 5, 60))
    options = {"input": inputs, "checkpoint": str(checkpoint), "output": str(tmp_path / "out")}
    embed(EmbedConfig(**options))
    other = EmbedConfig(**options, pooling="max")
    with pytest.raises(OutputError, match="other inputs or options"):
        embed(other)
    (tmp_path / "second").mkdir()
    embed(EmbedConfig(**{**options, "output": str(tmp_path / "second")}, pooling="max"))
    owner = tmp_path / "second" / "owner.json"  # as if two had made it at the same time
    (tmp_path / "out" / "owner.json").write_bytes(owner.read_bytes())
    with pytest.raises(OutputError, match="other inputs or options"):
        embed(other)


def test_a_full_disk_ends_no_process(checkpoint, tmp_path):
    """A NumPy file is mapped: its room is claimed before it is written to."""
    with small_disk(tmp_path / "disk", "200k") as disk:
        schema = embedding_schema(24, "float32", {})
        with (
            pytest.raises(OSError, match="No space left"),
            open_sink("npy", disk.path / "x", schema, 10_000, 0),
        ):
            pass
        assert not list(disk.path.iterdir())


def test_numbers_beyond_float16_are_not_stored_as_infinity(checkpoint, tmp_path):
    def enlarge(maker):
        with torch.no_grad():
            maker.embedder.model.model.encoder.layer[1].output.layer_norm.weight.mul_(1e6)

    inputs = write(tmp_path, ["ACGU", "GGCC"])
    with pytest.raises(RiborayError, match="does not fit float16; use --dtype float32"):
        embed_here(tmp_path, checkpoint, inputs, enlarge, dtype="float16")


def test_lower_precision_is_measured(checkpoint, tmp_path, rng, capsys):
    embed_here(
        tmp_path,
        checkpoint,
        write(tmp_path, random_sequences(rng, 10, 5, 50)),
        precision="bfloat16",
    )
    (found,) = re.findall(
        r"lower precision changed embeddings by (\S+) at", capsys.readouterr().err
    )
    assert 1e-7 < float(found) < 0.1


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b/rnas.fa.gz", "rnas"),
        ("s3://bucket/x.y.FASTA.bgz?region=eu", "x.y"),
        ("sequences-00003.parquet", "sequences-00003"),
        ("odd name\u00fc;.fa", "odd_name\u00fc_"),
        ("\u6838" * 70 + ".fa", "\u6838" * 26),
        (".fa", "input"),
    ],
)
def test_names_of_files(path, stem):
    assert stem_of(path) == stem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [1, 1]}, "each layer once"),
        ({"layers": []}, "each layer once"),
        ({"num_workers": 0}, "num_workers"),
        ({"num_workers": [3, 1]}, "num_workers"),
        ({"shard_bytes": 1}, "shard_bytes"),
        ({"token_budget": 0}, "token_budget"),
        ({"input": []}, "nothing to embed"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        EmbedConfig(**{"input": ["x.fa"], "checkpoint": "m", **options})


def test_layers_are_those_of_the_model():
    assert resolve_layers([-1, 0, 3], 6) == (6, 0, 3)
    for wrong in ([7], [-8], [6, -1]):
        with pytest.raises(ConfigError, match="layers 0 to 6"):
            resolve_layers(wrong, 6)
