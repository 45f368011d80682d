"""What a checkpoint directory says about itself, in MultiMolecule's words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from riboray import __version__
from riboray.errors import ConfigError
from riboray.model.config import Level, RnaBertConfig
from riboray.model.prediction import HeadConfig

__all__ = [
    "SCHEMA_VERSION",
    "SHARED_FIELDS",
    "TRAINED_NAME",
    "config_to_json",
    "head_from_json",
    "head_to_json",
    "tokenizer_to_json",
]

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


def config_to_json(config: RnaBertConfig, head: HeadConfig | None = None) -> dict[str, Any]:
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
        **({} if head is None else head_to_json(head)),
        "riboray": {
            "schema_version": SCHEMA_VERSION,
            "version": __version__,
            "vocabulary": config.vocabulary,
            "padding": config.padding,
            "add_bos": config.add_bos,
            "add_eos": config.add_eos,
            **({} if head is None else {"head": {**asdict(head), "labels": list(head.labels)}}),
        },
    }


#: MultiMolecule's class of each level.
_ARCHITECTURES: dict[Level, str] = {
    "sequence": "RnaBertForSequencePrediction",
    "nucleotide": "RnaBertForTokenPrediction",
    "contact": "RnaBertForContactPrediction",
}


#: Hugging Face's names of problems.
_PROBLEMS = {
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
}


def head_to_json(head: HeadConfig) -> dict[str, Any]:
    """Return what ``config.json`` says of a prediction head, for MultiMolecule and for us."""
    names = head.labels[1:] if head.problem == "binary" else head.labels
    return {
        "architectures": [_ARCHITECTURES[head.level]],
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
        "head": {
            "num_labels": head.outputs,
            "problem_type": head.problem,
            "dropout": head.dropout,
            "transform": None if head.transform == "identity" else head.transform,
            "transform_act": "gelu" if head.transform == "nonlinear" else None,
            "bias": True,
            "act": None,
        },
    }


def head_from_json(
    values: dict[str, Any], level: Level, outputs: int, problem: str | None = None
) -> HeadConfig:
    """Read a prediction head's configuration from ``config.json``.

    Parameters
    ----------
    values : dict
        The file.
    level : Level
        Which head the weights have.
    outputs : int
        Numbers that it predicts, by its weights.
    problem : Problem, optional
        What it was trained for, where the file does not say: MultiMolecule's often do not. By
        default binary with one output, else multiclass.

    Raises
    ------
    ConfigError
        If it has parts that riboray's heads have not.
    """
    ours = (values.get("riboray") or {}).get("head")
    if ours is not None:
        return HeadConfig(**{**ours, "level": level})
    head = values.get("head") or {}
    if head.get("act") is not None or not head.get("bias", True):
        raise ConfigError("its prediction head has an activation, or no bias")
    if head.get("output_name") is not None:
        raise ConfigError(f"its prediction head reads {head['output_name']!r}")
    transform = head.get("transform") or "identity"
    if transform == "nonlinear" and head.get("transform_act", "gelu") != "gelu":
        raise ConfigError(f"its prediction head's activation is {head['transform_act']!r}")
    told = str(head.get("problem_type") or values.get("problem_type") or "")
    problem = _PROBLEMS.get(told, told) or problem or ("binary" if outputs == 1 else "multiclass")
    named = {int(k): str(v) for k, v in (values.get("id2label") or {}).items()}
    labels = [named.get(k, f"LABEL_{k}") for k in range(outputs)]
    if problem == "binary":
        labels = [f"not {labels[0]}", *labels]
    given: dict[str, Any] = {"problem": problem, "transform": transform}
    return HeadConfig(level=level, labels=tuple(labels), dropout=head.get("dropout", 0.0), **given)


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
