"""The shape of a RNABERT model and the conventions its checkpoint was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riboray.alphabet import Vocabulary, get_vocabulary
from riboray.errors import ConfigError

__all__ = ["HEADS", "Level", "Padding", "Problem", "RnaBertConfig"]

#: What a prediction head says something of, and what kind of thing it says.
Level = Literal["sequence", "nucleotide", "contact"]
Problem = Literal["regression", "binary", "multiclass", "multilabel"]

#: What attention makes of padding.
Padding = Literal["masked", "original"]

#: Optional parts of a checkpoint beside the encoder.
HEADS = ("pooler", "lm", "ss")


@dataclass(frozen=True, kw_only=True)
class RnaBertConfig:
    """Hyper-parameters of RNABERT (Akiyama & Sakakibara 2022, doi:10.1093/nargab/lqac012).

    The defaults are the published architecture with MultiMolecule's 28-token vocabulary:
    481,080 parameters in encoder and pooler.
    """

    vocabulary: str = "multimolecule"
    """Token set, ``multimolecule`` (28 tokens) or ``original`` (6)."""
    hidden_size: int = 120
    """Width of a base embedding."""
    num_hidden_layers: int = 6
    """Transformer layers."""
    num_attention_heads: int = 12
    """Attention heads; must divide ``hidden_size``."""
    intermediate_size: int = 40
    """Width of the feed-forward layers."""
    max_position_embeddings: int = 440
    """Longest sequence, in tokens."""
    type_vocab_size: int = 2
    """Token types in the embedding table; type 0 is the only one ever used."""
    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    ss_vocab_size: int = 8
    """Classes of the secondary-structure head."""
    tie_word_embeddings: bool = True
    """Use the word embeddings as the decoder of the language-model head."""
    lm_head_activation: Literal["none", "gelu"] = "none"
    """Activation inside the prediction heads: none in the original, GELU in MultiMolecule's."""
    padding: Padding = "masked"
    """``masked``: attention never sees padding. ``original``: every sequence is padded to
    ``max_position_embeddings`` and attends to the padding, as the published weights need."""
    add_bos: bool = False
    """Put ``<cls>`` before every sequence."""
    add_eos: bool = False
    """Put ``<eos>`` after every sequence."""
    heads: tuple[str, ...] = HEADS
    """Which of ``pooler``, ``lm`` and ``ss`` the model has."""

    def __post_init__(self) -> None:
        if self.num_attention_heads < 1:
            raise ConfigError(
                f"num_attention_heads must be at least 1, not {self.num_attention_heads}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        sizes = (
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
            "max_position_embeddings",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        unknown = set(self.heads) - set(HEADS)
        if unknown:
            raise ConfigError(f"unknown heads {sorted(unknown)}; known are {', '.join(HEADS)}")
        # One order, so that equal models have equal configurations.
        object.__setattr__(self, "heads", tuple(head for head in HEADS if head in self.heads))
        self._check_conventions()

    def _check_conventions(self) -> None:
        for name, allowed in (
            ("padding", get_args(Padding)),
            ("lm_head_activation", ("none", "gelu")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        tokens = get_vocabulary(self.vocabulary)
        for name, token in (("add_bos", "<cls>"), ("add_eos", "<eos>")):
            if getattr(self, name) and tokens.id_of(token) is None:
                raise ConfigError(f"{name}: the {self.vocabulary!r} vocabulary has no {token}")

    @property
    def tokens(self) -> Vocabulary:
        """The vocabulary itself."""
        return get_vocabulary(self.vocabulary)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_sequence_length(self) -> int:
        """Longest sequence in nucleotides, after room for ``<cls>`` and ``<eos>``."""
        return self.max_position_embeddings - int(self.add_bos) - int(self.add_eos)

    def layer_flops(self, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """Count the operations of one encoder layer's forward pass on sequences, each alone.

        Parameters
        ----------
        tokens : ndarray, dtype=integer
            Tokens of every sequence.

        Returns
        -------
        ndarray, dtype=float64
            Multiplications and additions of the matrix products: (8 h^2 + 4 h i) n in the linear
            maps of width h and inner width i, and 4 h n^2 in attention.
        """
        hidden, inner, n = self.hidden_size, self.intermediate_size, tokens.astype(np.float64)
        return (8.0 * hidden * hidden + 4.0 * hidden * inner) * n + 4.0 * hidden * np.square(n)
