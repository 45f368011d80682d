"""What a user can do: one table of verbs, from which commands, jobs and help are made.

Nothing is imported here until a verb is asked for its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

__all__ = ["VERBS", "Verb", "kinds_of", "verb_of"]


@dataclass(frozen=True)
class Verb:
    """A thing a user does: where its config and function live, and one line about it."""

    config: str
    function: str
    help: str
    prints: Literal["summary", "answer", "itself"] = "summary"
    """What goes to standard output without ``--json``: a summary of what was made; what was asked
    for, even with ``--quiet``; or what the function shows itself."""
    one_thread: bool = False
    """Whether numeric libraries keep to one thread: the work is in processes, one a CPU."""

    def load_config(self) -> type[Any]:
        """Import the config class; that is quick."""
        kind: type[Any] = _import(self.config)
        return kind

    def load_function(self) -> Any:
        """Import the function, and all that it needs."""
        return _import(self.function)


VERBS: dict[str, Verb] = {
    "ingest": Verb(
        "riboray.corpus.config:IngestConfig",
        "riboray.corpus.driver:ingest_corpus",
        "turn FASTA, Parquet and Stockholm files into a corpus",
    ),
    "fetch": Verb(
        "riboray.corpus.fetching:FetchConfig",
        "riboray.corpus.fetching:fetch",
        "download RNAcentral and Rfam, however often the line drops",
    ),
    "corpus-stats": Verb(
        "riboray.corpus.stats:CorpusStatsConfig",
        "riboray.corpus.stats:corpus_stats",
        "describe a corpus: counts that add up, lengths, composition, types, families",
        prints="itself",
    ),
    "pretrain": Verb(
        "riboray.pretraining.config:PretrainConfig",
        "riboray.pretraining.driver:pretrain",
        "pre-train RNABERT on a corpus and seed alignments",
        prints="itself",
    ),
    "report": Verb(
        "riboray.pretraining.run_report:ReportConfig",
        "riboray.pretraining.run_report:report",
        "describe a pre-training run on one page: curves, alignments, embeddings",
    ),
    "embed": Verb(
        "riboray.embedding.config:EmbedConfig",
        "riboray.embedding.driver:embed",
        "embed RNAs of any length, millions of them, as Arrow, Parquet or NumPy files",
        one_thread=True,
    ),
    "finetune": Verb(
        "riboray.finetuning.config:FinetuneConfig",
        "riboray.finetuning.driver:finetune",
        "learn to predict from labelled RNAs: classes, values, secondary structures",
        prints="itself",
    ),
    "predict": Verb(
        "riboray.predicting.config:PredictConfig",
        "riboray.predicting.driver:predict",
        "predict with a model that has a head: classes, values, secondary structures",
        one_thread=True,
    ),
    "verify": Verb(
        "riboray.embedding.verification:VerifyConfig",
        "riboray.embedding.verification:verify",
        "check embeddings: hash, count, embed a sample again",
        one_thread=True,
    ),
    "map": Verb(
        "riboray.embedding.mapping:MapConfig",
        "riboray.embedding.mapping:make_map",
        "draw embeddings in the plane: a picture and a page to explore",
    ),
    "align": Verb(
        "riboray.alignment.config:AlignConfig",
        "riboray.alignment.driver:align",
        "align two RNAs structurally, or all pairs of many",
        prints="itself",
        one_thread=True,
    ),
    "search": Verb(
        "riboray.alignment.config:SearchConfig",
        "riboray.alignment.searching:search",
        "find relatives of RNAs among millions",
        one_thread=True,
    ),
    "cluster": Verb(
        "riboray.clustering.config:ClusterConfig",
        "riboray.clustering.driver:cluster",
        "find families of RNAs, their representatives and alignments",
        one_thread=True,
    ),
    "evaluate alignment": Verb(
        "riboray.evaluation.config:EvaluateAlignmentConfig",
        "riboray.evaluation.alignment:evaluate_alignment",
        "measure models, scores and other aligners on reference alignments",
        prints="itself",
        one_thread=True,
    ),
    "evaluate mlm": Verb(
        "riboray.evaluation.mlm:EvaluateMlmConfig",
        "riboray.evaluation.mlm:evaluate_mlm",
        "measure how well models recover hidden nucleotides, by RNA type and position",
        prints="itself",
        one_thread=True,
    ),
    "evaluate clustering": Verb(
        "riboray.evaluation.clustering:EvaluateClusteringConfig",
        "riboray.evaluation.clustering:evaluate_clustering",
        "measure which similarities find families, on sequences with labels",
        prints="itself",
        one_thread=True,
    ),
    "evaluate paper": Verb(
        "riboray.evaluation.paper:EvaluatePaperConfig",
        "riboray.evaluation.paper:evaluate_paper",
        "repeat the experiments of the RNABERT paper, on one page",
        prints="itself",
        one_thread=True,
    ),
    "convert": Verb(
        "riboray.model.convert:ConvertConfig",
        "riboray.model.convert:convert",
        "read any RNABERT checkpoint and write it as a directory that MultiMolecule opens",
        prints="answer",
    ),
    "serve": Verb(
        "riboray.serving.config:ServeConfig",
        "riboray.serving.driver:serve",
        "answer over HTTP for a checkpoint",
        prints="itself",
    ),
    "submit": Verb(
        "riboray.launch.config:SubmitConfig",
        "riboray.launch.submission:submit",
        "run a verb on a cluster: riboray submit VERB …",
        prints="itself",
    ),
    "check-cluster": Verb(
        "riboray.launch.config:CheckClusterConfig",
        "riboray.launch.checking:check_cluster",
        "tell what cluster.yaml lacks before `ray up`",
        prints="itself",
    ),
    "completion": Verb(
        "riboray.completion:CompletionConfig",
        "riboray.completion:completion",
        "print a script that completes verbs, options and values in your shell",
        prints="itself",
    ),
    "info": Verb(
        "riboray.info:InfoConfig",
        "riboray.info:info",
        "print versions, devices and settings, for bug reports",
        prints="answer",
    ),
}


def _import(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def kinds_of(name: str) -> dict[str, Verb]:
    """Return the verbs that begin with a word, by their second."""
    return {key.split()[1]: verb for key, verb in VERBS.items() if key.startswith(f"{name} ")}


def verb_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split words into a verb, a key of `VERBS` if there is such a one, and its options."""
    words = list(words)
    if words and kinds_of(words[0]):
        return " ".join(words[:2]), words[2:]
    return words[0] if words else "", words[1:]
