"""Reading and writing checkpoints.

There is one directory format, and it is MultiMolecule's (Hugging Face's): ``config.json``,
``model.safetensors``, ``vocab.txt``, ``tokenizer_config.json``. What RNABERT needs beyond it
(padding, vocabulary name, schema version) stands under the key ``riboray`` of ``config.json``,
which other readers ignore. So ``multimolecule`` opens every checkpoint riboray writes.

Read besides: directories that MultiMolecule wrote, and the published ``.pth``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from riboray.alphabet import VOCABULARIES, Vocabulary, get_vocabulary
from riboray.errors import CheckpointError, ConfigError, VocabularyError
from riboray.manifest import atomic_directory, sha256_file, write_json
from riboray.model.bundled import checkpoint_path, same_path
from riboray.model.config import RnaBertConfig
from riboray.model.heads import RnaBertForPreTraining
from riboray.model.hub import is_hub_id, name_in_cache
from riboray.model.metadata import (
    SCHEMA_VERSION,
    SHARED_FIELDS,
    config_to_json,
    head_from_json,
    tokenizer_to_json,
)
from riboray.model.prediction import HEAD_NAMES, HeadConfig, RnaBertForPrediction

__all__ = [
    "SCHEMA_VERSION",
    "LoadedCheckpoint",
    "describe",
    "load_checkpoint",
    "save_checkpoint",
    "write_checkpoint_files",
]

WEIGHTS_NAME = "model.safetensors"
StateDict = dict[str, Tensor]

#: Prefix of each optional part's keys.
_HEAD_PREFIXES = {"pooler": "model.pooler.", "lm": "lm_head.", "ss": "ss_head."}

#: The published file's names and ours, applied in this order.
_PUBLISHED_NAMES = (
    ("bert.", "model."),
    ("cls.predictions_ss.", "ss_head."),
    ("cls.predictions.", "lm_head."),
    ("LayerNorm.gamma", "layer_norm.weight"),
    ("LayerNorm.beta", "layer_norm.bias"),
    (".selfattn.", ".self."),
)

#: BERT's next-sentence heads. RNABERT never trained them and nothing uses them: left out.
_UNUSED_PREFIXES = ("cls.seq_relationship.", "sa_head.")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model in evaluation mode, with where it came from.

    Attributes
    ----------
    model : RnaBertForPreTraining
        On the CPU, float32, in evaluation mode; its ``config`` carries the conventions.
    path : Path
        The file or directory read, absolute.
    format : str
        ``riboray``, ``multimolecule`` or ``published``.
    sha256 : str
        Of the weight file.
    hub : str, optional
        Its id and commit, if it was asked for by an id of the Hugging Face Hub.
    """

    model: RnaBertForPreTraining
    path: Path
    format: str
    sha256: str
    hub: str | None = None

    @property
    def name(self) -> str:
        """What means this checkpoint to a process elsewhere: its path, or its name if it has one.

        Names are those of models that come with riboray, and ids of the hub.
        """
        return self.hub or same_path(self.path)


def describe(loaded: LoadedCheckpoint) -> dict[str, Any]:
    """Return a checkpoint's origin, size and conventions, for people and for ``/v1/info``."""
    config = loaded.model.config
    return {
        "path": loaded.name,
        "format": loaded.format,
        "sha256": loaded.sha256,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        **asdict(config),
        "max_sequence_length": config.max_sequence_length,
    }


def load_checkpoint(path: str | Path, *, vocabulary: str | None = None) -> LoadedCheckpoint:
    """Read a checkpoint of any known format.

    Parameters
    ----------
    path : str or Path
        A directory that riboray or MultiMolecule wrote, or the published ``.pth`` file; or the name
        of a model that comes with riboray.
    vocabulary : str, optional
        Required vocabulary. Needed for a directory without tokenizer files; otherwise a check.

    Returns
    -------
    LoadedCheckpoint
        The model and its origin. Nothing in the file is executed: weights are read with
        safetensors or ``torch.load(weights_only=True)``.

    Raises
    ------
    CheckpointError
        If something is missing, unexpected or unreadable; the message lists keys.
    VocabularyError
        If the vocabulary is unknown, or not the one required.
    """
    asked, path = path, checkpoint_path(path)
    if path.is_dir():
        loaded = _load_directory(path, vocabulary)
    elif path.is_file():
        loaded = _load_published(path, vocabulary)
    else:
        raise CheckpointError(path, "no such checkpoint file or directory")
    hub = name_in_cache(path) if isinstance(asked, str) and is_hub_id(asked) else None
    return replace(loaded, path=path.resolve(), hub=hub)


