"""Memory of processes that do nothing but ingest."""

from __future__ import annotations

import ctypes
from functools import cache

import pyarrow as pa

__all__ = ["keep_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@cache
def keep_memory() -> None:
    """Let this process keep memory that it will use again, up to a few hundred megabytes.

    By default, glibc and Arrow hand every large array back to the system, and the system clears
    each page anew for the next one: a fifth of the time of ingesting.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)
    except (OSError, AttributeError):
        return  # another C library
    pa.set_memory_pool(pa.system_memory_pool())
