"""Unpaired image-to-image translation: CycleGAN (Zhu et al. 2017) in TensorFlow and Keras 3.

    import tf_cyclegan as cg

Names are loaded when you first use them, so that this import takes no time; it also makes the
classes of this package known to `keras.saving.load_model`.
"""

import importlib
import importlib.abc
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_cyclegan import data as data
    from tf_cyclegan.cyclegan import CycleGAN as CycleGAN
    from tf_cyclegan.data.image_files import read_image as read_image
    from tf_cyclegan.data.image_files import write_image as write_image
    from tf_cyclegan.discriminators import PatchDiscriminator as PatchDiscriminator
    from tf_cyclegan.discriminators import PixelDiscriminator as PixelDiscriminator
    from tf_cyclegan.generators import ResNetGenerator as ResNetGenerator
    from tf_cyclegan.generators import UNetGenerator as UNetGenerator
    from tf_cyclegan.image_pool import ImagePool as ImagePool
    from tf_cyclegan.inference.translator import load_translator as load_translator
    from tf_cyclegan.inference.translator import translator as translator
    from tf_cyclegan.interop import load_generator as load_generator
    from tf_cyclegan.layers import InstanceNormalization as InstanceNormalization
    from tf_cyclegan.layers import ReflectionPadding2D as ReflectionPadding2D
    from tf_cyclegan.schedules import LinearDecay as LinearDecay
    from tf_cyclegan.training import callbacks as callbacks

__version__ = "0.2.0"

# Public name -> the module that defines it.
_NAMES = {
    "CycleGAN": "cyclegan",
    "ImagePool": "image_pool",
    "InstanceNormalization": "layers",
    "LinearDecay": "schedules",
    "PatchDiscriminator": "discriminators",
    "PixelDiscriminator": "discriminators",
    "ReflectionPadding2D": "layers",
    "ResNetGenerator": "generators",
    "UNetGenerator": "generators",
    "load_generator": "interop",
    "load_translator": "inference.translator",
    "read_image": "data.image_files",
    "translator": "inference.translator",
    "write_image": "data.image_files",
}
_MODULES = {"callbacks": "training.callbacks", "data": "data"}
__all__ = [*_NAMES, *_MODULES, "__version__"]


def _register() -> None:
    """Imports the modules whose classes Keras has to know to load a file."""
    for module in ("layers", "schedules", "generators", "discriminators", "cyclegan"):
        importlib.import_module(f"tf_cyclegan.{module}")


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        _register()  # even if a module of this package is the first to import Keras
        return getattr(importlib.import_module(f"tf_cyclegan.{_NAMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"tf_cyclegan.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def _is_being_imported(name: str) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    return name.startswith("tf_cyclegan.") and getattr(spec, "_initializing", False)


class _RegisterAfterKeras(importlib.abc.MetaPathFinder):
    """Registers our classes as soon as Keras has been imported.

    A module of this package that imports Keras itself is left to finish: it registers its own.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                if not any(map(_is_being_imported, list(sys.modules))):
                    _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


# Keras chooses its backend when it is first imported, and every layer here is written for
# TensorFlow's.
if "keras" in sys.modules:
    if (backend := sys.modules["keras"].config.backend()) != "tensorflow":
        raise ImportError(
            f"tf_cyclegan needs Keras' TensorFlow backend, and Keras was imported with {backend}: "
            "set KERAS_BACKEND=tensorflow before you import keras."
        )
    _register()
else:
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        warnings.warn(
            f"KERAS_BACKEND={os.environ['KERAS_BACKEND']} is overridden in this process: "
            "tf_cyclegan needs Keras' TensorFlow backend.",
            stacklevel=2,
        )
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.meta_path.insert(0, _RegisterAfterKeras())
