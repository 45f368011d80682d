"""riboray: an RNA language-model platform on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riboray._lazy import lazy_exports

if TYPE_CHECKING:
    from riboray.api.loading import Rna, load, predictor
    from riboray.api.models import (
        RnaBertForContactPrediction,
        RnaBertForMaskedLM,
        RnaBertForSequencePrediction,
        RnaBertForTokenPrediction,
        RnaBertModel,
    )
    from riboray.api.tokenizer import RnaTokenizer
    from riboray.embedding.store import open_embeddings

__all__ = [
    "Rna",
    "RnaBertForContactPrediction",
    "RnaBertForMaskedLM",
    "RnaBertForSequencePrediction",
    "RnaBertForTokenPrediction",
    "RnaBertModel",
    "RnaTokenizer",
    "__version__",
    "load",
    "open_embeddings",
    "predictor",
]

__version__ = "0.1.0"

_MODELS = (
    *("RnaBertModel", "RnaBertForMaskedLM", "RnaBertForSequencePrediction"),
    *("RnaBertForTokenPrediction", "RnaBertForContactPrediction"),
)

__getattr__ = lazy_exports(
    __name__,
    {
        **dict.fromkeys(_MODELS, "api.models"),
        **dict.fromkeys(("Rna", "load", "predictor"), "api.loading"),
        "RnaTokenizer": "api.tokenizer",
        "open_embeddings": "embedding.store",
    },
)
