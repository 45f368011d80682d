"""A model with a prediction head, and sequences of any length through it, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riboray.alphabet import encode_packed
from riboray.batching import plan_batches
from riboray.embedding.embedder import Embedder
from riboray.embedding.memory import lasting, why_failed
from riboray.errors import InvalidSequenceError
from riboray.model.prediction import PLACES, HeadConfig, RnaBertForPrediction

__all__ = ["Predicted", "Predictor", "applying", "likeliest", "likely_pairs", "probabilities"]

Rows = NDArray[np.float32]


@dataclass
class Predicted:
    """Predictions of some sequences.

    Attributes
    ----------
    rows : list of ndarray, dtype=float32
        Of each, shape (C,), (length, C) or (length, length, C), by the head's level: probabilities,
        or what a regression predicts. What stands for one that failed has no meaning.
    failed : dict of int to str
        Sequences of which nothing could be predicted, and why.
    """

    rows: list[Rows]
    failed: dict[int, str] = field(default_factory=dict)


def probabilities(logits: Tensor, head: HeadConfig) -> Tensor:
    """Return what a head's outputs, shape (..., C), mean; of a regression, they themselves."""
    if head.problem == "regression":
        return logits
    return logits.softmax(-1) if head.problem == "multiclass" else logits.sigmoid()


def likeliest(rows: Rows, head: HeadConfig) -> NDArray[np.intp]:
    """Return the likeliest class of each row of probabilities, shape (..., C) to (...)."""
    if head.problem == "binary":
        return (rows[..., 0] >= 0.5).astype(np.intp)
    chosen: NDArray[np.intp] = rows.argmax(-1)
    return chosen


def applying(row: Rows, head: HeadConfig) -> list[str]:
    """Name the labels, of several that may apply, whose probability, shape (C,), is 0.5 or more."""
    return [name for name, chance in zip(head.labels, row, strict=True) if chance >= 0.5]


def likely_pairs(chances: Rows, threshold: float) -> list[dict[str, Any]]:
    """List the pairs of nucleotides, from 0 on and the first below the second, that are likely."""
    first, second = np.nonzero(np.triu(chances >= threshold, 1))
    return [
        {"i": i, "j": j, "probability": float(chances[i, j])}
        for i, j in zip(first.tolist(), second.tolist(), strict=True)
    ]


class Predictor:
    """Predicts in batches.

    Parameters
    ----------
    model : RnaBertForPrediction
        In evaluation mode.
    token_budget : int, optional
        Tokens of a batch at most; see `Embedder`.
    device : str
        Torch device.
    """

    def __init__(
        self, model: RnaBertForPrediction, *, token_budget: int | None = None, device: str = "cpu"
    ) -> None:
        self.model, self.head = model, model.head_config
        self.embedder = Embedder(model, token_budget=token_budget, device=device)

    def predict(self, sequences: Sequence[str]) -> Predicted:
        """Predict; the same numbers whatever shares the batch, to about 1e-6.

        Parameters
        ----------
        sequences : sequence of str
            RNA or DNA. Those longer than the model are predicted from base embeddings that are
            averages over windows; a pooler then takes the first base for the first token.

        Raises
        ------
        InvalidSequenceError
            If one holds a character without a token.
        ValueError
            If one is empty.
        """
        sizes = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        if len(sizes) and not sizes.min():
            raise ValueError(f"sequence {int(sizes.argmin())} is empty")
        found = Predicted([np.empty(0, np.float32)] * len(sequences))
        longest = self.model.config.max_sequence_length
        short = np.flatnonzero(sizes <= longest)
        try:
            self._predict_short(sequences, short, sizes, found)
        except InvalidSequenceError:
            encode_packed(
                sequences, self.model.config.tokens
            )  # raises: it knows which of all it is
            raise
        for index in np.flatnonzero(sizes > longest).tolist():
            try:
                found.rows[index] = self._predict_long(sequences[index])
            except Exception as error:  # of this sequence alone: the others go on
                if lasting(error):
                    raise
                found.failed[index] = why_failed(error)
        return found

    def _predict_short(
        self,
        sequences: Sequence[str],
        rows: NDArray[np.intp],
        sizes: NDArray[np.int64],
        found: Predicted,
    ) -> None:
        config = self.model.config

        def make(batch: list[int]) -> list[Tensor]:
            texts = [sequences[k] for k in batch]
            ids, edges = encode_packed(
                texts, config.tokens, add_bos=config.add_bos, add_eos=config.add_eos
            )
            with torch.inference_mode():
                moved = torch.from_numpy(ids).to(self.embedder.device)
                logits = self.model.logits(moved, torch.from_numpy(edges))
                return [torch.cat([self._flat(part) for part in logits])]

        def keep(batch: list[int], made: list[Rows]) -> None:
            start = 0
            for k in batch:
                shape = self._shape(int(sizes[k]))
                stop = start + int(np.prod(shape))
                found.rows[k] = made[0][start:stop].reshape(shape)
                start = stop

        extra = int(config.add_bos) + int(config.add_eos)
        budget = self.embedder.token_budget
        batches = [rows[b].tolist() for b in plan_batches(sizes[rows] + extra, budget)]
        found.failed |= self.embedder.in_batches(batches, make, keep)

    def _predict_long(self, sequence: str) -> Rows:
        (bases,) = self.embedder.per_base([sequence])
        with torch.inference_mode():
            (logits,) = self.model.of_bases([torch.from_numpy(bases).to(self.embedder.device)])
            found: Rows = self._flat(logits).cpu().numpy().reshape(self._shape(len(sequence)))
        return found

    def _flat(self, logits: Tensor) -> Tensor:
        return probabilities(logits, self.head).float().flatten()

    def _shape(self, length: int) -> tuple[int, ...]:
        places = PLACES[self.head.level]
        return *([length] * places), self.head.outputs
