"""Builds training data: `images`, `unpaired`, `paired` and `load` return `tf.data.Dataset`s.

The modules that read and write image files work without TensorFlow, which is imported when you
first use one of these functions.
"""

import importlib
from typing import Any

__all__ = ["images", "load", "paired", "unpaired"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("tf_cyclegan.data.datasets"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
