"""How good predictions are: scores of classes, numbers and structures, by torchmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.errors import ConfigError
from riboray.model.prediction import HeadConfig

__all__ = ["LOWER_IS_BETTER", "Evidence", "chosen_metric", "compute_metrics", "known_metrics"]

Values = NDArray[np.float32]

#: Measurements of which less is better.
LOWER_IS_BETTER = frozenset({"loss", "mae", "rmse"})

_CLASSES = ("accuracy", "f1", "mcc", "auroc")
_KNOWN: dict[str, tuple[str, ...]] = {
    "binary": (*_CLASSES, "auprc"),
    "multiclass": _CLASSES,
    "multilabel": _CLASSES,
    "regression": ("spearman", "pearson", "r2", "mae", "rmse"),
}
_PAIRS = ("precision_at_l", "precision_at_l2", "precision_at_l5", "mcc")
_CHOSEN = {"binary": "mcc", "multiclass": "mcc", "multilabel": "auroc", "regression": "spearman"}

#: Of an RNA of L nucleotides, the L / k likeliest pairs are looked at, for these k.
_DIVISORS = {"precision_at_l": 1, "precision_at_l2": 2, "precision_at_l5": 5}

#: Pairs of an RNA that are measured on where they are more than yes and no.
_MOST_PAIRS = 10_000

#: Nearest nucleotides that make a pair: three lie between.
_NEAREST = 4


def known_metrics(head: HeadConfig) -> tuple[str, ...]:
    """Name what is measured of a head's predictions."""
    if (head.level, head.problem) == ("contact", "binary"):
        return ("loss", *_PAIRS)
    return ("loss", *_KNOWN[head.problem])


def chosen_metric(asked: str, head: HeadConfig) -> str:
    """Name the measurement that models are compared by.

    Raises
    ------
    ConfigError
        If the one asked for is not measured of such predictions.
    """
    known = known_metrics(head)
    if asked == "auto":
        return "precision_at_l" if "precision_at_l" in known else _CHOSEN[head.problem]
    if asked not in known:
        raise ConfigError(f"metric: {asked} is none of {', '.join(known)}, which are measured")
    return asked


