"""Makes training on a CPU faster: Winograd convolutions, norm kernels, and one memory heap.

`enabled` decides for the first two, which layers use in training only, so that exported models
compute the same as the network. The command line sets up the heap, with `keep_freed_memory`.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_switched_on = True


def enabled() -> bool:
    """Returns whether layers may use the operations that make training on a CPU faster."""
    return _switched_on and not tf.config.list_logical_devices("GPU")


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Switches them off inside a `with` block, for a graph that will run on another device."""
    global _switched_on
    before, _switched_on = _switched_on, False
    try:
        yield
    finally:
        _switched_on = before
