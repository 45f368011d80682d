"""Make an archive of every file format, as the riboray at hand writes it.

    python -m tests.formats.make tests/formats/archive/NUMBER

Run once for each version of a format and never again: the archive is what later code must read.
`expected.json` in it holds what this code reads there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from riboray.cli import main
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.corpus.sequences import read_sequences
from riboray.corpus.stockholm import read_stockholm
from riboray.model.checkpoint import load_checkpoint, save_checkpoint
from riboray.model.prediction import HeadConfig, with_head

#: A model of a few kilobytes.
SMALL = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 8,
}
PROBE = "GGUCUCUCUGGUUAGACCAGAUCUGAGCCU"


def write_inputs(folder: Path) -> None:
    """Forty sequences and two families of the bundled sample."""
    every = read_sequences([SAMPLE_CORPUS])
    short = [k for k, text in enumerate(every.sequences) if len(text) < 90][::40][:40]
    lines = [f">{every.ids[k]}\n{every.sequences[k]}\n" for k in short]
    (folder / "rnas.fa").write_text("".join(lines) + ">bad\nAC!U\n")
    blocks = []
    for family in read_stockholm(SAMPLE_ALIGNMENTS):
        if family.accession in ("RF00005", "RF01855"):
            rows = "".join(
                f"{name} {row.replace('-', '.')}\n"
                for name, row in list(zip(family.ids, family.rows, strict=True))[:8]
            )
            blocks.append(
                f"# STOCKHOLM 1.0\n#=GF AC {family.accession}\n#=GF ID {family.name}\n{rows}"
                f"#=GC SS_cons {family.ss_cons}\n//\n"
            )
    (folder / "families.sto").write_text("".join(blocks))


def run(*words: str) -> None:
    """Run a verb and expect that it succeeds."""
    code = main([*words, "--quiet"])
    assert code == 0, words


def make(folder: Path) -> None:
    """Write everything; paths in the files are relative to the folder."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    write_inputs(folder)
    run("ingest", "rnas.fa", "--alignments", "families.sto", "--output", "corpus")
    options = [f"--model.{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    run(
        *("pretrain", "--corpus", "corpus", "--max-steps", "3", "--run-name", "run"),
        *("--num-workers", "1", "--validation-families", "RF01855", "--evaluations", "1"),
        *("--tokens-per-batch", "440", "--pair-tokens-per-batch", "880", *options),
    )
    shutil.copytree("runs/run/checkpoint", "checkpoint")
    for name in ("tensorboard", "checkpoint", "checkpoints", "train"):
        shutil.rmtree(f"runs/run/{name}")
    Path("runs/run/training_curve.png").unlink()
    shutil.move("runs/run", "run")
    shutil.rmtree("runs")
    head = HeadConfig(level="sequence", problem="multiclass", labels=("tRNA", "other"))
    torch.manual_seed(0)
    save_checkpoint(with_head(load_checkpoint("checkpoint").model, head), Path("predictor"))
    model = ("--checkpoint", "checkpoint")
    common = ("rnas.fa", "--on-invalid", "reject", *model)
    run("embed", *common, "--output", "embeddings", "--per-base", "--log-likelihood", "fast")
    for form in ("parquet", "npy"):
        run("embed", *common, "--output", f"embeddings-{form}", "--format", form)
    run("predict", "rnas.fa", "--on-invalid", "reject", "--checkpoint", "predictor",
        "--output", "predictions")  # fmt: skip
    one = ("--num-workers", "1")
    run("align", *common, "--all-pairs", "--output", "pairs", "--max-evalue", "1000", *one)
    run("search", "rnas.fa", "--on-invalid", "reject", "--db", "embeddings", *model, *one,
        "--output", "hits", "--max-evalue", "1000", "--max-hits", "3")  # fmt: skip
    run("cluster", *common, "--output", "clusters", "--max-evalue", "0.5", "--figure", "false",
        "--alignments", *one)  # fmt: skip
    for name in (".ray", "__pycache__"):
        shutil.rmtree(name, ignore_errors=True)
    Path("expected.json").write_text(json.dumps(read(folder), indent=2) + "\n")


def read(folder: Path) -> dict[str, object]:
    """What an archive says, in a few numbers."""
    from riboray.embedding.embedder import Embedder
    from riboray.embedding.store import open_embeddings

    loaded = load_checkpoint(str(folder / "checkpoint"))
    stored = open_embeddings(folder / "embeddings")
    bases = np.asarray(Embedder(loaded.model).per_base([PROBE])[0], np.float64)
    return {
        "sha256": loaded.sha256,
        "probe": [round(float(v), 5) for v in bases.mean(0)],
        "first_embedding": [round(float(v), 5) for v in stored.to_numpy()[0]],
        "ids": stored.ids.to_pylist(),
        "schemas": {name: schema_text(path) for name, path in tables(folder).items()},
    }


def tables(folder: Path) -> dict[str, Path]:
    """One file of every kind that has columns."""
    patterns = {
        "corpus/sequences": "corpus/sequences-*.parquet",
        "corpus/pairs": "corpus/pairs-*.parquet",
        "corpus/members": "corpus/members-*.parquet",
        "corpus/duplicates": "corpus/duplicates.parquet",
        "rejects": "corpus/rejects.parquet",
        "embeddings": "embeddings/0*.arrow",
        "embeddings.parquet": "embeddings-parquet/0*.parquet",
        "embeddings.npy ids": "embeddings-npy/0*.arrow",
        "predictions": "predictions/0*.arrow",
        "pairs": "pairs/pairs/*.arrow",
        "hits": "hits/pairs/*.arrow",
        "clusters": "clusters/clusters.parquet",
    }
    return {name: sorted(folder.glob(pattern))[0] for name, pattern in patterns.items()}


def schema_text(path: Path) -> list[str]:
    """Columns, types, and the version of the schema."""
    import pyarrow.parquet as pq

    parquet = path.suffix == ".parquet"
    schema = pq.read_schema(path) if parquet else pa.ipc.open_file(str(path)).schema
    version = (schema.metadata or {}).get(b"riboray.schema_version", b"none").decode()
    columns = [f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema]
    return [f"schema_version {version}", *columns]


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
