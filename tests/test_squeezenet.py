"""Tests SqueezeNet, loaded from a file of weights."""

import h5py
import numpy as np
import pytest

from tf_cyclegan.evaluation.features import load_features
from tf_cyclegan.evaluation.squeezenet import FIRES, SIDE, load_squeezenet


def write(path, without=()):
    """Writes random weights in the file layout of Keras 1."""
    rng = np.random.default_rng(0)
    layers = {"conv1": (3, 3, 3, 64)}
    channels = 64
    for number, (squeeze, expand) in FIRES.items():
        layers[f"fire{number}/squeeze1x1"] = (1, 1, channels, squeeze)
        layers[f"fire{number}/expand1x1"] = (1, 1, squeeze, expand)
        layers[f"fire{number}/expand3x3"] = (3, 3, squeeze, expand)
        channels = 2 * expand
    with h5py.File(path, "w") as file:
        for name, shape in layers.items():
            if name in without:
                continue
            group = file.create_group(name)
            group["w"] = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32)
            group["b"] = rng.normal(0, 0.1, shape[3]).astype(np.float32)
            group.attrs["weight_names"] = [b"w", b"b"]
    return path


def relu_convolution(x, group, padding, stride=1):
    """Computes a convolution and ReLU of `[h, w, c]` in NumPy."""
    kernel, bias = group["w"][()], group["b"][()]
    size = kernel.shape[0]
    x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))
    y = np.tensordot(windows[::stride, ::stride], kernel, ([3, 4, 2], [0, 1, 2]))
    return np.maximum(y + bias, 0)


def pooled(x):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))
    return windows[::2, ::2].max((3, 4))


@pytest.mark.parametrize("settings", [[], ["other_keras_json"]], ids=["keras", "keras_json"])
def test_features_by_hand(tmp_path, request, settings):
    for fixture in settings:
        request.getfixturevalue(fixture)
    path = write(tmp_path / "weights.h5")
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    features = load_features(str(path))([image])
    with h5py.File(path) as file:
        x = image[:, :, ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
        x = pooled(relu_convolution(x, file["conv1"], 0, 2))
        for number in FIRES:
            fire = file[f"fire{number}"]
            x = relu_convolution(x, fire["squeeze1x1"], 0)
            wide = [relu_convolution(x, fire[f"expand{n}x{n}"], n // 2) for n in (1, 3)]
            x = np.concatenate(wide, axis=-1)
            x = pooled(x) if number in (3, 5) else x
    assert features.shape == (1, 512)
    np.testing.assert_allclose(features[0], x.mean((0, 1)), rtol=1e-3, atol=1e-3)


def test_images_of_other_sizes_are_resized(tmp_path):
    features = load_features(str(write(tmp_path / "weights.h5")))
    images = [np.full((30, 20, 3), 200, np.uint8), np.full((SIDE, SIDE, 1), 200, np.uint8)]
    first, second = features(images)
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-3)
    assert features.resizing == "Pillow's antialiased bicubic to 227 x 227"


def test_a_layer_that_is_not_there(tmp_path):
    path = write(tmp_path / "weights.h5", without=["fire4/squeeze1x1"])
    with h5py.File(path) as file, pytest.raises(KeyError):
        load_squeezenet(file)
    with pytest.raises(ValueError, match="weights.h5 cannot be loaded"):
        load_features(str(path))
