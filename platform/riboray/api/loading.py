"""A model and its tokenizer by one call, and what one does with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from riboray.alignment.columns import GapPenalties, Mode
from riboray.alphabet import MASK, encode, hidden_places, normalise
from riboray.api.alignment import Alignment
from riboray.api.models import (
    RnaBertForContactPrediction,
    RnaBertForMaskedLM,
    RnaBertForSequencePrediction,
    RnaBertForTokenPrediction,
    RnaBertModel,
)
from riboray.api.tokenizer import RnaTokenizer
from riboray.embedding.config import resolve_layers
from riboray.embedding.embedder import Embedder, Wanted
from riboray.errors import ConfigError, RiborayError
from riboray.model.bundled import DEFAULT_MODEL
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint
from riboray.model.prediction import HeadConfig, RnaBertForPrediction
from riboray.predicting.predictor import Predictor
from riboray.serving.work import AlignJob, FillJob, Worker

__all__ = ["Rna", "load", "predictor"]

Rows = NDArray[np.float32]

_WRAPPERS = {
    "sequence": RnaBertForSequencePrediction,
    "nucleotide": RnaBertForTokenPrediction,
    "contact": RnaBertForContactPrediction,
}


class Rna:
    """A model, its tokenizer, and what they can do; what `load` returns.

    Parameters
    ----------
    loaded : LoadedCheckpoint
        The checkpoint.
    device : str
        Torch device.

    Attributes
    ----------
    model : Module
        Called as ``model(**tokenizer(text, return_tensors="pt"))``: `RnaBertModel`, or one of the
        prediction models where the checkpoint has such a head.
    tokenizer : RnaTokenizer
        The checkpoint's.
    name : str
        What means this model anywhere: a name, a hub's id with its commit, or a path.
    """

    def __init__(self, loaded: LoadedCheckpoint, device: str = "cpu") -> None:
        self.name, self._rna = loaded.name, loaded.model
        self._worker = Worker(Embedder(loaded.model, device=device))
        self.tokenizer = RnaTokenizer(loaded.model.config)
        head = self.head
        wrapper: Any = RnaBertModel if head is None else _WRAPPERS[head.level]
        self.model = wrapper(loaded.model).eval()

    def __iter__(self) -> Iterator[Any]:
        """Unpack as ``model, tokenizer = riboray.load(…)``."""
        return iter((self.model, self.tokenizer))

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self._rna.parameters())
        head = "" if self.head is None else f", predicts {self.head.problem} {self.head.level}"
        return f"<Rna {self.name}: {size:,} parameters{head}>"

    @property
    def head(self) -> HeadConfig | None:
        """What the model predicts; None if it has no prediction head."""
        rna = self._rna
        return rna.head_config if isinstance(rna, RnaBertForPrediction) else None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._worker.embedder.device

    def embed(
        self, sequences: str | Sequence[str], *, layer: int = -1, pooling: str = "mean"
    ) -> Rows:
        """Embed sequences of any length.

        Parameters
        ----------
        sequences : str or sequence of str
            RNA or DNA.
        layer : int
            0 is what goes into the first layer, -1 what comes out of the last.
        pooling : str
            ``mean``, ``max`` or ``first``.

        Returns
        -------
        ndarray, shape=(n, H) or, of one sequence, (H,), dtype=float32
            As `riboray embed` makes them.

        Raises
        ------
        InvalidSequenceError
            If one holds a character without a token.
        ConfigError
            If one is empty, or there is no such layer or pooling.
        """
        if pooling not in ("mean", "max", "first"):
            raise ConfigError(f"pooling must be mean, max or first, not {pooling!r}")
        rows: Rows = self._embedded(sequences, layer, pooling, per_base=False)
        return rows

    def embed_bases(self, sequences: str | Sequence[str], *, layer: int = -1) -> Any:
        """Embed every base; errors as for `embed`.

        Returns
        -------
        ndarray, shape=(length, H), dtype=float32, or list of such
            Of one sequence, or of each.
        """
        return self._embedded(sequences, layer, None, per_base=True)

    def _embedded(
        self, sequences: str | Sequence[str], layer: int, pooling: str | None, per_base: bool
    ) -> Any:
        texts = _texts(sequences)
        (at,) = resolve_layers([layer], self._rna.config.num_hidden_layers)
        found = self._worker.embedder.embed(texts, Wanted((at,), pooling, per_base=per_base))
        _raise_failed(found.failed, texts)
        rows: Any = found.per_base[at] if per_base else found.pooled[at]
        return rows[0] if isinstance(sequences, str) else rows

    def fill_mask(self, text: str, *, top_k: int = 4) -> list[Any]:
        """Rank nucleotides for hidden places, written as ``<mask>``.

        Parameters
        ----------
        text : str
            A sequence that the model takes at once, with one hidden place or several.
        top_k : int
            How many nucleotides are told.

        Returns
        -------
        list of dict, or list of lists of dict
            Of one hidden place, or of each: ``score``, the probability among the four nucleotides;
            ``token``, its id; ``token_str``; ``sequence``, with it filled in (and other hidden
            places still hidden). The likeliest first.

        Raises
        ------
        InvalidSequenceError
            If it holds a character without a token.
        ConfigError
            If nothing is hidden, it is too long, or the model has no language-model head.
        """
        if self._rna.lm_head is None:
            raise ConfigError("the model has no language-model head, with which to fill places")
        sequence, hidden = hidden_places("".join(text.split()))
        longest = self._rna.config.max_sequence_length
        if not hidden:
            raise ConfigError(f"nothing is hidden: write {MASK} for a nucleotide")
        if len(sequence) > longest:
            raise ConfigError(f"{len(sequence)} nucleotides are more than the model's {longest}")
        vocabulary = self._rna.config.tokens
        encode([sequence], vocabulary)
        (shares,) = self._worker.run([FillJob(normalise(sequence), hidden)])
        ids = vocabulary.nucleotide_ids.astype(np.int64)
        shares = shares[:, ids] / shares[:, ids].sum(1, keepdims=True)
        letters: list[str] = [MASK if k in hidden else c for k, c in enumerate(normalise(sequence))]
        ranked = [
            [
                {
                    "score": float(row[k]),
                    "token": int(ids[k]),
                    "token_str": "ACGU"[k],
                    "sequence": "".join([*letters[:place], "ACGU"[k], *letters[place + 1 :]]),
                }
                for k in np.argsort(-row, kind="stable")[:top_k].tolist()
            ]
            for place, row in zip(hidden, shares, strict=True)
        ]
        return ranked[0] if len(hidden) == 1 else ranked

    def align(
        self, query: str, target: str, *, mode: Mode = "global", gaps: GapPenalties | None = None
    ) -> Alignment:
        """Align two RNAs structurally; ``print`` shows how.

        Parameters
        ----------
        query, target : str
            RNA or DNA of any length.
        mode : Mode
            ``global``, ``semiglobal`` or ``local``.
        gaps : GapPenalties, optional
            RNABERT's 1.0 + 0.1·k by default.

        Returns
        -------
        Alignment
            Score, pairs of positions, gapped rows, CIGAR.

        Raises
        ------
        InvalidSequenceError
            As for `embed`.
        """
        a, b = _texts([query, target])
        encode([a, b], self._rna.config.tokens)
        job = AlignJob(a, b, mode, gaps or GapPenalties(), similarity=True)
        (found,) = self._worker.run([job])
        return Alignment.of(found)

    def predict(self, sequences: str | Sequence[str]) -> Any:
        """Predict with the model's head.

        Parameters
        ----------
        sequences : str or sequence of str
            RNA or DNA of any length; longer ones than the model by averages over windows.

        Returns
        -------
        ndarray, dtype=float32, or list of such
            Of one sequence, or of each: shape (C,), (length, C) or (length, length, C), by the
            head's level. Probabilities, or what a regression predicts; their names are
            ``head.labels``, of ``binary`` the second's alone.

        Raises
        ------
        ConfigError
            If the model has no prediction head.
        InvalidSequenceError
            As for `embed`.
        """
        if not isinstance(self._rna, RnaBertForPrediction):
            raise ConfigError("the model has no prediction head")
        texts = _texts(sequences)
        with _evaluating(self._rna):
            found = Predictor(self._rna, device=str(self.device)).predict(texts)
        _raise_failed(found.failed, texts)
        return found.rows[0] if isinstance(sequences, str) else found.rows


def _raise_failed(failed: dict[int, str], texts: Sequence[str]) -> None:
    for index, reason in failed.items():
        raise RiborayError(f"sequence {index} ({len(texts[index])} nt): {reason}")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Leave a model that is being trained as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _texts(sequences: str | Sequence[str]) -> list[str]:
    """Return sequences as the model wants them.

    Raises
    ------
    ConfigError
        If one is empty.
    """
    given = [sequences] if isinstance(sequences, str) else sequences
    texts = [normalise("".join(text.split())) for text in given]
    if "" in texts:
        raise ConfigError(f"sequence {texts.index('')} is empty")
    return texts


def load(checkpoint: str | Path = DEFAULT_MODEL, *, device: str = "cpu") -> Rna:
    """Load a model and its tokenizer.

    Parameters
    ----------
    checkpoint : str or Path
        A model that comes with riboray (``rnabert``, or ``riboray/rnabert``); a directory that
        riboray or MultiMolecule wrote, or the published ``.pth``; or an id of the Hugging Face Hub
        such as ``multimolecule/rnabert`` (extra ``hub``), with ``@revision`` if need be.
    device : str
        Torch device, such as ``cuda``.

    Returns
    -------
    Rna
        Unpacks as ``model, tokenizer``.

    Raises
    ------
    CheckpointError, VocabularyError
        If it cannot be read.
    """
    return Rna(load_checkpoint(checkpoint), device)


def predictor(task: str, model: str | Path | Rna = DEFAULT_MODEL) -> Any:
    """Return a function that does one thing, as ``transformers.pipeline`` does.

    Parameters
    ----------
    task : str
        ``fill-mask``, ``feature-extraction`` (base embeddings) or ``predict``.
    model : str, Path or Rna
        As for `load`.

    Raises
    ------
    ConfigError
        If the task is unknown, or the model cannot do it.
    """
    rna = model if isinstance(model, Rna) else load(model)
    tasks = {
        "fill-mask": rna.fill_mask,
        "feature-extraction": rna.embed_bases,
        "predict": rna.predict,
    }
    if task not in tasks:
        raise ConfigError(f"task must be one of {', '.join(tasks)}, not {task!r}")
    if task == "fill-mask":
        RnaBertForMaskedLM(rna._rna)
    return tasks[task]
