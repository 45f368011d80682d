"""Package exports that are imported when first used (PEP 562).

``import riboray.model`` alone must not load torch, nor ``riboray.alignment`` numba: the tasks that
read data start in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, modules: dict[str, str]) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` that imports a name from the submodule it lives in.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    modules : dict of str to str
        Submodule of each exported name.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return load
