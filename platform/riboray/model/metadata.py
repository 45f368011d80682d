"""What a checkpoint directory says about itself, in MultiMolecule's words."""

from __future__ import annotations

from typing import Any

from riboray import __version__
from riboray.model.config import RnaBertConfig

__all__ = ["SCHEMA_VERSION", "SHARED_FIELDS", "TRAINED_NAME", "config_to_json", "tokenizer_to_json"]

SCHEMA_VERSION = 1

TRAINED_NAME = "training_sequences.safetensors"
"""Hashes of what a model was trained on, beside its weights: see `riboray.corpus.trained`."""

#: config.json keys that are RnaBertConfig fields under the same name.
SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "initializer_range",
    "ss_vocab_size",
    "tie_word_embeddings",
)


def config_to_json(config: RnaBertConfig) -> dict[str, Any]:
    """Return ``config.json``: MultiMolecule's keys, and ours under ``riboray``."""
    tokens = config.tokens
    activation = None if config.lm_head_activation == "none" else config.lm_head_activation
    transform = "linear" if activation is None else "nonlinear"
    return {
        "architectures": ["RnaBertForPreTraining"],
        "model_type": "rnabert",
        "dtype": "float32",
        "vocab_size": len(tokens),
        **{name: getattr(config, name) for name in SHARED_FIELDS},
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "position_embedding_type": "absolute",
        "pad_token_id": tokens.pad_id,
        "bos_token_id": tokens.id_of("<cls>") if config.add_bos else None,
        "eos_token_id": tokens.id_of("<eos>") if config.add_eos else None,
        "unk_token_id": tokens.id_of("<unk>"),
        "mask_token_id": tokens.mask_id,
        "null_token_id": tokens.id_of("<null>"),
        "lm_head": {"transform": transform, "transform_act": activation},
        "riboray": {
            "schema_version": SCHEMA_VERSION,
            "version": __version__,
            "vocabulary": config.vocabulary,
            "padding": config.padding,
            "add_bos": config.add_bos,
            "add_eos": config.add_eos,
        },
    }


def tokenizer_to_json(config: RnaBertConfig) -> dict[str, Any]:
    """Return ``tokenizer_config.json`` for MultiMolecule's tokeniser."""
    return {
        "tokenizer_class": "RnaTokenizer",
        "bos_token": "<cls>" if config.add_bos else None,
        "cls_token": "<cls>" if config.add_bos else None,
        "eos_token": "<eos>" if config.add_eos else None,
        "sep_token": "<eos>" if config.add_eos else None,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "additional_special_tokens": ["<null>"],
        "codon": False,
        "nmers": 1,
        "replace_T_with_U": True,
        "model_max_length": config.max_sequence_length,
    }
