"""Base embeddings of sequences of any length, in batches of a token budget.

An RNA longer than the model's positions is embedded in windows: as wide as the model allows, each
half a window further, the last one flush with the end; where windows overlap, their embeddings are
averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from riboray.alphabet import encode
from riboray.batching import plan_batches, window_starts
from riboray.model.heads import RnaBertForPreTraining

__all__ = ["Embedder"]


@dataclass(frozen=True)
class _Window:
    """A stretch of one sequence that the model embeds at once."""

    sequence: int
    start: int
    text: str


class Embedder:
    """A model that embeds sequences.

    Parameters
    ----------
    model : RnaBertForPreTraining
        In evaluation mode.
    token_budget : int
        Tokens of a batch, padding included, at most.
    device : str
        Torch device to run on.
    """

    def __init__(
        self, model: RnaBertForPreTraining, *, token_budget: int = 8192, device: str = "cpu"
    ) -> None:
        self.config = model.config
        self._encoder = model.model.to(device).eval()
        self._device = device
        # A batch must hold at least one window of full width.
        self._budget = max(token_budget, self.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """Size of a base embedding."""
        return self.config.hidden_size

    def windows(self, length: int) -> int:
        """Count the windows a sequence of this length takes."""
        return len(window_starts(length, self.config.max_sequence_length))

    def per_base(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Embed every base of every sequence.

        Parameters
        ----------
        sequences : sequence of str
            RNA or DNA of at least one nucleotide.

        Returns
        -------
        list of ndarray, shape=(length, H), dtype=float32
            One row a nucleotide, special tokens stripped; the same whatever shares the batch
            (to about 1e-6).

        Raises
        ------
        InvalidSequenceError
            If a sequence holds a character without a token.
        ValueError
            If a sequence is empty.
        """
        width = self.config.max_sequence_length
        pieces = []
        for index, sequence in enumerate(sequences):
            if not sequence:
                raise ValueError(f"sequence {index} is empty")
            for start in window_starts(len(sequence), width):
                pieces.append(_Window(index, start, sequence[start : start + width]))
        totals = [np.zeros((len(s), self.width), np.float32) for s in sequences]
        counts = {i: np.zeros(len(s)) for i, s in enumerate(sequences) if len(s) > width}
        sizes = np.array([len(piece.text) for piece in pieces], dtype=np.int64)
        extra = int(self.config.add_bos) + int(self.config.add_eos)
        for batch in plan_batches(sizes + extra, self._budget):
            chosen = [pieces[k] for k in batch]
            for piece, rows in zip(chosen, self._run([p.text for p in chosen]), strict=True):
                here = slice(piece.start, piece.start + len(piece.text))
                totals[piece.sequence][here] += rows
                if piece.sequence in counts:
                    counts[piece.sequence][here] += 1
        for index, count in counts.items():
            totals[index] /= count[:, None].astype(np.float32)
        return totals

    def _run(self, texts: list[str]) -> list[NDArray[np.float32]]:
        """Embed texts that fit the model, as one batch."""
        config = self.config
        ids, lengths = encode(texts, config.tokens, add_bos=config.add_bos, add_eos=config.add_eos)
        with torch.inference_mode():
            hidden = self._encoder(
                torch.from_numpy(ids).to(self._device), torch.from_numpy(lengths).to(self._device)
            )
        rows = hidden.float().cpu().numpy()
        first = int(config.add_bos)
        return [row[first : first + len(text)] for row, text in zip(rows, texts, strict=True)]
