"""Tests properties that every layer and model of cases.py has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, image, make

from tf_cyclegan import discriminators, generators, layers

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_layer_and_model_is_registered_and_has_a_case():
    defined = {
        kind
        for module in (layers, generators, discriminators)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    }
    assert len(defined) >= 8
    assert {case.kind for case in CASES.values()} == defined
    for kind in defined:
        assert keras.saving.get_registered_name(kind) == f"tf_cyclegan>{kind.__name__}"


@every_case
def test_outputs_are_worth_comparing(case):
    y = make(case)(image(case)).numpy()
    assert y.std() > 0.01
    assert np.abs(y[0] - y[1]).max() > 0.01


@every_case
def test_graph_of_any_size_equals_eager(case):
    model = make(case)
    any_size = tf.TensorSpec([None, None, None, case.shape[-1]])
    graph = tf.function(lambda x: model(x), input_signature=[any_size])
    np.testing.assert_allclose(graph(image(case)), model(image(case)), rtol=1e-5, atol=1e-6)


@every_case
def test_xla_equals_eager(case):
    model = make(case)
    compiled = tf.function(lambda x: model(x), jit_compile=True)
    np.testing.assert_allclose(compiled(image(case)), model(image(case)), rtol=1e-4, atol=1e-5)


@every_case
def test_save_and_load(case, tmp_path):
    model = make(case)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(image(case)), model(image(case)))


@every_case
def test_config_round_trip(case):
    network = case.kind(**case.arguments)
    config = network.get_config()
    assert case.arguments.items() <= config.items()
    again = case.kind.from_config(config)
    assert type(again) is case.kind
    assert again.get_config() == config


@pytest.fixture
def before(case, tmp_path):
    """Returns the outputs of a case under Keras' default settings, and saves its model."""
    model = make(case)
    model.save(tmp_path / "model.keras")
    return {training: model(image(case), training=training) for training in modes(case)}


def modes(case):
    # In training, Keras' SpectralNormalization uses keras.config.epsilon().
    spectral = case.arguments.get("norm") == "spectral"
    return (False,) if case.arguments.get("dropout") or spectral else (False, True)


@every_case
def test_keras_json_changes_nothing(case, before, other_keras_json, tmp_path):
    for model in (make(case), keras.saving.load_model(tmp_path / "model.keras")):
        for training, expected in before.items():
            y = model(image(case), training=training)
            assert y.dtype == "float32"
            np.testing.assert_array_equal(y, expected)


@every_case
def test_two_replicas_equal_one(case):
    """Includes training, where batch norm must use the moments of the global batch."""
    training = not case.arguments.get("dropout")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mirrored = make(case)
    x = image(case, n=4)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(x, 2)[context.replica_id_in_sync_group])
    )
    run = tf.function(lambda x: strategy.run(mirrored, [x], {"training": training}))
    y = tf.concat(strategy.experimental_local_results(run(halves)), axis=0)
    # Winograd's sums depend on the batch size, and differ by 1e-5 on some processors.
    np.testing.assert_allclose(y, make(case)(x, training=training), rtol=1e-4, atol=5e-5)


@every_case
@pytest.mark.parametrize("dtype, error", [("mixed_bfloat16", 0.03), ("mixed_float16", 0.005)])
def test_mixed_precision(case, dtype, error):
    model = make(case, dtype)
    y = model(image(case))
    assert all(variable.dtype == "float32" for variable in model.trainable_variables)
    is_layer = isinstance(model, keras.Sequential)
    assert y.dtype == (dtype.removeprefix("mixed_") if is_layer else "float32")
    y = tf.cast(y, tf.float32).numpy()
    expected = make(case)(image(case)).numpy()
    assert 0 < np.abs(y - expected).mean() < error * expected.std()


@every_case
def test_saved_model(case, tmp_path):
    model = make(case)
    any_size = [keras.InputSpec(shape=(None, None, None, case.shape[-1]), dtype="float32")]
    model.export(tmp_path, input_signature=any_size, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    y = loaded.serve(image(case))
    np.testing.assert_allclose(y, model(image(case)), rtol=1e-5, atol=1e-6)


@every_case
def test_tflite(case, tmp_path):
    model = make(case)
    x = image(case, n=1)
    # The batch size is fixed, because phone GPUs refuse a file without one. Model.export is used,
    # because the converter silently loses a Keras 3 model's weights in other ways.
    signature = [keras.InputSpec(shape=x.shape, dtype="float32")]
    model.export(tmp_path, input_signature=signature, verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(y, model(x), rtol=0, atol=1e-4)
