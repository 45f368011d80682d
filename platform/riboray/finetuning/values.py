"""Single labels as they are written: numbers, names, nothing."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["class_name", "is_missing", "number_of"]


def is_missing(label: Any) -> bool:
    """Tell whether a label, or one of several, says nothing."""
    if isinstance(label, list):
        return all(is_missing(item) for item in label)
    if isinstance(label, str):
        return label.strip().lower() in ("", "nan", "na", "n/a", "null")
    return label is None or (isinstance(label, float) and math.isnan(label))


def number_of(item: Any) -> float | None:
    """Return a label as a number, or None if it is none."""
    if isinstance(item, bool):
        return float(item)
    try:
        return float(item)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
    except (TypeError, ValueError):
        return None


def class_name(item: Any) -> str:
    """Write a class as text: 1, 1.0 and '1' are one."""
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item).lower() if isinstance(item, bool) else str(item)
