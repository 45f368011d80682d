"""``riboray VERB``: one table of verbs, from which commands, jobs and help are made.

A verb is a config dataclass and a function that takes it. Flags (``--max-minutes``), the YAML file
(``--config``) and the help text all come from the dataclass, through jsonargparse.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from riboray import __version__
from riboray.errors import RiborayError

if TYPE_CHECKING:
    from riboray.console import Manner

__all__ = ["VERBS", "Verb", "main", "run_verb", "verb_of"]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code: 0, 2 for bad input or configuration, 1 for a failure of ours, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0 if given else 2
    if given[0] == "--version":
        print(f"riboray {__version__}")
        return 0
    if not _kinds(given[0]) and given[0] not in VERBS:
        print(f"riboray: unknown verb {given[0]!r}; see riboray --help", file=sys.stderr)
        return 2
    return run_verb(given[0], given[1:])


def _kinds(name: str) -> dict[str, Verb]:
    """Return the verbs that begin with a word, by their second."""
    return {key.split()[1]: verb for key, verb in VERBS.items() if key.startswith(f"{name} ")}


def verb_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split words into a verb, a key of `VERBS` if there is such a one, and its options."""
    words = list(words)
    if words and _kinds(words[0]):
        return " ".join(words[:2]), words[2:]
    return words[0] if words else "", words[1:]


def run_verb(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one verb; what ``jobs/NAME.py`` calls.

    Parameters
    ----------
    name : str
        A key of `VERBS`, or the first word of some: the second is the first argument then.
    arguments : sequence of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code, as `main`.
    """
    from riboray.console import speaking
    from riboray.options import parse_command

    given = list(sys.argv[1:] if arguments is None else arguments)
    if kinds := _kinds(name):
        if not given or given[0] in ("-h", "--help"):
            print("\n".join([f"usage: riboray {name} KIND [options]", "", *_lines(kinds)]))
            return 0 if given else 2
        if given[0] not in kinds:
            known = ", ".join(kinds)
            print(f"riboray {name}: unknown kind {given[0]!r}; known: {known}", file=sys.stderr)
            return 2
        name, given = verb_of([name, *given])
    verb = VERBS[name]
    if verb.one_thread:  # numpy, numba and torch read these when they are imported
        for variable in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
            os.environ.setdefault(f"{variable}_NUM_THREADS", "1")
    if threading.current_thread() is threading.main_thread():
        # SIGTERM (`kill`, `ray job stop`, a spot machine going away) ends a verb as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config, manner = parse_command(name, verb.load_config(), given)  # --help ends here
        with speaking(manner):
            result = verb.load_function()(config)
    except RiborayError as error:
        print(f"riboray {name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"riboray {name}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = str(error.strerror or error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; make room and give the same command again"
        print(f"riboray {name}: {where}{reason}", file=sys.stderr)
        # A path that cannot be used is the user's to mend; a full disk is nobody's mistake.
        wrong_path = PermissionError | NotADirectoryError | IsADirectoryError | FileNotFoundError
        return 2 if isinstance(error, wrong_path) else 1
    _print_result(verb, result, manner)
    return 0


def _print_result(verb: Verb, result: Any, manner: Manner) -> None:
    if manner.as_json:
        print(json.dumps(_finite(result), indent=2, default=str, allow_nan=False))
    elif result and (verb.prints == "answer" or (verb.prints == "summary" and not manner.quiet)):
        from riboray.console import listing

        print(listing(result))


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _overview() -> str:
    lines = [
        f"riboray {__version__}: an RNA language-model platform on Ray",
        "",
        "usage: riboray VERB [options]      riboray VERB --help      riboray --version",
        "",
        *_lines(VERBS),
    ]
    return "\n".join(lines)


def _lines(verbs: dict[str, Verb]) -> list[str]:
    width = max(map(len, verbs)) + 2
    return [f"  {name:<{width}}{verb.help}" for name, verb in verbs.items()]


if __name__ == "__main__":
    sys.exit(main())
