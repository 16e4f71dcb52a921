"""Compares InstanceNormalization with the layer of the same name in TensorFlow Addons.

TensorFlow Addons cannot be imported together with Keras 3. Therefore make_reference.py runs once in
a separate environment (requirements.txt; `make addons`) and writes files to compare with.
"""

import inspect
import json
import os
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from make_reference import CASES, build_model, evaluate

from tf_cyclegan.layers import InstanceNormalization

HERE = Path(__file__).parent
PYTHON = os.environ.get(
    "TF_CYCLEGAN_ADDONS_PYTHON", str(HERE.parents[1] / ".venv-addons" / "bin" / "python")
)
# Largest allowed difference, relative to the largest value (or to 1, if that is larger).
TOLERANCE = {"float64": 1e-13, "float32": 2e-6}
# Cases that amplify rounding errors: TensorFlow Addons multiplies x by gamma /
# sqrt(variance + epsilon) before it subtracts the mean; near 1000, float32 values are a thousandth
# of the deviation apart; the gradients of a large map are sums of 40000 terms that cancel out.
LOOSER = {
    ("constant", "float64"): 1e-11,
    ("constant", "float32"): 1e-3,
    ("far_from_zero", "float64"): 1e-10,
    ("far_from_zero", "float32"): 2e-2,
    ("large_map", "float32"): 2e-5,
}
# Half-precision results are compared with TensorFlow Addons in float32, because its own are
# inaccurate: on the large map, its float16 gradient of gamma is wrong by 40 %.
HALF = {"float16": 1e-2, "mixed_float16": 1e-2, "mixed_bfloat16": 3e-2}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Runs make_reference.py and returns the folder with its files."""
    if shutil.which(PYTHON) is None:
        message = f"No TensorFlow Addons: {PYTHON} is no interpreter; run `make addons`."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("addons")
    # -I isolates the other environment from this one.
    command = [PYTHON, "-I", str(HERE / "make_reference.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def on_cpu():
    """Runs on the CPU, as the reference does, because a GPU rounds convolutions to TF32."""
    with tf.device("CPU:0"):
        yield


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def load_config(reference, case):
    return json.loads((reference / f"{case}_float32" / "config.json").read_text())


def assert_same_outputs(model, reference):
    expected = arrays(reference / "model.npz")
    np.testing.assert_allclose(model(expected["inputs"]), expected["outputs"], atol=2e-5)


def assert_same_results(folder, config, tolerance):
    """Compares the outputs, the gradients, and the names and order of the weights."""
    layer = InstanceNormalization.from_config(config)
    weights = list(arrays(folder / "weights.npz").values())
    results = evaluate(layer, **arrays(folder / "given.npz"), weights=weights)
    expected = arrays(folder / "results.npz")
    assert list(results) == list(expected)
    for name, value in expected.items():
        atol = tolerance * max(1, np.abs(value).max())
        np.testing.assert_allclose(results[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_outputs_and_gradients(reference, case, dtype):
    config = load_config(reference, case) | {"dtype": dtype}
    tolerance = LOOSER.get((case, dtype), TOLERANCE[dtype])
    assert_same_results(reference / f"{case}_{dtype}", config, tolerance)


# Half precision cannot represent differences of 0.1 near 1000.
@pytest.mark.parametrize("case", [case for case in CASES if case != "far_from_zero"])
@pytest.mark.parametrize("dtype", HALF)
def test_half_floats(reference, case, dtype):
    config = load_config(reference, case) | {"dtype": dtype}
    assert_same_results(reference / f"{case}_float32", config, HALF[dtype])


def test_constructor_arguments(reference):
    """Names, order and defaults are equal, except epsilon, and groups, which they replace by -1."""
    parameters = inspect.signature(InstanceNormalization).parameters.values()
    ours = [[p.name, p.default] for p in parameters if p.kind != p.VAR_KEYWORD]
    expected = dict(json.loads((reference / "signature.json").read_text()))
    assert ours == [[k, v] for k, v in (expected | {"groups": -1, "epsilon": 1e-5}).items()]


@pytest.mark.parametrize("case", CASES)
def test_config(reference, case):
    """Checks that their config creates the same layer as the arguments it was made from."""
    config = load_config(reference, case)
    arguments = {"epsilon": 1e-3, "name": config["name"], **CASES[case][0]}
    ours = InstanceNormalization.from_config(config).get_config()
    assert ours == InstanceNormalization(**arguments).get_config()
    for key in "name", "axis", "epsilon", "center", "scale":
        assert ours[key] == config[key]


def test_set_weights(reference):
    model = build_model(InstanceNormalization)
    model.set_weights(list(arrays(reference / "weights.npz").values()))
    assert_same_outputs(model, reference)


@pytest.mark.parametrize("file", ["weights.h5", "new.weights.h5", "whole.h5", "whole.keras"])
def test_load_weights(reference, file):
    """Checks that a model with the same layers loads every Keras 2 format except the checkpoint."""
    model = build_model(InstanceNormalization)
    model.load_weights(reference / file)
    assert_same_outputs(model, reference)


def test_load_weights_by_name(reference):
    """Checks that a part of the model finds its weights by name, as the layer names are equal."""
    keras.utils.clear_session()  # restarts the numbers in layer names
    model = build_model(InstanceNormalization)
    part = keras.Model(model.inputs, model.layers[2].output)
    part.load_weights(reference / "weights.h5", by_name=True)
    expected = arrays(reference / "weights.npz")
    for i, weight in enumerate(part.get_weights()):
        np.testing.assert_array_equal(weight, expected[f"arr_{i}"])


def test_load_model(reference):
    """Loads a complete Keras 2 model, including its config, with our layer instead of theirs."""
    model = keras.models.load_model(
        reference / "whole.h5",
        custom_objects={"Addons>InstanceNormalization": InstanceNormalization},
        compile=False,
    )
    assert_same_outputs(model, reference)


def test_checkpoint(reference):
    """Keras 3 cannot load a TensorFlow checkpoint of Keras 2, but TensorFlow can read its tensors.

    Their keys number the layers that have weights. For a subclassed model, a key begins with the
    name of the attribute instead (tf.train.list_variables shows the keys).
    """
    model = build_model(InstanceNormalization)
    checkpoint = tf.train.load_checkpoint(str(reference / "checkpoint"))
    for i, layer in enumerate(layer for layer in model.layers if layer.weights):
        for weight in layer.weights:
            key = f"layer_with_weights-{i}/{weight.name}/.ATTRIBUTES/VARIABLE_VALUE"
            weight.assign(checkpoint.get_tensor(key))
    assert_same_outputs(model, reference)
