"""riboray: an RNA language-model platform on Ray."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
