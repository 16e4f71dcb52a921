"""Loads SqueezeNet 1.1 (Iandola et al. 2016, arXiv:1602.07360), a feature network of 3 MB."""

import h5py
import keras
from keras import layers

FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192)}
FIRES |= {8: (64, 256), 9: (64, 256)}
POOLED_AFTER = (3, 5)
NHWC = {"data_format": "channels_last", "dtype": "float32"}  # regardless of keras.json
SIDE = 227  # of its training images; on smaller ones, the borders would dominate the features


def load_squeezenet(file: h5py.File) -> keras.Model:
    """Loads the network up to its last fire module from an .h5 file that holds only weights.

    Args:
        file: weights in the layout of Keras 1 and 2, such as the published ImageNet weights of
            keras-squeezenet (`squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5`).

    Returns:
        A model from `[n, 227, 227, 3]`, with Caffe preprocessing, to `[n, 13, 13, 512]`.

    Raises:
        KeyError, ValueError: the file holds other layers, or weights with other shapes.
    """
    image = keras.Input((SIDE, SIDE, 3), dtype="float32")
    x = layers.Conv2D(64, 3, strides=2, activation="relu", name="conv1", **NHWC)(image)
    x = layers.MaxPooling2D(3, strides=2, **NHWC)(x)
    for number, (squeeze, expand) in FIRES.items():
        x = _convolution(squeeze, 1, number, "squeeze1x1")(x)
        wide = [_convolution(expand, size, number, f"expand{size}x{size}")(x) for size in (1, 3)]
        x = layers.Concatenate(axis=-1, dtype="float32")(wide)
        if number in POOLED_AFTER:
            x = layers.MaxPooling2D(3, strides=2, **NHWC)(x)
    network = keras.Model(image, x)
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            group = file[layer.name.replace("_", "/", 1)]
            layer.set_weights([group[name][()] for name in group.attrs["weight_names"]])
    return network


def _convolution(filters, size, fire, name):
    return layers.Conv2D(
        filters, size, padding="same", activation="relu", name=f"fire{fire}_{name}", **NHWC
    )
