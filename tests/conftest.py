"""Two logical CPUs, so that every test process can hold two replicas."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded

import keras
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


# Files that take longest, which `make test` starts first, so that both processes end together.
LONGEST = """
    cyclegan train workers docs benchmarks public_api xla_program gpu_gate runtimes wheel tflite
    experiments evaluation onnx_file translate_many goldens serving checkpoints web android
""".split()


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def own_collective_keys():
    """Every MirroredStrategy numbers its collectives from the same start, but TensorFlow keeps the
    shape of each number until the process ends: the strategies of two tests would clash."""
    yield
    tf.distribute.MirroredStrategy._collective_key_base += 1000


@pytest.fixture
def other_keras_json():
    """All that a keras.json can set, but for the backend."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    keras.config.set_dtype_policy("float16")
    keras.config.set_epsilon(0.1)
    yield
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
