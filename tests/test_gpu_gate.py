"""Tests the strict GPU check on software Vulkan, including files that it must refuse."""

import os

import numpy as np
import pytest
from cases import CASES, make
from test_model_file import FIXED, REFUSED, converted

from tf_cyclegan.export.gpu_gate import CHROMIUM, run_on_gpu
from tf_cyclegan.export.model_file import seal
from tf_cyclegan.export.tflite import LiteModel, convert
from tf_cyclegan.generators import ResNetGenerator

pytestmark = pytest.mark.slow

needs_swiftshader = pytest.mark.skipif(
    not CHROMIUM.exists() and "CI" not in os.environ,
    reason="SwiftShader comes with Debian's chromium, which is not installed",
)


def noise(side):
    return np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)


@needs_swiftshader
@pytest.mark.parametrize("mode", ["float32", "float16"])
@pytest.mark.parametrize("case", ["resnet", "resnet_resize", "resnet_separable", "unet"])
def test_the_gpu_takes_our_files_whole(case, mode):
    generator = make(CASES[case])
    content = seal(convert(generator, mode, 16), FIXED)
    fake = run_on_gpu(content, noise(16))
    atol = 1e-4 if mode == "float32" else 2e-2
    np.testing.assert_allclose(fake, generator(noise(16)), rtol=0, atol=atol)


@needs_swiftshader
@pytest.mark.parametrize("layers", [REFUSED["rank 5"][0], REFUSED["upsampling"][0]])
def test_what_it_does_not_take_is_refused_with_the_reason(layers):
    with pytest.raises(ValueError, match="does not support the file: .*must be less than 5"):
        run_on_gpu(converted(*layers), noise(16))


@needs_swiftshader
def test_any_size_is_refused():
    content = seal(convert(make(CASES["resnet"]), "float32", None), FIXED | {"resizable": True})
    with pytest.raises(ValueError, match="does not support the file"):
        run_on_gpu(content, noise(16))


def test_without_swiftshader_it_says_what_to_install(tmp_path):
    with pytest.raises(ValueError, match="install Debian's chromium"):
        run_on_gpu(b"", noise(16), tmp_path)


@needs_swiftshader
def test_the_full_generator_is_one_piece_on_cpu_and_gpu():
    generator = ResNetGenerator(filters=64, blocks=9)
    generator.build((None, None, None, 3))
    content = convert(generator, "float32", 64)  # 256 pixels take a minute in software
    content = seal(content, FIXED | {"height": 64, "width": 64})
    run = LiteModel(content)
    expected = run(noise(64))
    assert run.partitions() == 1
    # One delegate covers the network from input to output, without other operations.
    nodes = run.interpreter._get_ops_details()
    delegate = next(node for node in nodes if node["op_name"] == "DELEGATE")
    assert run.input in delegate["inputs"] and list(delegate["outputs"]) == [run.output]
    np.testing.assert_allclose(run_on_gpu(content, noise(64)), expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(generator(noise(64)), expected, rtol=0, atol=2e-4)
