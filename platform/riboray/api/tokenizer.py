"""Nucleotides to token ids, called as MultiMolecule's and Hugging Face's tokenizers are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from riboray.alphabet import encode
from riboray.api.outputs import Output
from riboray.errors import InvalidSequenceError, RiborayError
from riboray.model.checkpoint import load_checkpoint
from riboray.model.config import RnaBertConfig

__all__ = ["RnaTokenizer"]

_SPECIAL = re.compile(r"<[a-z]+>")


class RnaTokenizer:
    """A checkpoint's tokenizer.

    Parameters
    ----------
    config : RnaBertConfig
        Of the model: its vocabulary, and whether ``<cls>`` and ``<eos>`` go around a sequence.

    Notes
    -----
    Case does not matter and T is U. A character without a token is an error, not ``<unk>``; special
    tokens are written by their names, such as ``<mask>``.
    """

    def __init__(self, config: RnaBertConfig) -> None:
        self.config = config
        self.vocabulary = config.tokens
        self.model_max_length = config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path) -> RnaTokenizer:
        """Return the tokenizer of a checkpoint, named as for `riboray.load`."""
        return cls(load_checkpoint(checkpoint).model.config)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def vocab_size(self) -> int:
        """Tokens there are."""
        return len(self.vocabulary)

    @property
    def mask_token_id(self) -> int:
        """Id of ``<mask>``."""
        return self.vocabulary.mask_id

    @property
    def pad_token_id(self) -> int:
        """Id of ``<pad>``."""
        return self.vocabulary.pad_id

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        return {token: k for k, token in enumerate(self.vocabulary.tokens)}

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        return_tensors: Literal["pt", "np"] | None = None,
        padding: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> Output:
        """Tokenize.

        Parameters
        ----------
        text : str or sequence of str
            One sequence or several; blanks are left out.
        return_tensors : str, optional
            ``pt`` or ``np``: tensors or arrays, of shape (n, longest). None: lists, one sequence's
            alone if one was given.
        padding : bool
            Whether lists are padded; tensors and arrays are.
        truncation : bool
            Whether what is longer than ``max_length`` is cut; otherwise it stays, and the model
            will refuse it.
        max_length : int, optional
            In tokens; by default what the model takes.
        add_special_tokens : bool
            Whether ``<cls>`` and ``<eos>`` are put around, if the checkpoint has them so.

        Returns
        -------
        Output
            ``input_ids`` and ``attention_mask``, int64.

        Raises
        ------
        InvalidSequenceError
            At the first character without a token.
        RiborayError
            If a special token is not in the vocabulary.
        """
        texts = [text] if isinstance(text, str) else list(text)
        limit = (max_length or self.model_max_length) if truncation else None
        rows = [
            self._row(number, "".join(t.split()), add_special_tokens, limit)
            for number, t in enumerate(texts)
        ]
        masks = [np.ones(len(row), np.int64) for row in rows]
        ids: tuple[Any, Any]
        if return_tensors is None and not (padding and len(rows) > 1):
            ids = [row.tolist() for row in rows], [mask.tolist() for mask in masks]
        else:
            arrays = _padded(rows, self.pad_token_id), _padded(masks, 0)
            ids = arrays
            if return_tensors == "pt":
                ids = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
            elif return_tensors is None:
                ids = arrays[0].tolist(), arrays[1].tolist()
        if return_tensors is None and isinstance(text, str):
            ids = ids[0][0], ids[1][0]
        return Output(input_ids=ids[0], attention_mask=ids[1])

    def _row(self, number: int, text: str, specials: bool, limit: int | None) -> NDArray[np.int64]:
        """Tokenize one sequence, special tokens by their names included."""
        parts: list[Any] = []
        place = 0
        for turn, piece in enumerate(re.split(f"({_SPECIAL.pattern})", text)):
            if turn % 2:
                parts.append([self._id(piece)])
            elif piece:
                try:
                    parts.append(encode([piece], self.vocabulary)[0][0])
                except InvalidSequenceError as error:
                    told = (error.character, error.vocabulary)
                    raise InvalidSequenceError(number, place + error.position, *told) from error
            place += len(piece)
        room = limit
        if specials and room is not None:
            room -= int(self.config.add_bos) + int(self.config.add_eos)
        row = np.concatenate([np.zeros(0, np.int64), *parts])[:room].astype(np.int64)
        if specials:
            before = [self._id("<cls>")] if self.config.add_bos else []
            after = [self._id("<eos>")] if self.config.add_eos else []
            row = np.concatenate([before, row, after]).astype(np.int64)
        return row

    def _id(self, token: str) -> int:
        found = self.vocabulary.id_of(token)
        if found is None:
            raise RiborayError(f"the {self.vocabulary.name!r} vocabulary has no {token}")
        return found

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids, shape (length,)."""
        tokens = [self.vocabulary.tokens[int(k)] for k in ids]
        return "".join(t for t in tokens if not (skip_special_tokens and _SPECIAL.fullmatch(t)))

    def batch_decode(self, ids: Any, *, skip_special_tokens: bool = False) -> list[str]:
        """Return the texts of rows of token ids."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in ids]


def _padded(rows: list[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    width = max(map(len, rows), default=0)
    padded = np.full((len(rows), width), value, np.int64)
    for k, row in enumerate(rows):
        padded[k, : len(row)] = row
    return padded
