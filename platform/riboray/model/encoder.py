"""RNABERT's encoder in PyTorch.

Module and parameter names are MultiMolecule's, so a state dict needs no translation.
Shapes below: B sequences, L tokens, H hidden size, A attention heads, D head size.

In float32 on a CPU the padding of a batch is dropped, and tokens go through the layers *packed*,
all sequences in a row, shape (T, H): PyTorch's layers around attention kernels of our own
(`riboray.model.attention`) where gradients are wanted, one kernel for everything
(`riboray.model.packed`) where not. On other devices, with other numbers, and where padding is to be
attended to, batches stay padded and PyTorch's own attention does the work.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from riboray.model.config import RnaBertConfig
from riboray.model.packed import Packing, check_offsets, encode_packed, pack
from riboray.model.self_attention import RnaBertSelfAttention, Within
from riboray.model.uncompiled import uncompiled

__all__ = ["RnaBertEmbeddings", "RnaBertEncoder", "RnaBertLayer", "RnaBertModel", "RnaBertPooler"]


class RnaBertEmbeddings(nn.Module):
    """Sum of word, position and token-type embeddings, normalised."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            len(config.tokens), config.hidden_size, padding_idx=config.tokens.pad_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embed token ids, shape (B, L) or, packed, (T,), to shape (B, L, H) or (T, H).

        ``positions``, shape (T,), says where in their sequences packed tokens are.
        """
        if positions is None:
            placed = self.position_embeddings.weight[: input_ids.shape[1]]
        else:
            placed = self.position_embeddings(positions)
        embedded = self.word_embeddings(input_ids) + placed + self.token_type_embeddings.weight[0]
        normalised: Tensor = self.layer_norm(embedded)
        return normalised


def _lasting_kernels(device: str) -> AbstractContextManager[object]:
    """Keep attention with kernels that serve every shape.

    On a Hopper GPU, PyTorch gives masked attention to cuDNN, which plans anew for every shape of a
    batch, 50 ms and more each time: as long as the step, where all batches differ in shape.
    """
    if device != "cuda":
        return nullcontext()
    backends: Any = torch.backends.cuda
    allowed = {
        SDPBackend.FLASH_ATTENTION: backends.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: backends.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: backends.math_sdp_enabled(),
    }
    others = [kernel for kernel, enabled in allowed.items() if enabled]
    return sdpa_kernel(others) if others else nullcontext()


class _AddAndNorm(nn.Module):
    """Dense layer, residual connection, LayerNorm (post-norm)."""

    def __init__(self, in_features: int, config: RnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        dense = self.dense(hidden)
        # In place: nothing else needs what a dense layer returns. Autocast may change its type.
        added = dense.add_(residual) if dense.dtype == residual.dtype else dense + residual
        normalised: Tensor = self.layer_norm(added)
        return normalised


class RnaBertAttention(nn.Module):
    """Self-attention and its output layer."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.self = RnaBertSelfAttention(config)
        self.output = _AddAndNorm(config.hidden_size, config)

    def forward(self, hidden: Tensor, within: Within) -> Tensor:
        """Attend and add; shape (B, L, H) or (T, H) to the same."""
        added: Tensor = self.output(self.self(hidden, within), hidden)
        return added


class RnaBertIntermediate(nn.Module):
    """First half of the feed-forward layer: dense and exact (erf) GELU."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Widen; shape (..., H) to (..., intermediate)."""
        return functional.gelu(self.dense(hidden))


class RnaBertLayer(nn.Module):
    """One transformer layer."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.attention = RnaBertAttention(config)
        self.intermediate = RnaBertIntermediate(config)
        self.output = _AddAndNorm(config.intermediate_size, config)

    def forward(self, hidden: Tensor, within: Within) -> Tensor:
        """Transform; shape (B, L, H) or (T, H) to the same."""
        attended = self.attention(hidden, within)
        transformed: Tensor = self.output(self.intermediate(attended), attended)
        return transformed


class RnaBertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(RnaBertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor, within: Within) -> list[Tensor]:
        """Return the input and every layer's output, each of shape (B, L, H) or (T, H)."""
        states = [hidden]
        for layer in self.layer:
            states.append(layer(states[-1], within))
        return states


