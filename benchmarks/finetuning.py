"""What encoders are worth: the same tasks learnt from each, frozen or fine-tuned.

    python -m benchmarks.finetuning --data DATA --published bert_mul_2.pth --storage RUNS

DATA holds ArchiveII as `structure/archiveii.csv.gz` (id, sequence, structure) and
`structure/ArchiveII_famfold_splits.csv` (fold, partition, id). Tasks: which nucleotides are paired
and which pairs there are, each family in turn left out; and to which of nine families a sequence
belongs, with similar sequences on one side. Encoders: one-hot nucleotides, random weights, the
published RNABERT, and those that come with riboray. Every run is a `riboray finetune`; given again,
the same command goes on with those that are not done. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from riboray.evaluation.models import untrained_model
from riboray.evaluation.provenance import describe_machine
from riboray.model import RnaBertConfig, save_checkpoint
from riboray.model.heads import RnaBertForPreTraining

TASKS: dict[str, list[str]] = {
    "paired": ["--columns.label", "structure", "--level", "nucleotide"],
    "pairs": ["--columns.label", "structure"],
    "class": ["--columns.label", "family", "--split", "cluster", "--identity", "0.85"],
}
LEFT_OUT = ["--split", "family", "--columns.group", "family", "--leave-one-out"]
EPOCHS = {
    ("paired", "frozen"): 10,
    ("pairs", "frozen"): 5,
    ("class", "frozen"): 20,
    ("paired", "full"): 3,
    ("pairs", "full"): 3,
    ("class", "full"): 5,
}
SHOWN = {
    "paired": ("mcc", "auroc", "f1"),
    "pairs": ("precision_at_l", "precision_at_l5", "structure_f1"),
    "class": ("accuracy", "f1", "mcc"),
}
FULL = ("untrained", "rnabert")


def one_hot_model() -> RnaBertForPreTraining:
    """RNABERT whose embeddings tell the nucleotide and nothing else."""
    model = RnaBertForPreTraining(RnaBertConfig(num_hidden_layers=1, heads=()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm.weight" not in name:
                parameter.zero_()
        words = model.model.embeddings.word_embeddings.weight
        for place, letter in enumerate("ACGU"):
            words[model.config.tokens.id_of(letter), place] = 1
    return model.eval()


def make_encoders(folder: Path, published: str) -> dict[str, str]:
    """Write the encoders that are made here; name all."""
    made = {"one-hot": one_hot_model(), "untrained": untrained_model(0)}
    for name, model in made.items():
        if not (folder / name).exists():
            save_checkpoint(model, folder / name)
    return {
        **{name: str(folder / name) for name in made},
        "published": published,
        "rnabert-zero-shot": "rnabert-zero-shot",
        "rnabert": "rnabert",
    }


def write_table(data: Path, path: Path) -> None:
    """Put sequences, structures and families into one table."""
    with (data / "structure" / "ArchiveII_famfold_splits.csv").open() as handle:
        rows = csv.DictReader(handle)
        family = {row["id"]: row["fold"] for row in rows if row["partition"] == "test"}
    with (
        gzip.open(data / "structure" / "archiveii.csv.gz", "rt") as source,
        path.open("w", newline="") as out,
    ):
        writer = csv.writer(out)
        writer.writerow(["id", "sequence", "structure", "family"])
        for row in csv.DictReader(source):
            writer.writerow([row["id"], row["sequence"], row["structure"], family[row["id"]]])


def run(task: str, learn: str, name: str, checkpoint: str, options: Any, table: Path) -> Any:
    """Fine-tune once, with every family or part tested on in turn."""
    run_name = f"{task}-{learn}-{name}"
    command = [str(Path(sys.executable).with_name("riboray")), "finetune", str(table)]
    command += [*TASKS[task], *(LEFT_OUT if task != "class" else ["--folds", "5"])]
    command += ["--checkpoint", checkpoint, "--learn", learn, "--refit", "false"]
    command += ["--max-epochs", str(EPOCHS[task, learn]), "--run-name", run_name]
    command += ["--storage", options.storage, "--track", "[]"]
    start = time.monotonic()
    print(f"{run_name} …", file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stderr=options.log)
    minutes = (time.monotonic() - start) / 60
    print(f"{run_name}: {minutes:.1f} minutes", file=sys.stderr, flush=True)
    return json.loads((Path(options.storage) / run_name / "summary.json").read_text())


def main() -> None:
    """Run what is asked for and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--published", required=True)
    parser.add_argument("--storage", default="runs-finetuning")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--learn", nargs="*", default=["frozen", "full"])
    parser.add_argument("--encoders", nargs="*", help="those to run; by default all")
    options = parser.parse_args()
    folder = Path(options.storage)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "archiveii.csv"
    write_table(options.data, table)
    encoders = make_encoders(folder, options.published)
    if options.encoders:
        encoders = {name: encoders[name] for name in options.encoders}
    options.log = (folder / "log").open("a")
    found: dict[tuple[str, str, str], Any] = {}
    for learn in options.learn:
        for task in options.tasks:
            for name, checkpoint in encoders.items():
                if learn == "frozen" or name in FULL:
                    summary = run(task, learn, name, checkpoint, options, table)
                    found[task, learn, name] = summary
    print(json.dumps(describe_machine(), indent=1))
    for task in options.tasks:
        names = SHOWN[task]
        print(f"\n{task}\n\n| encoder | learnt | {' | '.join(names)} |")
        print("|---|---|" + "---:|" * len(names))
        for (of, learn, name), summary in found.items():
            if of == task:
                scores = summary["cross_validation"]
                cells = [f"{scores[n]['mean']:.3f} ± {scores[n]['sd']:.3f}" for n in names]
                print(f"| {name} | {learn} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
