"""A generator as a TensorFlow SavedModel: images of any size in and out, for TensorFlow Serving.

Two signatures, both of any batch size:

- `serving_default`: `image` float32 `[n, h, w, c]` in [-1, 1] -> `image` float32 `[n, h, w, c']`.
  NaN, infinity and values further out than rounding explains (`TOLERANCE`) are refused.
- `image_bytes`: `image_bytes` string `[n]`, images in any sizes as `graph_images.decode` takes
  them -> `image_bytes` string `[n]`, each a PNG of its image's own size. (Over REST, TensorFlow
  Serving codes strings in base64 where their name ends in `_bytes`.) EXIF orientation is not
  applied: clients send images upright.

Height and width are free in both: what is no multiple of the generator's is mirrored outwards to
one, and the translation is cropped back.

A request that cannot be served ends with INVALID_ARGUMENT and the reason, for its whole batch.
"""

import os
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import decode_image, to_float
from tf_cyclegan.export.graph_images import decode, require, require_size, to_gray
from tf_cyclegan.files import check_output
from tf_cyclegan.inference.translator import SMALLEST, translator

MAX_PIXELS = 2048 * 2048
TOLERANCE = 1e-3  # beyond [-1, 1]: as a half float or a resized image may be off


def export_saved_model(generator, folder, version: int = 1, max_pixels: int = MAX_PIXELS) -> Path:
    """Writes `folder/version`, compared with Keras before it is there, whole or not at all.

    Args:
        generator: one of `tf_cyclegan.generators`, built, float32.
        folder: the model's folder, which TensorFlow Serving calls its base path. Its name is the
            model's name.
        version: 1 or more; a server takes the highest.
        max_pixels: height x width of one image, above which it is refused.

    Returns:
        The version's folder.

    Raises:
        ValueError: the version is there already, cannot be written, or translates otherwise than
            the generator.
    """
    folder = Path(folder)
    target = folder / str(version)
    part = folder / f"{version}.part"  # servers read only folders whose name is a number
    check_version(folder, version, max_pixels)
    requests = warmup_requests(generator, folder.resolve().name)
    warmup = part / "assets.extra" / "tf_serving_warmup_requests"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # what a killed export left
        _archive(generator, max_pixels).write_out(part, verbose=False)
        warmup.parent.mkdir()
        with tf.io.TFRecordWriter(str(warmup)) as writer:
            for request in requests:
                writer.write(request)
        compare(generator, part)
        os.replace(part, target)
    except (OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{target} cannot be written ({reason}): use another --output.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def check_version(folder, version: int, max_pixels: int) -> None:
    """Checks the arguments of `export_saved_model` before the generator is there.

    Raises:
        ValueError: a number is too small, or the version exists or cannot be written.
    """
    if version < 1:
        raise ValueError(f"version is {version}: use 1 or more.")
    if max_pixels < SMALLEST**2:  # the warm-up's
        raise ValueError(f"max_pixels is {max_pixels}: use {SMALLEST**2} or more.")
    check_output(folder)
    target = Path(folder) / str(version)
    if target.exists():
        raise ValueError(f"{target} exists already: use another --version.")


def _archive(generator, max_pixels):
    multiple, channels = generator.multiple, generator.input_channels
    # A table, since a graph may divide otherwise than to_float, and where an image has one color
    # only, the norms turn the last bit into visible levels.
    floats = to_float(np.arange(256, dtype=np.uint8))

    def translate(image):
        """float32 `[n, h, w, c]` -> `[n, h, w, c']`, mirrored outwards and cropped back."""
        height, width = tf.unstack(tf.shape(image)[1:3])
        image = require_size(height, width, max_pixels, image)
        count, height, width = tf.unstack(tf.shape(image)[:3])  # anew: they too await the check
        image = tf.gather(image, _mirrored(height, multiple), axis=1)
        image = tf.gather(image, _mirrored(width, multiple), axis=2)
        # Mirroring layers refuse an empty batch: it gets one image, which is dropped again.
        extra = tf.cast(count == 0, tf.int32)
        image = tf.pad(image, [[0, extra], [0, 0], [0, 0], [0, 0]])
        return generator(image, training=False)[:count, :height, :width]

    def translate_floats(image):
        # A server feeds what it is sent, and a convolution takes 6 channels for 3 in two groups.
        image = tf.ensure_shape(image, [None, None, None, channels])
        within = tf.reduce_all(tf.abs(image) <= 1 + TOLERANCE)  # of an empty batch too; NaN is not
        message = "image takes float32 in [-1, 1]: send x / 127.5 - 1 of levels from 0 to 255"
        return {"image": translate(require(within, message, image))}

    def translate_bytes(data):
        pixels = decode(data, max_pixels)
        pixels = to_gray(pixels) if channels == 1 else pixels
        fake = translate(tf.gather(floats, tf.cast(pixels, tf.int32))[tf.newaxis])[0]
        levels = tf.clip_by_value(tf.round((fake + 1) * 127.5), 0, 255)
        return tf.io.encode_png(tf.cast(levels, tf.uint8))

    def image_bytes(data):
        # One after the other: an image keeps all cores busy, and memory is that of the largest.
        return {"image_bytes": tf.map_fn(translate_bytes, data, parallel_iterations=1)}

    # Other ways to save a Keras 3 model in TensorFlow's format lose its weights in silence.
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
    """Indices that mirror a side outwards to its next multiple: `np.pad`'s "symmetric"."""
    target = -(-tf.maximum(side, SMALLEST) // multiple) * multiple
    index = tf.range(target) % (2 * side)
    return tf.minimum(index, 2 * side - 1 - index)


def warmup_requests(generator, name: str) -> list[bytes]:
    """Requests that TensorFlow Serving replays before it takes a version into service.

    Args:
        generator: the one to be exported.
        name: the model's.

    Returns:
        A PredictionLog for each signature, serialized.

    Raises:
        ValueError: tensorflow-serving-api is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        raise ValueError(
            "A SavedModel's warm-up requests need tensorflow-serving-api: "
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
    """Raises a ValueError unless both signatures translate noise as the generator does."""
    signatures = tf.saved_model.load(version).signatures
    pixels = np.random.default_rng(0).integers(0, 256, [7, 9, generator.input_channels], np.uint8)
    expected = translator(generator)(pixels)
    image = signatures["serving_default"](image=to_float(pixels)[np.newaxis])["image"]
    png = tf.io.encode_png(pixels)[tf.newaxis]
    fake = signatures["image_bytes"](image_bytes=png)["image_bytes"].numpy()[0]
    difference = np.abs((image.numpy()[0] + 1) * 127.5 - expected).max()
    levels = np.abs(decode_image(fake, channels=expected.shape[2]).astype(int) - expected).max()
    if not (difference <= 0.51 and levels <= 1):  # NaN fails too
        raise ValueError(
            f"{version} differs from the generator by {difference:.2f} grey levels in its floats "
            f"and {levels} in its bytes: check the generator with scripts/translate.py."
        )