class RnaBertPooler(nn.Module):
    """Dense and tanh on the first token."""

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool; shape (B, L, H) to (B, H)."""
        return torch.tanh(self.dense(hidden[:, 0]))


#: What an encoder is made of.
_PARTS = frozenset(
    (
        *(RnaBertEmbeddings, RnaBertEncoder, RnaBertLayer, RnaBertAttention, RnaBertSelfAttention),
        *(RnaBertIntermediate, _AddAndNorm),
        *(nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList),
    )
)


class RnaBertModel(nn.Module):
    """Embeddings, encoder and, if the checkpoint has one, pooler.

    Parameters
    ----------
    config : RnaBertConfig
        Sizes and conventions. With ``padding="original"`` each call pads to
        ``max_position_embeddings`` and lets tokens attend to the padding.
    """

    def __init__(self, config: RnaBertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = RnaBertEmbeddings(config)
        self.encoder = RnaBertEncoder(config)
        self.pooler = RnaBertPooler(config) if "pooler" in config.heads else None

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the base embeddings, the last layer's output.

        Parameters
        ----------
        input_ids : Tensor, shape=(B, L), dtype=integer
            Token ids, padded on the right.
        lengths : Tensor, shape=(B,), dtype=integer, optional
            Tokens per row; all ``L`` if not given.

        Returns
        -------
        Tensor, shape=(B, L, H)
            What stands beyond a row's length has no meaning.

        Raises
        ------
        ValueError
            If ``L`` exceeds ``max_position_embeddings``. Checked here, on the CPU: an index
            out of range inside a GPU kernel would poison the device for every later call.
        """
        return self._states(input_ids, lengths, every=False)[-1]

    def hidden_states(self, input_ids: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Return the embedding layer's and every layer's output; see `forward`."""
        return self._states(input_ids, lengths, every=True)

    @uncompiled
    def packed(self, input_ids: Tensor, offsets: Tensor) -> Tensor:
        """Return the base embeddings of sequences that stand in a row, without padding.

        Parameters
        ----------
        input_ids : Tensor, shape=(T,), dtype=integer
            Token ids of all sequences.
        offsets : Tensor, shape=(N + 1,), dtype=integer
            Where sequences begin, from 0 on, and where the last one ends, T.

        Returns
        -------
        Tensor, shape=(T, H)
            As `forward` would return them, up to rounding.

        Raises
        ------
        IndexError
            If a token id has no embedding.
        ValueError
            If ``offsets`` are not such, or a sequence exceeds ``max_position_embeddings``.
        """
        return self._packed_result(input_ids, offsets, every=False)[-1]

    @uncompiled
    def packed_hidden_states(self, input_ids: Tensor, offsets: Tensor) -> list[Tensor]:
        """Return the embedding layer's and every layer's output; see `packed`."""
        return self._packed_result(input_ids, offsets, every=True)

    def _packed_result(self, input_ids: Tensor, offsets: Tensor, every: bool) -> list[Tensor]:
        edges = offsets.cpu().numpy().astype(np.int64)
        lengths = check_offsets(edges, len(input_ids), self.config.max_position_embeddings)
        rows, width = len(lengths), int(lengths.max(initial=0))
        packing = pack(rows, width, torch.from_numpy(lengths))
        if self._packs(input_ids):
            return self._packed_states(input_ids, packing, every)
        where = packing.where.to(input_ids.device)
        padded = input_ids.new_full((rows * width,), self.config.tokens.pad_id)
        padded[where] = input_ids
        sizes = torch.from_numpy(lengths).to(input_ids.device)
        ids = padded.view(rows, width)
        # Called, not its `forward`: that is what `torch.nn.Module.compile` compiles.
        states = self.hidden_states(ids, sizes) if every else [self(ids, sizes)]
        return [state.flatten(0, 1)[where] for state in states]

    def _packs(self, input_ids: Tensor) -> bool:
        """Tell whether tokens are to go through the layers packed."""
        weight = self.embeddings.word_embeddings.weight
        return (
            input_ids.device.type == weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and self.config.padding == "masked"
            and not torch.is_autocast_enabled("cpu")
        )

    def _parts(self) -> tuple[list[Tensor], bool]:
        """Parameters in the order of registration, and whether one kernel may stand for all parts.

        It may not where a part was replaced (by an adapter, say) or has a hook.
        """
        used: list[Tensor] = []
        plain = True
        for module in chain(self.embeddings.modules(), self.encoder.modules()):
            watched = module._forward_hooks or module._forward_pre_hooks
            plain = plain and type(module) in _PARTS and not watched
            used += [tensor for tensor in module._parameters.values() if tensor is not None]
        return used, plain

    def _packed_states(self, ids: Tensor, packing: Packing, every: bool) -> list[Tensor]:
        """Return states of packed tokens, ids of shape (T,): the last one, or all."""
        used, plain = self._parts()
        wanted = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in used)
        if plain and not wanted:
            return encode_packed(self.config, used, ids, packing.offsets, every)
        embedded = self.embeddings(ids.int(), packing.positions)
        states: list[Tensor] = self.encoder(embedded, packing.offsets)
        return states if every else states[-1:]

    @uncompiled
    def _unpadded_states(self, ids: Tensor, lengths: Tensor | None, every: bool) -> list[Tensor]:
        """Do what `_states` does, without padding between the layers."""
        packing = pack(ids.shape[0], ids.shape[1], lengths)
        states = self._packed_states(ids.flatten()[packing.where], packing, every)
        return [packing.unpack(state) for state in states]

    def _states(self, input_ids: Tensor, lengths: Tensor | None, *, every: bool) -> list[Tensor]:
        """Return the last state, or all; see `forward`."""
        width, limit = input_ids.shape[1], self.config.max_position_embeddings
        if width > limit:
            raise ValueError(f"{width} tokens exceed max_position_embeddings={limit}")
        if self._packs(input_ids):
            states: list[Tensor] = self._unpadded_states(input_ids, lengths, every)
            return states
        ids = input_ids.int()
        mask = None
        if self.config.padding == "original":
            if lengths is not None:
                beyond = torch.arange(width, device=ids.device) >= lengths[:, None]
                ids = ids.masked_fill(beyond, self.config.tokens.pad_id)
            ids = functional.pad(ids, (0, limit - width), value=self.config.tokens.pad_id)
        # Whether there is padding at all, a device would have to be waited for.
        elif lengths is not None and (lengths.is_cuda or bool((lengths < width).any())):
            mask = (torch.arange(width, device=ids.device) < lengths[:, None])[:, None, None, :]
        with _lasting_kernels(ids.device.type):
            states = self.encoder(self.embeddings(ids), mask)
        return [state[:, :width] for state in (states if every else states[-1:])]
