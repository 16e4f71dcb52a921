"""Settings of the C library's memory allocator for training on a CPU."""

import ctypes
import os

import tensorflow as tf

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory in one heap; does nothing on a GPU or in other C libraries.

    Training steps allocate the same large tensors again and again. By default, glibc returns them
    to the system each time, which has to clear every page anew: a tenth of the time of a small step
    on a CPU. It also has one heap per thread, and does not share free memory between them
    (docs/design/performance_notes.md).

    Call it before TensorFlow starts threads, which would get separate heaps.
    """
    if os.name != "posix" or tf.config.list_physical_devices("GPU"):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_MAX, 0)  # no mmap, whose memory is returned when freed
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, 1 << 26)
        mallopt(M_ARENA_MAX, 1)
