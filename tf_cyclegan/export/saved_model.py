"""Exports a generator as a TensorFlow SavedModel for TensorFlow Serving, for images of any size.

It has two signatures, both for any batch size:

- `serving_default`: `image` float32 `[n, h, w, c]` in [-1, 1] -> `image` float32 `[n, h, w, c']`.
  NaN, infinity and values outside of [-1, 1] by more than `TOLERANCE` are rejected.
- `image_bytes`: `image_bytes` string `[n]`, encoded images of any sizes for `graph_images.decode`
  -> `image_bytes` string `[n]`, each a PNG of the same size. (Over REST, TensorFlow Serving encodes
  strings in base64 if their name ends in `_bytes`.) EXIF orientation is not applied: clients must
  send upright images.

Height and width are free in both: sides that are not a multiple of `generator.multiple` are padded
by mirroring, and the translation is cropped back.

A request that cannot be served fails with INVALID_ARGUMENT and the reason, for its whole batch.
"""

import os
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import decode_image, to_float
from tf_cyclegan.export.graph_images import decode, require, require_size, to_gray
from tf_cyclegan.files import check_output, one_line
from tf_cyclegan.inference.translator import SMALLEST, padded, translator

MAX_PIXELS = 2048 * 2048
TOLERANCE = 1e-3  # outside of [-1, 1], for rounding by float16 or by resizing


