"""Unpaired image-to-image translation: CycleGAN (Zhu et al. 2017) in TensorFlow and Keras 3.

No module is imported here, so that a script's --help does not wait for TensorFlow. What you need:
`cyclegan.CycleGAN`, `generators`, `discriminators`, `layers.InstanceNormalization`,
`data.load_dataset`, `interop.load_generator` and `translate.load_translator`.
"""

import os
import sys
import warnings

# Keras chooses its backend when it is first imported, and every layer here is written for
# TensorFlow's.
if "keras" in sys.modules:
    if (backend := sys.modules["keras"].config.backend()) != "tensorflow":
        raise ImportError(
            f"tf_cyclegan needs Keras' TensorFlow backend, and Keras was imported with {backend}: "
            "set KERAS_BACKEND=tensorflow before you import keras."
        )
else:
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        warnings.warn(
            f"KERAS_BACKEND={os.environ['KERAS_BACKEND']} is overridden in this process: "
            "tf_cyclegan needs Keras' TensorFlow backend.",
            stacklevel=2,
        )
    os.environ["KERAS_BACKEND"] = "tensorflow"
