"""What a tracker draws from a record, and how it names it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

__all__ = ["Record", "flatten", "labels", "measurements"]

Record = dict[str, Any]

#: Fields that place a record rather than measure something.
_PLACE = ("kind", "step")
#: Fields that every record has and that one curve is enough for.
_ONCE = ("progress", "elapsed_s")


def measurements(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, named ``kind/field``.

    Parameters
    ----------
    record : mapping
        With the fields ``kind`` and ``step``, and numbers, booleans or strings in any others.

    Returns
    -------
    dict of str to float
        Booleans count as 0 and 1. NaN says that there was nothing to measure: it is left out, as
        a missing field is. Infinity is kept. ``progress`` and ``elapsed_s`` are taken from
        training alone.
    """
    kind = record["kind"]
    skipped = _PLACE if kind == "train" else (*_PLACE, *_ONCE)
    return {
        f"{kind}/{name}": float(value)
        for name, value in record.items()
        if name not in skipped and isinstance(value, Real) and not math.isnan(value)
    }


def labels(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the strings of a record, named ``kind/field``: which objectives were trained."""
    kind = record["kind"]
    return {
        f"{kind}/{name}": value
        for name, value in record.items()
        if name not in _PLACE and isinstance(value, str)
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str | None]:
    """Return a nested configuration with one level, its names joined by dots.

    Returns
    -------
    dict of str to bool, float, str or None
        Values that are neither numbers nor strings as JSON.
    """
    flat: dict[str, bool | float | str | None] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = json.dumps(value, default=str, ensure_ascii=False)
    return flat