def export_saved_model(generator, folder, version: int = 1, max_pixels: int = MAX_PIXELS) -> Path:
    """Writes `folder/version` atomically, after comparing it with Keras.

    Args:
        generator: one of `tf_cyclegan.generators`, built, float32.
        folder: the model's folder, which TensorFlow Serving calls its base path. Its name is the
            model's name.
        version: 1 or more; a server loads the highest.
        max_pixels: larger images, by height x width, are rejected.

    Returns:
        The version's folder.

    Raises:
        ValueError: the version already exists, cannot be written, or its translations differ from
            the generator's.
    """
    folder = Path(folder)
    target = folder / str(version)
    part = folder / f"{version}.part"  # servers read only folders whose name is a number
    check_version(folder, version, max_pixels)
    requests = warmup_requests(generator, folder.resolve().name)
    warmup = part / "assets.extra" / "tf_serving_warmup_requests"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # left over from a killed export
        _archive(generator, max_pixels).write_out(part, verbose=False)
        warmup.parent.mkdir()
        with tf.io.TFRecordWriter(str(warmup)) as writer:
            for request in requests:
                writer.write(request)
        compare(generator, part)
        os.replace(part, target)
    except (OSError, tf.errors.OpError) as error:
        reason = one_line(error)
        raise ValueError(f"{target} cannot be written ({reason}): use another --output.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def check_version(folder, version: int, max_pixels: int) -> None:
    """Checks the arguments of `export_saved_model` before the generator is loaded.

    Raises:
        ValueError: a number is too small, or the version exists or cannot be written.
    """
    if version < 1:
        raise ValueError(f"version is {version}: use 1 or more.")
    if not SMALLEST**2 <= max_pixels <= 2**31:  # the first is the size of the warm-up requests
        raise ValueError(f"max_pixels is {max_pixels}: use {SMALLEST**2} to {2**31}.")
    check_output(folder)
    target = Path(folder) / str(version)
    if target.exists():
        raise ValueError(f"{target} already exists: use another --version.")


def _archive(generator, max_pixels):
    multiple, channels = generator.multiple, generator.input_channels
    # A table, since a graph may round a division differently from to_float, and in an image of
    # one color, normalization amplifies the last bit to visible levels.
    floats = to_float(np.arange(256, dtype=np.uint8))
    # Of a whole batch, padded: a thin image may grow to SMALLEST times its pixels.
    largest = max(SMALLEST * max_pixels, padded(SMALLEST, multiple) ** 2)

    def translate(image):
        """Maps float32 `[n, h, w, c]` to `[n, h, w, c']`, padded by mirroring and cropped back."""
        height, width = tf.unstack(tf.shape(image)[1:3])
        image = require_size(height, width, max_pixels, image)
        count, height, width = tf.unstack(tf.shape(image)[:3])  # again, so that these wait too
        rows, columns = _mirrored(height, multiple), _mirrored(width, multiple)
        work = tf.cast(count, tf.int64) * tf.size(rows, tf.int64) * tf.size(columns, tf.int64)
        message = f"more than {largest} pixels with padding: send fewer images, or larger ones"
        image = require(work <= largest, message, image)
        image = tf.gather(image, rows, axis=1)
        image = tf.gather(image, columns, axis=2)
        # Mirror padding rejects an empty batch, so it gets one image, which is dropped again.
        extra = tf.cast(count == 0, tf.int32)
        image = tf.pad(image, [[0, extra], [0, 0], [0, 0], [0, 0]])
        return generator(image, training=False)[:count, :height, :width]

    def translate_floats(image):
        # Servers do not check shapes, and a convolution for 3 channels accepts 6 as two groups.
        image = tf.ensure_shape(image, [None, None, None, channels])
        within = tf.reduce_all(tf.abs(image) <= 1 + TOLERANCE)  # false for NaN
        message = "image takes float32 in [-1, 1]: send x / 127.5 - 1 for levels from 0 to 255"
        return {"image": translate(require(within, message, image))}

    def translate_bytes(data):
        pixels = decode(data, max_pixels)
        pixels = to_gray(pixels) if channels == 1 else pixels
        fake = translate(tf.gather(floats, tf.cast(pixels, tf.int32))[tf.newaxis])[0]
        levels = tf.clip_by_value(tf.round((fake + 1) * 127.5), 0, 255)
        return tf.io.encode_png(tf.cast(levels, tf.uint8))

    def image_bytes(data):
        # One at a time: an image keeps all cores busy, and memory is that of the largest.
        return {"image_bytes": tf.map_fn(translate_bytes, data, parallel_iterations=1)}

    # Other ways to save a Keras 3 model in TensorFlow's format silently lose its weights.
    archive = keras.export.ExportArchive()
    archive.track(generator)
    archive.add_endpoint(
        "serving_default",
        translate_floats,
        input_signature=[tf.TensorSpec([None, None, None, channels], tf.float32, "image")],
    )
    archive.add_endpoint(
        "image_bytes", image_bytes, [tf.TensorSpec([None], tf.string, "image_bytes")]
    )
    return archive


def _mirrored(side, multiple):
    """Returns indices that pad a side to its next multiple, like "symmetric" in `np.pad`."""
    target = -(-tf.maximum(side, SMALLEST) // multiple) * multiple
    index = tf.range(target) % (2 * side)
    return tf.minimum(index, 2 * side - 1 - index)


def warmup_requests(generator, name: str) -> list[bytes]:
    """Returns requests that TensorFlow Serving replays before it serves a version.

    Args:
        generator: the generator to export.
        name: the model's name.

    Returns:
        A serialized PredictionLog for each signature.

    Raises:
        ValueError: tensorflow-serving-api is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        raise ValueError(
            "the warm-up requests of a SavedModel need tensorflow-serving-api: "
            'pip install "tf_cyclegan[export]"'
        ) from None
    image = np.zeros([1, SMALLEST, SMALLEST, generator.input_channels], np.float32)
    png = tf.io.encode_png(np.full([SMALLEST, SMALLEST, 3], 128, np.uint8)).numpy()
    logs = []
    for signature, key, array in (
        ("serving_default", "image", image),
        ("image_bytes", "image_bytes", [png]),
    ):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
        log = prediction_log_pb2.PredictLog(request=request)
        logs.append(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    return logs


def compare(generator, version: Path):
    """Raises a ValueError unless both signatures translate noise like the generator."""
    signatures = tf.saved_model.load(version).signatures
    pixels = np.random.default_rng(0).integers(0, 256, [7, 9, generator.input_channels], np.uint8)
    expected = translator(generator)(pixels)
    image = signatures["serving_default"](image=to_float(pixels)[np.newaxis])["image"]
    png = tf.io.encode_png(pixels)[tf.newaxis]
    fake = signatures["image_bytes"](image_bytes=png)["image_bytes"].numpy()[0]
    difference = np.abs((image.numpy()[0] + 1) * 127.5 - expected).max()
    levels = np.abs(decode_image(fake, channels=expected.shape[2]).astype(int) - expected).max()
    if not (difference <= 0.51 and levels <= 1):  # also true for NaN
        raise ValueError(
            f"{version} differs from the generator by {difference:.2f} gray levels in its floats "
            f"and {levels} in its bytes: check the generator with tf-cyclegan translate."
        )
