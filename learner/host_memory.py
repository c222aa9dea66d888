"""Keep the memory that one update freed for the next one."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, up to a GiB at a time; whether that is possible.

    glibc gives allocations of 32 MiB and more back to the kernel when they are freed, and takes
    them anew, page by page and each page zeroed. An update on the CPU frees all its activations,
    so that with images a third of its time went there. See mallopt(3). Other C libraries are left
    as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(kept)
