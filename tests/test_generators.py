import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.generators import ResNetGenerator, UNetGenerator


def built(generator, channels=3):
    generator.build((None, None, None, channels))
    return generator


def images(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def all_weights(network, name):
    return np.concatenate([np.ravel(w) for w in network.weights if w.name == name])


@pytest.mark.parametrize(
    "generator, count",
    [
        (lambda: ResNetGenerator(), 11_378_179),
        (lambda: ResNetGenerator(blocks=6), 7_837_699),
        (lambda: UNetGenerator(), 54_409_603),
    ],
    ids=["resnet 9", "resnet 6", "unet 8"],
)
def test_parameter_counts_are_those_of_the_authors(generator, count):
    assert built(generator()).count_params() == count


@pytest.mark.parametrize(
    "generator",
    [lambda: ResNetGenerator(32, blocks=1), lambda: UNetGenerator(16, depth=4)],
    ids=["resnet", "unet"],
)
def test_weights_start_as_an_untruncated_normal_and_biases_as_0(generator):
    keras.utils.set_random_seed(0)
    network = built(generator())
    kernels = all_weights(network, "kernel")
    assert kernels.size > 1e5
    assert abs(kernels.mean()) < 4 * 0.02 / np.sqrt(kernels.size)
    assert kernels.std() == pytest.approx(0.02, rel=0.01)
    # 4.55% of a normal distribution are beyond two standard deviations, where a truncated one ends
    assert np.mean(np.abs(kernels) > 0.04) == pytest.approx(0.0455, rel=0.05)
    assert not all_weights(network, "bias").any()
    assert kernels.size + all_weights(network, "bias").size == network.count_params()


def test_batch_norm_starts_at_a_gain_near_1():
    keras.utils.set_random_seed(0)
    gamma = all_weights(built(ResNetGenerator(32, blocks=9, norm="batch")), "gamma")
    assert gamma.mean() == pytest.approx(1, abs=0.005)
    assert gamma.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("upsampling", ["transpose", "resize"])
def test_resnet_takes_any_multiple_of_4(upsampling):
    generator = built(ResNetGenerator(2, blocks=1, upsampling=upsampling))
    for height, width in ((8, 8), (12, 20), (64, 8), (36, 44)):
        y = generator(images(2, height, width, 3)).numpy()
        assert y.shape == (2, height, width, 3)
        assert -1 <= y.min() < y.max() <= 1


def test_unet_takes_any_multiple_of_its_own():
    generator = built(UNetGenerator(2, depth=3))
    assert generator.multiple == 8
    for height, width in ((8, 8), (24, 40)):
        assert generator(images(1, height, width, 3)).shape == (1, height, width, 3)


@pytest.mark.parametrize(
    "generator",
    [lambda: ResNetGenerator(2, blocks=1, channels=1), lambda: UNetGenerator(2, 2, channels=1)],
    ids=["resnet", "unet"],
)
def test_channels_in_and_out_may_differ(generator):
    generator = built(generator(), channels=4)
    assert generator.input_channels == 4
    assert generator(images(1, 8, 8, 4)).shape == (1, 8, 8, 1)


def test_every_weight_has_a_gradient():
    x = images(1, 64, 64, 3)
    for network in (ResNetGenerator(2, blocks=2, norm="none"), UNetGenerator(1, 6, norm="none")):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(x, training=True) ** 2)
        for gradient in tape.gradient(loss, network.trainable_weights):
            assert tf.reduce_max(tf.abs(gradient)) > 0


def test_unet_drops_out_in_its_middle_and_in_training_only():
    x = images(1, 64, 64, 3)
    generator = UNetGenerator(1, depth=6, dropout=0.5)
    layers = [layer for block in generator.up_blocks for layer in block.layers]
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in layers) == 1
    np.testing.assert_array_equal(generator(x), generator(x, training=False))
    assert np.abs(generator(x, training=True) - generator(x, training=True)).max() > 0


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        (ResNetGenerator, {"filters": -1}, "filters=-1: use 1 or more"),
        (ResNetGenerator, {"channels": 0}, "channels=0: use 1 or more"),
        (ResNetGenerator, {"blocks": -1}, "blocks=-1: use 0 or more residual blocks"),
        (ResNetGenerator, {"norm": "layer"}, "norm='layer' is not known: use 'instance'"),
        (ResNetGenerator, {"upsampling": "x"}, "upsampling='x' is not known: use 'transpose'"),
        (UNetGenerator, {"filters": 0}, "filters=0: use 1 or more"),
        (UNetGenerator, {"depth": 1}, "depth=1: a U-Net needs 2 halvings or more"),
        (UNetGenerator, {"norm": "layer"}, "norm='layer' is not known"),
    ],
)
def test_arguments_that_cannot_work(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize(
    "generator, height, width, message",
    [
        (lambda: ResNetGenerator(1, 1), 62, 64, "height 62 is not a multiple of 4: pad the image"),
        (lambda: ResNetGenerator(1, 1), 64, 62, "width 62 is not a multiple of 4"),
        (lambda: ResNetGenerator(1, 1), 4, 64, "too small to be padded by 1: use larger images"),
        (
            lambda: UNetGenerator(1, 3),
            64,
            60,
            "width 60 is not a multiple of 8.*tf-cyclegan tr",
        ),
    ],
)
def test_sizes_that_cannot_work(generator, height, width, message):
    with pytest.raises(ValueError, match=message):
        built(generator())(images(1, height, width, 3))


@pytest.mark.parametrize("kind", [lambda: ResNetGenerator(1, 1), lambda: UNetGenerator(1, 3)])
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 64, 64, 4), (64, 64, 3)])
def test_images_must_be_a_batch_with_the_channels_last(kind, shape):
    message = r"images is \(.*, but this network takes \(n, height, width, 3\).*channels last"
    with pytest.raises(ValueError, match=message):
        built(kind())(images(*shape))
