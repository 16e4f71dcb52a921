"""Writes the results of tfa.layers.InstanceNormalization. Run by test_addons.py.

.venv-addons/bin/python tests/addons/make_reference.py FOLDER
"""

import inspect
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Name: arguments of the layer, then the shape, mean and standard deviation of its input.
CASES = {
    "default": ({}, (2, 7, 5, 3), 0, 1),
    "epsilon": ({"epsilon": 1e-5}, (3, 7, 5, 3), 0, 0.01),
    "epsilon_default": ({}, (3, 7, 5, 3), 0, 0.01),
    "no_center": ({"center": False}, (2, 7, 5, 3), 0, 1),
    "no_scale": ({"scale": False}, (2, 7, 5, 3), 0, 1),
    "no_affine": ({"center": False, "scale": False}, (2, 7, 5, 3), 0, 1),
    "one_image": ({}, (1, 33, 31, 8), 0, 1),
    "axis_1": ({"axis": 1}, (2, 4, 5, 7), 0, 1),
    "axis_2": ({"axis": 2}, (2, 5, 4, 7), 0, 1),
    "rank_3": ({}, (2, 9, 3), 0, 1),
    "rank_3_axis_1": ({"axis": 1}, (2, 3, 9), 0, 1),
    "rank_5": ({}, (2, 3, 5, 4, 3), 0, 1),
    "groups": ({"groups": 7}, (2, 7, 5, 3), 0, 1),  # ignored
    "initializers": (
        {
            "beta_initializer": "random_normal",
            "gamma_initializer": "he_uniform",
            "beta_regularizer": {"class_name": "L2", "config": {"l2": 0.5}},
            "gamma_regularizer": {"class_name": "L1", "config": {"l1": 0.25}},
            "beta_constraint": "max_norm",
            "gamma_constraint": "non_neg",
        },
        (2, 7, 5, 3),
        0,
        1,
    ),
    "constant": ({}, (2, 7, 5, 3), 3, 0),
    "far_from_zero": ({}, (2, 16, 15, 3), 1000, 0.1),
    "large_map": ({}, (1, 200, 200, 2), 3, 1),  # its sum overflows in float16
}


def build_model(normalization):
    """Builds the model in Keras 2 or 3, with two norm layers whose weights have equal shapes."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = normalization(epsilon=1e-3)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    x = normalization(epsilon=1e-3)(x)
    x = keras.layers.Conv2D(2, 1)(x)
    return keras.Model(inputs, x)


def evaluate(layer, inputs, cotangent, weights):
    """Returns the output and the gradients of sum(output * cotangent) for input and weights."""
    inputs = tf.constant(inputs)
    layer.build(inputs.shape)
    layer.set_weights(weights)
    variables = layer.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    cotangent = tf.cast(cotangent, outputs.dtype)
    gradients = tape.gradient(outputs, [inputs, *variables], output_gradients=cotangent)
    names = [v.name.removesuffix(":0") for v in variables]  # Keras 2 names it "gamma:0"
    results = dict(zip(["outputs", "inputs", *names], [outputs, *gradients], strict=True))
    return {name: tf.cast(value, inputs.dtype).numpy() for name, value in results.items()}


def write_case(folder, normalization, case, dtype):
    arguments, shape, mean, deviation = CASES[case]
    layer = normalization(**arguments, dtype=dtype)
    layer.build(shape)
    rng = np.random.default_rng(0)
    inputs = rng.normal(mean, deviation, shape).astype(dtype)
    cotangent = rng.normal(size=shape).astype(dtype)
    weights = [rng.normal(1, 0.5, w.shape).astype(dtype) for w in layer.weights]
    results = evaluate(layer, inputs, cotangent, weights)
    folder = folder / f"{case}_{dtype}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(layer.get_config()))
    np.savez(folder / "given.npz", inputs=inputs, cotangent=cotangent)
    np.savez(folder / "weights.npz", *weights)
    np.savez(folder / "results.npz", **results)


def write_model(folder, normalization):
    model = build_model(normalization)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 1, w.shape) for w in model.get_weights()])
    inputs = rng.uniform(-1, 1, (2, 13, 10, 3)).astype("float32")
    np.savez(folder / "model.npz", inputs=inputs, outputs=model(inputs).numpy())
    np.savez(folder / "weights.npz", *model.get_weights())
    model.save_weights(folder / "weights.h5")  # the Keras 2 format
    model.save_weights(folder / "new.weights.h5")  # the format that Keras 3 kept
    model.save_weights(folder / "checkpoint")  # the TensorFlow format, with several files
    model.save(folder / "whole.h5")
    model.save(folder / "whole.keras")


def main(folder):
    import tensorflow_addons as tfa  # not at the top: test_addons.py imports CASES without it

    normalization = tfa.layers.InstanceNormalization
    write_model(folder, normalization)  # first, because layer names contain a running number
    for case in CASES:
        for dtype in "float32", "float64":
            write_case(folder, normalization, case, dtype)
    # InstanceNormalization takes **kwargs and passes them to its base class.
    parameters = inspect.signature(tfa.layers.GroupNormalization).parameters.values()
    signature = [[p.name, p.default] for p in parameters if p.kind != p.VAR_KEYWORD]
    (folder / "signature.json").write_text(json.dumps(signature))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