@dataclass
class Evidence:
    """What measurements are made from, collected record by record.

    Attributes
    ----------
    predictions, targets : list of ndarray, dtype=float32
        Probabilities or numbers, shape (N, C), and what they should be, (N, C) or, of
        ``multiclass``, (N,); NaN, or below 0, where that is not known. Of pairs, see `counts`.
    precisions : list of tuple of float
        Of an RNA's pairs: the share of right ones among its L, L/2 and L/5 likeliest.
    counts : ndarray, shape=(4,), dtype=int64
        Pairs: right ones, wrong ones, those missed, and the other ones, by probability 0.5.
    loss, weight : float
        Sum of the losses, and how much they count together.
    """

    predictions: list[Values] = field(default_factory=list)
    targets: list[NDArray[Any]] = field(default_factory=list)
    precisions: list[tuple[float, ...]] = field(default_factory=list)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4, np.int64))
    loss: float = 0.0
    weight: float = 0.0

    def add_values(self, predicted: Values, target: NDArray[Any]) -> None:
        """Add predictions of a sequence, of nucleotides or of pairs."""
        self.predictions.append(predicted)
        self.targets.append(target)

    def add_some(self, predicted: Values, target: NDArray[Any]) -> None:
        """Add predictions of an RNA's pairs, every so manieth where they are many."""
        step = -(-len(predicted) // _MOST_PAIRS)
        self.add_values(predicted[::step], target[::step])

    def add_pairs(self, predicted: Values, marks: NDArray[np.floating], length: int) -> None:
        """Add probabilities of an RNA's pairs i < j, and their labels, shape (n (n - 1) / 2,)."""
        known = ~np.isnan(marks)
        called, real = predicted >= 0.5, marks == 1
        self.counts += [
            np.count_nonzero(called & real),
            np.count_nonzero(called & ~real & known),
            np.count_nonzero(~called & real),
            np.count_nonzero(~called & ~real & known),
        ]
        if not real.any():
            return  # nothing to find: no precision tells anything
        first, second = np.triu_indices(length, 1)
        apart = known & (second - first >= _NEAREST)
        order = np.argsort(-predicted[apart], kind="stable")
        right = real[apart][order]
        self.precisions.append(
            tuple(float(right[: max(length // k, 1)].mean()) for k in _DIVISORS.values())
        )

    @classmethod
    def merged(cls, parts: Sequence[Evidence]) -> Evidence:
        """Put what several workers collected together."""
        whole = cls()
        for part in parts:
            whole.predictions += part.predictions
            whole.targets += part.targets
            whole.precisions += part.precisions
            whole.counts += part.counts
            whole.loss += part.loss
            whole.weight += part.weight
        return whole


def compute_metrics(evidence: Evidence, head: HeadConfig) -> dict[str, float]:
    """Compute what can be computed; what the data do not define is left out.

    Returns
    -------
    dict of str to float
        ``loss`` and those of `known_metrics`. F1 is the mean over classes but in ``binary``; AUROC
        the mean over classes that occur and do not make up everything; of several numbers, means.
    """
    found = {"loss": evidence.loss / evidence.weight} if evidence.weight else {}
    if (head.level, head.problem) == ("contact", "binary"):
        return found | _of_pairs(evidence)
    if not evidence.predictions:
        return found
    predicted = torch.from_numpy(np.concatenate(evidence.predictions))
    target = torch.from_numpy(np.concatenate(evidence.targets))
    measure = {
        "binary": _of_binary,
        "multiclass": _of_classes,
        "multilabel": _of_labels,
        "regression": _of_numbers,
    }[head.problem]
    with _quiet():
        return found | measure(predicted, target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about classes that do not occur to ourselves: such scores are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _of_pairs(evidence: Evidence) -> dict[str, float]:
    found = {}
    if evidence.precisions:
        means = np.mean(evidence.precisions, axis=0).tolist()
        found = dict(zip(_DIVISORS, means, strict=True))
    tp, fp, fn, tn = map(float, evidence.counts)
    under = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    if tp + fn:
        found["mcc"] = (tp * tn - fp * fn) / under**0.5 if under else 0.0
    return found


def _of_binary(predicted: Tensor, target: Tensor) -> dict[str, float]:
    from torchmetrics.functional import classification as scores

    known = ~torch.isnan(target[:, 0])
    predicted, labels = predicted[known, 0], target[known, 0].long()
    if not len(labels):
        return {}
    found = {
        "accuracy": float(scores.binary_accuracy(predicted, labels)),
        "f1": float(scores.binary_f1_score(predicted, labels)),
        "mcc": _mcc(predicted > 0.5, labels, 2),
    }
    if 0 < labels.sum() < len(labels):
        found["auroc"] = float(scores.binary_auroc(predicted, labels))
        found["auprc"] = float(scores.binary_average_precision(predicted, labels))
    return found


def _of_classes(predicted: Tensor, target: Tensor) -> dict[str, float]:
    from torchmetrics.functional import classification as scores

    known = target >= 0
    predicted, labels = predicted[known], target[known].long()
    if not len(labels):
        return {}
    count = predicted.shape[1]
    present = torch.bincount(labels, minlength=count) > 0
    each = scores.multiclass_f1_score(predicted, labels, count, average=None)
    called = torch.bincount(predicted.argmax(1), minlength=count) > 0
    found = {
        "accuracy": float(scores.multiclass_accuracy(predicted, labels, count, average="micro")),
        # A class that neither occurs nor is predicted has no score.
        "f1": float(each[present | called].mean()),
        "mcc": _mcc(predicted.argmax(1), labels, count),
    }
    if int(present.sum()) > 1:
        areas = scores.multiclass_auroc(predicted, labels, count, average=None)
        found["auroc"] = float(areas[present].mean())
    return found


def _mcc(called: Tensor, labels: Tensor, count: int) -> float:
    """Return MCC; 0 where all are called the same, or are, for which the library makes one up."""
    from torchmetrics.functional.classification import multiclass_matthews_corrcoef

    if torch.unique(called).numel() < 2 or torch.unique(labels).numel() < 2:
        return 0.0
    return float(multiclass_matthews_corrcoef(called.long(), labels, count))


def _of_labels(predicted: Tensor, target: Tensor) -> dict[str, float]:
    """Measure each label as a binary one; return means over those that are defined."""
    return _mean_of(_of_binary, predicted, target)


def _mean_of(
    measure: Callable[[Tensor, Tensor], dict[str, float]], predicted: Tensor, target: Tensor
) -> dict[str, float]:
    each = [
        measure(predicted[:, k : k + 1], target[:, k : k + 1]) for k in range(predicted.shape[1])
    ]
    names = {name for found in each for name in found if name != "auprc"}
    return {
        name: float(np.mean([found[name] for found in each if name in found]))
        for name in sorted(names)
    }


def _of_numbers(predicted: Tensor, target: Tensor) -> dict[str, float]:
    return _mean_of(_of_number, predicted, target)


def _of_number(predicted: Tensor, target: Tensor) -> dict[str, float]:
    from torchmetrics.functional import regression as scores

    known = ~torch.isnan(target[:, 0])
    ours, real = predicted[known, 0].double(), target[known, 0].double()
    if not len(real):
        return {}
    found = {
        "mae": float(scores.mean_absolute_error(ours, real)),
        "rmse": float(scores.mean_squared_error(ours, real, squared=False)),
    }
    if len(real) > 1 and float(real.std()) > 0:
        found["r2"] = float(scores.r2_score(ours, real))
        if float(ours.std()) > 0:
            found["spearman"] = float(scores.spearman_corrcoef(ours, real))
            found["pearson"] = float(scores.pearson_corrcoef(ours, real))
        else:
            found |= {"spearman": 0.0, "pearson": 0.0}
    return found
