"""What a process does with memory that it frees."""

import ctypes
from typing import Final

KEPT_BYTES: Final = 1 << 29
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have malloc keep what is freed, up to half a gibibyte, for the next that asks.

    An encoder's activations and the scores of a batch are tens of megabytes, which malloc would give back to the system after every
    window and cycle, and the system clear again, by pages, for the next: a fifteenth of a window's encoding, a third of a cycle.
    Where malloc is not glibc's, it is left as it is.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
