"""Unpaired image-to-image translation: CycleGAN (Zhu et al. 2017) in TensorFlow and Keras 3.

Nothing slow is imported here, so that a script's --help does not wait for TensorFlow. What a user
needs: `cyclegan.CycleGAN`, `generators`, `discriminators`, `layers.InstanceNormalization`,
`data.load_dataset`, `interop.load_generator` and `translate.load_translator`.
"""

import os
import sys

if "MPLBACKEND" in os.environ:
    # A notebook leaves it to every program that it starts. Keras and TensorFlow import matplotlib,
    # which fails if this Python has no such backend; nothing here draws on a screen.
    try:
        import matplotlib  # noqa: F401
    except ValueError:
        del os.environ["MPLBACKEND"]
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # the half of it that was imported
