"""Tests that Winograd's convolutions equal TensorFlow's, and where layers use them."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import UNTUNED

from tf_cyclegan import cpu
from tf_cyclegan.cpu.winograd import convolution_3x3
from tf_cyclegan.layers import Conv2D, convolution
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy


def plain(inputs, kernel):
    return tf.nn.conv2d(inputs, kernel, 1, "VALID")


def numbers(convolve, inputs, kernel, weight):
    """Returns the result, and the first and second gradients of functions of it."""
    with tf.GradientTape() as outer:
        outer.watch([inputs, kernel])
        with tf.GradientTape() as inner:
            inner.watch([inputs, kernel])
            y = convolve(inputs, kernel)
            loss = tf.reduce_sum(weight * y * y)
        first = inner.gradient(loss, [inputs, kernel])
        penalty = tf.reduce_sum(first[0] ** 2) + tf.reduce_sum(first[1] ** 2)
    return [y, *first, *outer.gradient(penalty, [inputs, kernel])]


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("n, height, width, c, k", [(1, 6, 6, 1, 1), (2, 14, 10, 3, 5)])
def test_it_is_the_convolution_with_both_orders_of_gradients(how, n, height, width, c, k):
    rng = np.random.default_rng(0)
    shapes = (n, height, width, c), (3, 3, c, k), (n, height - 2, width - 2, k)
    arguments = [tf.constant(rng.normal(size=shape)) for shape in shapes]

    def own(*arguments):
        return numbers(convolution_3x3, *arguments)

    run = own if how == "eager" else tf.function(own, jit_compile=how == "xla")
    for found, expected in zip(run(*arguments), numbers(plain, *arguments), strict=True):
        assert found.shape == expected.shape and np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_its_rounding_is_small():
    rng = np.random.default_rng(0)
    shapes = (1, 18, 18, 128), (3, 3, 128, 128), (1, 16, 16, 128)
    exact = [rng.normal(size=shape) for shape in shapes]
    short = [tf.constant(x, tf.float32) for x in exact]
    expected = numbers(plain, *(tf.constant(np.float32(x), tf.float64) for x in exact))[:3]
    for found, value in zip(numbers(convolution_3x3, *short)[:3], expected, strict=True):
        assert np.linalg.norm(found.numpy() - value.numpy()) < 1e-5 * np.linalg.norm(value)


def operations(layer, shape, **options):
    call = tf.function(lambda x: layer(x, **options))
    graph = call.get_concrete_function(tf.TensorSpec(shape)).graph.as_graph_def()
    return {
        node.op
        for part in (graph.node, *(function.node_def for function in graph.library.function))
        for node in part
    }


@pytest.mark.parametrize(
    "shape, changes, training, used",
    [
        ((1, 18, 6, 128), {}, True, True),
        ((1, 18, 6, 128), {}, False, False),
        ((None, 18, 6, 128), {}, True, False),
        ((1, None, None, 128), {}, True, False),
        ((1, 18, 8, 128), {}, True, False),
        ((1, 18, 6, 127), {}, True, False),
        ((1, 18, 6, 128), {"filters": 127}, True, False),
        ((1, 18, 6, 128), {"strides": 2}, True, False),
        ((1, 18, 6, 128), {"size": 5}, True, False),
        ((1, 18, 6, 128), {"dtype": "mixed_bfloat16"}, True, False),
    ],
)
def test_a_layer_trains_by_it_where_it_is_faster(shape, changes, training, used):
    layer = convolution(**{"filters": 128, "size": 3} | changes)
    layer.build((None, None, None, shape[3]))
    kinds = operations(layer, shape, training=training)
    assert ("Conv2D" not in kinds) == used
    assert any("MatMul" in kind for kind in kinds) == used


def test_gpus_keep_their_own_convolutions(monkeypatch):
    layer = convolution(128, 3)
    layer.build((None, None, None, 128))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [f"a {kind}"])
    assert "Conv2D" in operations(layer, (1, 18, 18, 128), training=True)


def test_a_layer_adds_its_bias():
    layer = convolution(128, 3, norm="instance")
    layer.build((None, None, None, 128))
    layer.bias.assign(np.arange(128.0))
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 6, 6, 128)), tf.float32)
    np.testing.assert_allclose(layer(x, training=True), layer(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"padding": "same"}, {"dilation_rate": 2}, {"groups": 2}, {"activation": "relu"}],
    ids=str,
)
def test_every_argument_of_keras_layer_acts_in_training_too(changes):
    layer = Conv2D(128, 3, **changes)
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 10, 6, 256)), tf.float32)
    expected = layer(x)
    found = layer(x, training=True)
    assert found.shape == expected.shape and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_files_of_weights_know_the_layer_by_the_name_of_keras_layer():
    assert Conv2D.__name__ == keras.layers.Conv2D.__name__


@pytest.mark.parametrize(
    "strategy, changes",
    [("one", {}), pytest.param("mirrored", {"recompute": True}, marks=pytest.mark.slow)],
)
def test_a_step_is_the_same_without_all_that_is_faster_on_a_cpu(monkeypatch, strategy, changes):
    """Compares one step of SGD, because Adam and further steps amplify rounding errors.

    The images are small, because rounding flips some ReLUs and signs in L1 losses in larger ones.
    """
    monkeypatch.setattr("tf_cyclegan.cpu.fused_norm.kernels_are_faster", lambda x: cpu.enabled())
    config = Config(
        crop_size=16, filters=32, blocks=1, d_filters=4, d_layers=1, pool_size=0, batch_size=2
    )
    config = dataclasses.replace(config, **changes)
    rng = np.random.default_rng(0)
    pair = [rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32) for _ in "ab"]
    results = []
    for used in (True, False):
        monkeypatch.setattr("tf_cyclegan.cpu.enabled", lambda used=used: used)
        scope = make_strategy(strategy)
        model = make_cyclegan(config, scope, (16, 16, 3), (16, 16, 3), steps_per_epoch=10)
        with scope.scope():
            model.compile(keras.optimizers.SGD(1e-2), keras.optimizers.SGD(1e-2))
        data = tf.data.Dataset.from_tensors(tuple(pair)).with_options(UNTUNED)
        before = model.a2b.get_weights()
        history = model.fit(scope.experimental_distribute_dataset(data), verbose=0)
        moved = [w - b for w, b in zip(model.a2b.get_weights(), before, strict=True)]
        results.append((history.history, moved))
    (losses, moved), (expected, expected_moved) = results
    for name, values in expected.items():
        assert losses[name] == pytest.approx(values, rel=1e-5), name
    for found, value in zip(moved, expected_moved, strict=True):
        # Biases before instance norm only change by rounding errors.
        if np.abs(value).max() > 1e-6:
            np.testing.assert_allclose(found, value, rtol=0, atol=2e-4 * np.abs(value).max())
