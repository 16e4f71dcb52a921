"""Runs exported files on an emulated 64-bit Arm processor, in every mode."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, make

from tf_cyclegan.data.image_files import to_float
from tf_cyclegan.data.synthetic import landscape

sys.path.append(str(Path(__file__).resolve().parent / "arm"))

import compare  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (compare.MACHINE / "ready").exists() and "CI" not in os.environ,
        reason="no emulated Arm machine: install qemu-user-static, and run make arm",
    ),
]

# Minimum PSNR between x86 and Arm in dB. Kernels of the integer modes round activations at other
# places: single values differ by a step of the quantization, and so do all values after them.
MINIMUM = {
    "float32": 110,
    "float16": 110,
    "dynamic": 40,
    "int8": 30,
    "int16x8": 60,
    "int8_convolutions": 30,
}


@pytest.mark.parametrize("name", ["resnet_resize", "resnet_separable"])
def test_arm_computes_the_images_of_x86(name):
    network = make(CASES[name])
    photos = [to_float(landscape(i, "summer", 32, 32))[np.newaxis] for i in range(6)]
    found = compare.compare(network, photos[:2], photos[2:])
    assert set(found) == set(MINIMUM)
    for mode, pairs in found.items():
        for processor in compare.PROCESSORS:
            assert pairs[f"{processor}, x86"]["psnr"] > MINIMUM[mode], (mode, processor)
            # Neither processor is systematically worse.
            loss = pairs["x86, Keras"]["psnr"] - pairs[f"{processor}, Keras"]["psnr"]
            assert loss < 2 or mode in ("float32", "float16"), (mode, processor)


def test_a_crash_on_arm_is_an_error(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"no model")
    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="the emulated machine failed"):
        compare.run_on_arm(str(tmp_path), compare.PROCESSORS[0])
