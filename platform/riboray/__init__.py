"""riboray: an RNA language-model platform on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from riboray._lazy import lazy_exports

if TYPE_CHECKING:
    from riboray.embedding.store import open_embeddings

__all__ = ["__version__", "open_embeddings"]

__version__ = "0.1.0"

__getattr__ = lazy_exports(__name__, {"open_embeddings": "embedding.store"})