def _load_published(path: Path, vocabulary: str | None) -> LoadedCheckpoint:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"not a PyTorch file that can be read safely ({type(error).__name__})"
        raise CheckpointError(path, reason) from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(path, "not a state dict: expected a mapping of names to tensors")
    state = {_rename(str(key)): tensor for key, tensor in loaded.items()}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(_UNUSED_PREFIXES)}
    words = state.get("model.embeddings.word_embeddings.weight")
    if words is None:
        raise CheckpointError(
            path, "no RNABERT weights", ("bert.embeddings.word_embeddings.weight",)
        )
    known = [v for v in VOCABULARIES.values() if len(v) == words.shape[0]]
    if not known or vocabulary not in (None, known[0].name):
        found = known[0].name if known else f"of {words.shape[0]} tokens"
        raise VocabularyError(path, f"vocabulary {found}, expected {vocabulary or 'a known one'}")
    config = RnaBertConfig(
        vocabulary=known[0].name,
        padding="original",
        tie_word_embeddings=False,
        heads=_heads_in(state),
    )
    model = _build(path, config, state)
    return LoadedCheckpoint(model, path, "published", sha256_file(path))


def _rename(key: str) -> str:
    """Translate a key of the published file, with or without DataParallel's prefix."""
    key = key.removeprefix("module.")
    for theirs, ours in _PUBLISHED_NAMES:
        key = key.replace(theirs, ours)
    return key


def _load_directory(path: Path, vocabulary: str | None) -> LoadedCheckpoint:
    values = _read_json(path / "config.json")
    if values.get("model_type") != "rnabert":
        found = values.get("model_type")
        raise CheckpointError(path / "config.json", f"model_type is {found!r}, not 'rnabert'")
    weights = path / WEIGHTS_NAME
    try:
        state = safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(weights, f"cannot be read ({error})") from error
    state = _canonical(state)
    ours = values.get("riboray")
    tokens = _read_vocabulary(path, values, vocabulary)
    config = _config_from_json(path, values, tokens, _heads_in(state))
    model = _build(path, config, state, _prediction_head(path, values, state))
    source = "riboray" if ours else "multimolecule"
    return LoadedCheckpoint(model, path, source, sha256_file(weights))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(path, "missing; not a checkpoint directory") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, "not a JSON object")
    return values


def _canonical(state: StateDict) -> StateDict:
    """Bring MultiMolecule's variants of a state dict to one form.

    An encoder saved alone lacks the prefix ``model.``; a head's bias may be stored as
    ``bias``, as ``decoder.bias``, or as both.
    """
    if "embeddings.word_embeddings.weight" in state:
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(_UNUSED_PREFIXES)}
    for head in ("lm_head", "ss_head"):
        bias = state.pop(f"{head}.bias", None)
        if bias is not None:
            state[f"{head}.decoder.bias"] = bias
    return state


def _heads_in(state: StateDict) -> tuple[str, ...]:
    return tuple(
        head
        for head, prefix in _HEAD_PREFIXES.items()
        if any(key.startswith(prefix) for key in state)
    )


def _prediction_head(path: Path, values: dict[str, Any], state: StateDict) -> HeadConfig | None:
    """Read what the model predicts, if it has a head for that."""
    found = [(level, f"{name}.decoder.weight") for level, name in HEAD_NAMES.items()]
    found = [(level, key) for level, key in found if key in state]
    if not found:
        return None
    if len(found) > 1:
        raise CheckpointError(path, "more than one prediction head")
    level, key = found[0]
    try:
        return head_from_json(values, level, len(state[key]))
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(path / "config.json", f"cannot be used ({error})") from error


def _read_vocabulary(path: Path, values: dict[str, Any], required: str | None) -> Vocabulary:
    file = path / "vocab.txt"
    if file.is_file():
        tokens = tuple(file.read_text("utf-8").split())
        known = [v for v in VOCABULARIES.values() if v.tokens == tokens]
        if not known:
            raise VocabularyError(file, f"{len(tokens)} tokens in an order riboray does not know")
        found = known[0]
    elif required is None:
        raise VocabularyError(
            path, "no vocab.txt; save the tokenizer beside the model, or name the vocabulary"
        )
    else:
        found = get_vocabulary(required)
    if required not in (None, found.name):
        raise VocabularyError(path, f"vocabulary {found.name!r}, expected {required!r}")
    if values.get("vocab_size") != len(found):
        raise VocabularyError(
            path,
            f"config.json says {values.get('vocab_size')} tokens, {found.name!r} has {len(found)}",
        )
    return found


