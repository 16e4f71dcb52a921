import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.layers import (
    CropTopLeft,
    InstanceNormalization,
    ReflectionPadding2D,
    ReLU,
    ResidualBlock,
    check_positive,
    convolution,
    normalization,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def instance_norm(x, epsilon=1e-5, axes=(1, 2)):
    """Computes instance norm in NumPy, in float64."""
    x = np.asarray(x, np.float64)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_instance_norm_is_the_formula(epsilon):
    x = noise(2, 5, 7, 3) * [0.01, 1, 30] + [0, -2, 5]
    gamma, beta = noise(3, seed=1), noise(3, seed=2)
    layer = InstanceNormalization(epsilon=epsilon, dtype="float64")
    layer.build(x.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    np.testing.assert_allclose(layer(x), instance_norm(x, epsilon) * gamma + beta, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_instance_norm_of_a_part_takes_the_moments_of_the_whole(dtype):
    x = tf.cast(noise(1, 6, 7, 3) * 4 + 9, "float16" if "16" in dtype else dtype)
    layer = InstanceNormalization(dtype=dtype)
    layer.build(x.shape)
    layer.gamma.assign([0.5, 1, 2])
    layer.beta.assign([3, 2, 1])
    mean, variance = tf.nn.moments(tf.cast(x, "float32"), (0, 1, 2))
    part = layer.normalize(x[:, 2:4, :5], mean, variance)
    assert part.dtype == x.dtype
    np.testing.assert_allclose(part, layer(x)[:, 2:4, :5], rtol=2e-3 if "16" in dtype else 1e-5)


def test_instance_norm_without_affine_part_has_no_weights():
    x = noise(2, 4, 4, 3)
    layer = InstanceNormalization(center=False, scale=False, dtype="float64")
    np.testing.assert_allclose(layer(x), instance_norm(x), atol=1e-12)
    assert layer.weights == []


@pytest.mark.parametrize("shape, axis, axes", [((2, 3, 5, 4), 1, (2, 3)), ((2, 9, 3), -1, (1,))])
def test_instance_norm_over_other_axes_and_ranks(shape, axis, axes):
    x = noise(*shape)
    layer = InstanceNormalization(axis=axis, dtype="float64")
    np.testing.assert_allclose(layer(x), instance_norm(x, axes=axes), atol=1e-12)
    assert layer.gamma.shape == (3,)


def test_instance_norm_takes_the_arguments_of_tensorflow_addons():
    config = {"name": "x", "groups": 3, "axis": -1, "epsilon": 1e-3, "center": True, "scale": False}
    layer = InstanceNormalization.from_config(config | {"beta_initializer": "ones"})
    np.testing.assert_allclose(layer(np.zeros((1, 2, 2, 3), np.float32)), np.ones((1, 2, 2, 3)))
    assert [weight.name for weight in layer.weights] == ["beta"]


def test_instance_norm_holds_far_from_zero():
    """Computing this variance as E[x^2] - E[x]^2 in float32 would lose all its digits."""
    x = (1e4 + noise(1, 8, 8, 2)).astype(np.float32)
    y = InstanceNormalization()(x)
    np.testing.assert_allclose(y, instance_norm(x), atol=5e-3)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_instance_norm_takes_half_floats_statistics_in_float32(scale):
    """In float16, the square of 1e-3 loses its precision and that of 1e4 overflows."""
    x = (scale * noise(1, 16, 16, 2)).astype(np.float16)
    y = InstanceNormalization(dtype="mixed_float16")(x)
    assert y.dtype == "float16"
    np.testing.assert_allclose(y, instance_norm(x), atol=4e-3)


@pytest.mark.parametrize(
    "shape, message", [((None, 3), "rank 3 or more"), ((None, 4, 4, None), "channel count")]
)
def test_instance_norm_errors(shape, message):
    with pytest.raises(ValueError, match=message):
        InstanceNormalization().build(shape)


def test_instance_norm_refuses_the_batch_axis():
    with pytest.raises(ValueError, match="axis 0 is the batch"):
        InstanceNormalization(axis=0)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_reflection_padding_is_that_of_numpy(padding):
    x = noise(2, 4, 5, 3).astype(np.float32)
    widths = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    layer = ReflectionPadding2D(padding)
    np.testing.assert_array_equal(layer(x), np.pad(x, widths, mode="reflect"))
    assert layer.compute_output_shape((None, 4, None, 3)) == (None, 4 + 2 * padding, None, 3)


def with_gradients(layer, x, weight, training):
    """Returns the layer's outputs, and the first and second gradients of a function of them."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(weight * tf.sin(y))
        first = inner.gradient(loss, x)
        penalty = tf.reduce_sum(tf.square(first))
    return y, first, outer.gradient(penalty, x)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_reflection_padding_trains_as_it_translates(padding):
    """In training, the layer gathers the pixels instead: the results must be the same."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 4, 5, 3)))
    weight = tf.constant(rng.normal(size=(2, 4 + 2 * padding, 5 + 2 * padding, 3)))
    layer = ReflectionPadding2D(padding, dtype="float64")
    results = (with_gradients(layer, x, weight, training) for training in (True, False))
    for found, expected in zip(*results, strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("height, width", [(3, 8), (8, 3)])
def test_reflection_padding_needs_more_than_it_mirrors(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width} is too small .* by 3: use larger"):
        ReflectionPadding2D(3)(np.zeros((1, height, width, 1), np.float32))


def test_crop_drops_the_first_row_and_column():
    x = noise(2, 5, 4, 3).astype(np.float32)
    np.testing.assert_array_equal(CropTopLeft()(x), x[:, 1:, 1:])
    assert CropTopLeft().compute_output_shape((None, 5, None, 3)) == (None, 4, None, 3)


def test_residual_block_adds_to_its_input_and_ends_without_a_relu():
    x = noise(1, 5, 5, 2).astype(np.float32)
    block = ResidualBlock(2, norm="none")
    difference = block(x) - x
    assert tf.reduce_min(difference) < 0 < tf.reduce_max(difference)
    for weight in block.weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(block(x), x)


def test_dropout_of_a_residual_block_acts_in_training_only():
    x = noise(1, 5, 5, 2).astype(np.float32)
    block = ResidualBlock(2, dropout=0.5)
    np.testing.assert_array_equal(block(x, training=False), block(x, training=False))
    assert np.abs(block(x, training=True) - block(x, training=True)).max() > 0.1


@pytest.mark.parametrize("norm, use_bias", [("instance", True), ("batch", False), ("none", False)])
def test_a_bias_stands_before_instance_norm_only(norm, use_bias):
    assert convolution(2, 3, norm=norm).use_bias is use_bias
    assert convolution(2, 3, norm=norm, use_bias=True).use_bias


def test_batch_norm_is_as_in_pytorch():
    (norm,) = normalization("batch")
    x = noise(4, 3, 3, 2)
    keras.utils.set_random_seed(0)
    norm.build(x.shape)
    norm.gamma.assign([1, 1])
    np.testing.assert_allclose(
        norm(x, training=True), instance_norm(x, axes=(0, 1, 2)), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(norm.moving_mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-5)


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm='group' is not known: use 'instance', 'batch'"):
        normalization("group")


def test_check_positive_names_the_argument():
    check_positive(a=1, b=2)
    with pytest.raises(ValueError, match="b=0: use 1 or more"):
        check_positive(a=1, b=0)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_instance_norm_trains_with_the_gradients_of_its_formula(dtype, how):
    """Compares custom gradients, used in training, with TensorFlow's, used in inference.

    Both orders are compared. In float32, they use batch norm's kernels, which float64 lacks.
    """
    rng = np.random.default_rng(0)
    numbers = [rng.normal(size=(2, 32, 16, 128)) for _ in range(2)]
    affine = rng.uniform(0.5, 2.0, 128), rng.uniform(-1.0, 1.0, 128)

    def results(training, dtype):
        x, weight = (tf.constant(value, dtype) for value in numbers)
        layer = InstanceNormalization(epsilon=0.1, dtype=dtype)
        layer.build(x.shape)
        layer.set_weights(affine)
        return lambda: with_gradients(layer, x, weight, training)

    own, expected = results(True, dtype), results(False, "float64")()
    if how != "eager":
        own = tf.function(own, jit_compile=how == "xla")
    for found, value in zip(own(), expected, strict=True):
        assert np.abs(value).max() > 0.1
        error = 1e-12 if dtype == "float64" else 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(found, value, rtol=0, atol=error)


@pytest.mark.parametrize(
    "layer, shape, plain, used",
    [
        (InstanceNormalization, (2, 32, 16, 128), "Mean", True),
        (InstanceNormalization, (3, 32, 16, 128), "Mean", False),
        (InstanceNormalization, (2, 32, 15, 128), "Mean", False),
        (InstanceNormalization, (None, 32, 16, 128), "Mean", False),
    ],
)
def test_training_on_a_cpu_alone_is_by_other_operations(monkeypatch, layer, shape, plain, used):
    layer = layer()
    layer.build(shape)

    def is_plain(training):
        call = tf.function(lambda x: layer(x, training=training))
        graph = call.get_concrete_function(tf.TensorSpec(shape)).graph
        return plain in {operation.type for operation in graph.get_operations()}

    assert is_plain(training=False) and is_plain(training=True) != used
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [f"a {kind}"])
    assert is_plain(training=True)


@pytest.mark.parametrize("shape", [(1, 16, 16, 2), (1, 32, 32, 128)], ids=["plain", "kernels"])
def test_instance_norm_of_half_floats_trains_with_the_gradient_of_its_formula(shape):
    rng = np.random.default_rng(0)
    x = tf.constant(3 + 2 * rng.normal(size=shape), tf.bfloat16)
    weight = tf.constant(rng.normal(size=x.shape))

    def gradient(x, dtype):
        layer = InstanceNormalization(center=False, scale=False, dtype=dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(weight * tf.cast(y, tf.float64))
        assert y.dtype == x.dtype
        return tape.gradient(loss, x)

    own, expected = gradient(x, "mixed_bfloat16"), gradient(tf.cast(x, tf.float64), "float64")
    assert own.dtype == "bfloat16"
    error = np.abs(np.asarray(own, np.float64) - expected).max()
    assert error < 0.01 * np.abs(expected).max()


def test_relu_trains_with_the_gradient_of_keras_own():
    x = tf.constant([-1.0, -0.0, 0.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ReLU()(x, training=True)
        loss = tf.reduce_sum(y * [5.0, 6.0, 7.0, 8.0])
    np.testing.assert_array_equal(y, [0, 0, 0, 2])
    np.testing.assert_array_equal(tape.gradient(loss, x), [0, 0, 0, 8])
