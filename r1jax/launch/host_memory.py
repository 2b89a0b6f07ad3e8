"""Host memory for XLA's CPU backend: keep what was freed.

XLA's CPU client allocates the scratch memory of each program call anew. glibc maps blocks of that size and unmaps them
when they are freed, so every call faults its pages in again: 171 ms against 141 for a gradient of the mini model
(experiments/LOG.md, 2026-11-22).
The threshold for trimming the heap ends at 2 GB; -1 means never.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to serve large blocks from its heap and not to give them back; False where there is none.

    Call it at the start of a program, before jax. The process then keeps its peak of host memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 1 << 28), (_M_ARENA_MAX, 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
