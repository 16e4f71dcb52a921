"""Configures two logical CPUs, so that each test process can run two replicas."""

import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # set before TensorFlow is imported

import keras
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


# The slowest files. `make test` starts them first, so that both processes end at the same time.
LONGEST = """
    cyclegan train workers docs benchmarks public_api student xla gpu_gate runtimes wheel tflite arm
    experiments evaluation onnx_file translate_many goldens serving checkpoints web android
""".split()


def pytest_configure(config):
    """Lets all processes of the tests write temporary files to a folder that is removed. Killed
    processes leave such files, and TensorFlow Datasets leaves an empty folder per dataset."""
    if not hasattr(config, "workerinput"):  # else a process of pytest-xdist, which inherits it
        config.temporary_files = tempfile.mkdtemp()  # tmp_path stays where it was, to be looked at
        os.environ["TMPDIR"] = config.temporary_files


def pytest_unconfigure(config):
    if hasattr(config, "temporary_files"):
        shutil.rmtree(config.temporary_files, ignore_errors=True)


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def own_collective_keys():
    """Gives each test its own collective keys. Every MirroredStrategy counts them from the same
    start, but TensorFlow remembers the shape of each key, so the strategies of two tests clash."""
    yield
    tf.distribute.MirroredStrategy._collective_key_base += 1000


@pytest.fixture
def other_keras_json():
    """Changes every setting that a keras.json file can contain, except the backend."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    keras.config.set_dtype_policy("float16")
    keras.config.set_epsilon(0.1)
    yield
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