def _config_from_json(
    path: Path, values: dict[str, Any], tokens: Vocabulary, heads: tuple[str, ...]
) -> RnaBertConfig:
    for name, supported in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if values.get(name, supported) != supported:
            reason = f"{name} is {values[name]!r}; RNABERT has {supported!r}"
            raise CheckpointError(path / "config.json", reason)
    shared = {name: values[name] for name in SHARED_FIELDS if name in values}
    ours = values.get("riboray")
    if ours is None:
        # MultiMolecule's own checkpoints: <cls> and <eos> as the tokenizer says, masked padding.
        file = path / "tokenizer_config.json"
        tokenizer = _read_json(file) if file.is_file() else {}
        ours = {
            "padding": "masked",
            "add_bos": tokenizer.get("bos_token", "<cls>") is not None,
            "add_eos": tokenizer.get("eos_token", "<eos>") is not None,
        }
    elif ours.get("schema_version", 0) > SCHEMA_VERSION:
        raise CheckpointError(
            path, f"schema version {ours['schema_version']} is newer than this riboray; update it"
        )
    head = values.get("lm_head") or values.get("head") or {}
    transform = head.get("transform", "nonlinear")
    activation = head.get("transform_act", "gelu") if transform == "nonlinear" else None
    try:
        return RnaBertConfig(
            vocabulary=tokens.name,
            heads=heads,
            lm_head_activation="none" if activation is None else activation,
            padding=ours["padding"],
            add_bos=ours["add_bos"],
            add_eos=ours["add_eos"],
            **shared,
        )
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(path / "config.json", f"cannot be used ({error})") from error


def _build(
    path: Path, config: RnaBertConfig, state: StateDict, head: HeadConfig | None = None
) -> RnaBertForPreTraining:
    """Make the model and fill it, strictly."""
    if head is None:
        model = RnaBertForPreTraining(config)
    else:
        model = RnaBertForPrediction(config, head)
        # Heads of pre-training, and a pooler that nothing reads, are no part of it.
        other = [p for h, p in _HEAD_PREFIXES.items() if not (h == "pooler" and head.uses_pooler)]
        state = {key: value for key, value in state.items() if not key.startswith(tuple(other))}
    if model.lm_head is not None and config.tie_word_embeddings:
        words = state.get("model.embeddings.word_embeddings.weight")
        if words is not None:
            state.setdefault("lm_head.decoder.weight", words)
    state = _canonical(state)
    wanted = model.state_dict()
    missing = tuple(sorted(wanted.keys() - state.keys()))
    unexpected = tuple(sorted(state.keys() - wanted.keys()))
    if missing or unexpected:
        raise CheckpointError(path, "keys do not fit RNABERT", missing, unexpected)
    for key, tensor in wanted.items():
        if state[key].shape != tensor.shape:
            shapes = f"{tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            raise CheckpointError(path, f"{key} has shape {shapes}")
        if not bool(torch.isfinite(state[key]).all()):
            raise CheckpointError(path, f"{key} holds NaN or infinite values")
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return model.eval()


def save_checkpoint(model: RnaBertForPreTraining, directory: str | Path) -> Path:
    """Write a checkpoint directory that riboray and MultiMolecule open.

    Parameters
    ----------
    model : RnaBertForPreTraining
        The model, on any device.
    directory : str or Path
        A new or empty directory. It appears whole or not at all.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    OutputError
        If the directory exists and is not empty.
    """
    directory = Path(directory)
    with atomic_directory(directory) as temporary:
        write_checkpoint_files(model, temporary)
    return directory


def write_checkpoint_files(model: RnaBertForPreTraining, directory: Path) -> None:
    """Write a checkpoint's files into an existing directory, without committing it."""
    config = model.config
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    for name in ("lm_head", "ss_head"):
        if f"{name}.decoder.bias" in state:
            state[f"{name}.bias"] = state.pop(f"{name}.decoder.bias")
    if config.tie_word_embeddings:
        state.pop("lm_head.decoder.weight", None)
    head = model.head_config if isinstance(model, RnaBertForPrediction) else None
    write_json(directory / "config.json", config_to_json(config, head))
    write_json(directory / "tokenizer_config.json", tokenizer_to_json(config))
    (directory / "vocab.txt").write_text("\n".join(config.tokens.tokens) + "\n", "utf-8")
    safetensors.torch.save_file(state, directory / WEIGHTS_NAME, metadata={"format": "pt"})
