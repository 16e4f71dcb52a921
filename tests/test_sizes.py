"""Tests that every graph refuses unsupported image sizes, even if it was traced without sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, make

from tf_cyclegan import generators

GENERATORS = ("resnet_gray", "unet")
MULTIPLE = r"Height and width must be multiples of {}: pad the image.*\[30 32\]"


def noise(height, width):
    image = np.random.default_rng(0).uniform(-1, 1, (1, height, width, 3))
    return image.astype(np.float32)


def graph(network, shape=(None, None, None, 3), jit_compile=False):
    """Returns the network as a graph for images of a shape."""
    return tf.function(
        lambda image: network(image, training=False),
        input_signature=[tf.TensorSpec(shape)],
        jit_compile=jit_compile,
    )


@pytest.mark.parametrize("case", GENERATORS)
def test_a_generators_graph_refuses_what_is_no_multiple(case, monkeypatch):
    network = make(CASES[case])
    run = graph(network)
    fake = run(noise(32, 24))
    for height, width in ((30, 32), (0, 32)):
        message = MULTIPLE.format(network.multiple).replace("30", str(height))
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(noise(height, width))
    monkeypatch.setattr(generators, "checked_when_run", lambda images, *_, **__: images)
    np.testing.assert_array_equal(fake, graph(network)(noise(32, 24)))


def test_keras_predict_refuses_it_too_once_it_traces_without_sizes():
    network = make(CASES["resnet_gray"])
    for side in (32, 36):
        assert network.predict(noise(side, side), verbose=0).shape == (1, side, side, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=MULTIPLE.format(4)):
        network.predict(noise(30, 32), verbose=0)


def test_xla_leaves_out_the_assertion_and_refuses_all_the_same():
    run = graph(make(CASES["resnet_gray"]), jit_compile=True)
    assert run(noise(8, 12)).shape == (1, 8, 12, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Input to reshape"):
        run(noise(9, 12))


def test_an_exported_generator_refuses_it(tmp_path):
    network = make(CASES["resnet_gray"])
    archive = keras.export.ExportArchive()
    archive.track(network)
    spec = tf.TensorSpec([None, None, None, 3])
    archive.add_endpoint("serve", lambda image: network(image, training=False), [spec])
    archive.write_out(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.serve(noise(8, 12)), network(noise(8, 12)), atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=MULTIPLE.format(4)):
        loaded.serve(noise(30, 32))


def test_a_discriminators_graph_refuses_what_leaves_no_logit():
    run = graph(make(CASES["patch_1"]))
    assert run(noise(6, 9)).shape == (1, 1, 2, 1)
    for height, width in ((5, 9), (9, 5), (0, 9)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="side must be 6 or more"):
            run(noise(height, width))


@pytest.mark.parametrize("case", [*GENERATORS, "patch_1"])
def test_a_graph_of_known_sizes_gets_no_checks(case):
    def names(shape):
        concrete = graph(make(CASES[case]), shape).get_concrete_function()
        return " ".join(f"{op.name} {op.type}" for op in concrete.graph.get_operations())

    assert "sides_are" in names((None, None, None, 3)) and "Assert" in names((1, 32, None, 3))
    assert "sides_are" not in names((None, 32, 32, 3)) and "Assert" not in names((None, 32, 32, 3))
