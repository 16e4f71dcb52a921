"""Tests the SavedModel: its two signatures, what they refuse, and other engines that load it."""

import importlib
import importlib.util
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from tf_cyclegan.cli import export_saved_model as export_saved_model_command
from tf_cyclegan.data.image_files import decode_image, to_float
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.export import saved_model
from tf_cyclegan.export.graph_images import decode, to_gray
from tf_cyclegan.export.saved_model import export_saved_model
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.inference.translator import translator
from tf_cyclegan.training.run_folder import save_generator

SCRIPT = Path(__file__).resolve().parents[1] / "export" / "saved_model.py"
MAX_PIXELS = 5000


def needed(name):
    """Imports a package; without it, the test is skipped, or fails in CI."""
    return importlib.import_module(name) if os.environ.get("CI") else pytest.importorskip(name)


def generator(channels_in=3, channels_out=3, seed=0):
    keras.utils.set_random_seed(seed)
    network = ResNetGenerator(filters=4, blocks=1, channels=channels_out)
    network.build((None, None, None, channels_in))
    # The initial weights of 0.02 would give nearly gray images.
    network.set_weights([10 * weight for weight in network.get_weights()])
    return network


def noise(height=12, width=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def smooth(mode, height=13, width=19, seed=0):
    """Returns an image of few colors in large areas, which every format can compress."""
    image = Image.fromarray(noise(3, 4, 4, seed)).resize((width, height))
    return image.convert(mode)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(image):
    return encode(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), "PNG")


@pytest.fixture(scope="module")
def a2b():
    return generator()


@pytest.fixture(scope="module")
def version(tmp_path_factory, a2b):
    needed("tensorflow_serving.apis")
    return export_saved_model(a2b, tmp_path_factory.mktemp("models") / "seasons", 1, MAX_PIXELS)


@pytest.fixture(scope="module")
def floats(version):
    signature = tf.saved_model.load(version).signatures["serving_default"]
    return lambda image: signature(image=tf.constant(image))["image"].numpy()


def bytes_of(version):
    signature = tf.saved_model.load(version).signatures["image_bytes"]

    def call(images):
        outputs = signature(image_bytes=tf.constant(images, tf.string, [len(images)]))
        return list(outputs["image_bytes"].numpy())

    return call


@pytest.fixture(scope="module")
def translate_bytes(version):
    return bytes_of(version)


@pytest.fixture(scope="module")
def decoded():
    """Returns `graph_images.decode` alone, as a graph."""
    return tf.function(
        lambda data: decode(data, MAX_PIXELS), input_signature=[tf.TensorSpec([], tf.string)]
    )


def refused(message):
    return pytest.raises(tf.errors.InvalidArgumentError, match=message)


# === The folder ===


def test_what_is_written(version):
    names = {str(path.relative_to(version.parent)) for path in version.parent.rglob("*")}
    assert names == {
        "1",
        "1/assets",
        "1/assets.extra",
        "1/assets.extra/tf_serving_warmup_requests",
        "1/fingerprint.pb",
        "1/saved_model.pb",
        "1/variables",
        "1/variables/variables.data-00000-of-00001",
        "1/variables/variables.index",
    }


def test_signatures(version):
    signatures = tf.saved_model.load(version).signatures
    assert set(signatures) == {"serving_default", "image_bytes"}
    for name, key, shape, dtype in (
        ("serving_default", "image", [None, None, None, 3], tf.float32),
        ("image_bytes", "image_bytes", [None], tf.string),
    ):
        inputs = signatures[name].structured_input_signature[1]
        outputs = signatures[name].structured_outputs
        for spec in (inputs, outputs):
            assert list(spec) == [key]
            assert spec[key].shape.as_list() == shape
            assert spec[key].dtype == dtype


def test_no_python_and_no_custom_ops(version):
    model = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    functions = {function.signature.name for function in graph.library.function}
    bodies = [graph.node, *[function.node_def for function in graph.library.function]]
    ops = {node.op for nodes in bodies for node in nodes} - functions
    assert {"Conv2D", "DecodeJpeg", "Assert"} <= ops
    assert not {op for op in ops if "Py" in op or not hasattr(tf.raw_ops, op)}


def test_saved_model_cli_names_both_signatures(version):
    done = subprocess.run(
        [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--all"]
        + ["--dir", str(version)],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "signature_def['serving_default']:",
        "inputs['image'] tensor_info:",
        "shape: (-1, -1, -1, 3)",
        "signature_def['image_bytes']:",
        "outputs['image_bytes'] tensor_info:",
    ):
        assert line in done.stdout


def test_warmup_requests_fit_the_signatures(version):
    apis = needed("tensorflow_serving.apis.prediction_log_pb2")
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        apis.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    signatures = tf.saved_model.load(version).signatures
    assert len(logs) == len(signatures)
    for log in logs:
        request = log.predict_log.request
        assert request.model_spec.name == "seasons"
        inputs = {key: tf.constant(tf.make_ndarray(t)) for key, t in request.inputs.items()}
        signatures[request.model_spec.signature_name](**inputs)


# === serving_default ===


SIZES = [(1, 1), (2, 3), (1, 40), (9, 10), (12, 16), (64, 48)]


@pytest.mark.parametrize("height, width", SIZES)
def test_floats_are_the_keras_graph_bit_for_bit(a2b, floats, height, width):
    graph = tf.function(
        lambda image: a2b(image, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 3])],
    )
    image = to_float(np.stack([noise(height, width, seed=seed) for seed in (1, 2)]))
    pad = [(0, -(-max(side, 8) // 4) * 4 - side) for side in (height, width)]
    expected = graph(np.pad(image, [(0, 0), *pad, (0, 0)], mode="symmetric"))
    fake = floats(image)
    assert fake.std() > 0.03
    np.testing.assert_array_equal(fake, expected[:, :height, :width])


def test_an_empty_batch_of_floats(floats):
    assert floats(np.zeros([0, 9, 10, 3], np.float32)).shape == (0, 9, 10, 3)


def test_floats_without_or_with_too_many_pixels_are_refused(floats):
    for shape, message in (
        ([1, 0, 8, 3], "without pixels"),
        ([0, 8, 0, 3], "without pixels"),
        ([1, 1, MAX_PIXELS + 1, 3], "5001 x 1 is more than 5000 pixels"),
    ):
        with refused(message):
            floats(np.zeros(shape, np.float32))
    assert floats(np.zeros([1, 1, MAX_PIXELS, 3], np.float32)).shape[2] == MAX_PIXELS
    most = 8 * MAX_PIXELS // 64  # images of one pixel, each padded to 8x8
    assert len(floats(np.zeros([most, 1, 1, 3], np.float32))) == most
    with refused(f"more than {8 * MAX_PIXELS} pixels with padding: send fewer images"):
        floats(np.zeros([most + 1, 1, 1, 3], np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 255, -1.1])
def test_floats_out_of_range_are_refused(floats, value):
    image = np.zeros([2, 9, 10, 3], np.float32)
    image[1, 3, 4, 2] = value
    with refused(r"takes float32 in \[-1, 1\]: send x / 127.5 - 1 for levels"):
        floats(image)
    image[1, 3, 4, 2] = 1.0005  # within the tolerance for rounding
    assert np.isfinite(floats(image)).all()


# === Images decoded in the graph ===


def palette(colors=None):
    return smooth("RGB").quantize(colors or 200)


IMAGES = {
    "JPEG": encode(smooth("RGB"), "JPEG"),
    "JPEG, progressive": encode(smooth("RGB"), "JPEG", progressive=True, subsampling=0),
    "JPEG, gray": encode(smooth("L"), "JPEG"),
    "JPEG, CMYK": encode(smooth("CMYK"), "JPEG"),
    "PNG": encode(smooth("RGB"), "PNG"),
    "PNG, alpha": encode(smooth("RGBA"), "PNG"),
    "PNG, gray": encode(smooth("L"), "PNG"),
    "PNG, gray and alpha": encode(smooth("LA"), "PNG"),
    "PNG, 1 bit": encode(smooth("1"), "PNG"),
    "PNG, 2 bits": encode(palette(4), "PNG", bits=2),
    "PNG, palette": encode(palette(), "PNG"),
    "PNG, palette with a transparent color": encode(palette(), "PNG", transparency=3),
    "PNG, transparent color": encode(smooth("RGB"), "PNG", transparency=(1, 2, 3)),
    "WebP": encode(smooth("RGB"), "WEBP"),
    "WebP, lossless": encode(smooth("RGB"), "WEBP", lossless=True),
    "WebP, alpha": encode(smooth("RGBA"), "WEBP"),
    "WebP, lossless, alpha": encode(smooth("RGBA"), "WEBP", lossless=True),
    "WebP, EXIF": encode(smooth("RGB"), "WEBP", exif=b"Exif\0\0II*\0" + bytes(8)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_decoded_as_pillow_decodes(decoded, name):
    image = decode_image(IMAGES[name])
    np.testing.assert_array_equal(decoded(IMAGES[name]), image)
    gray = decode_image(IMAGES[name], channels=1)
    np.testing.assert_array_equal(to_gray(image), gray)


def test_alpha_is_rounded_as_pillow_rounds_for_every_color(decoded):
    color, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for rows in np.split(np.stack([color, color, color, alpha], -1), 32):
        data = encode(Image.fromarray(rows), "PNG")
        np.testing.assert_array_equal(decoded(data), decode_image(data))


def test_sixteen_bits_are_cut_to_eight(decoded):
    image = np.random.default_rng(0).integers(0, 2**16, (5, 7), np.uint16)
    data = encode(Image.fromarray(image), "PNG")
    assert np.abs(decoded(data).numpy().astype(int) - decode_image(data)).max() <= 1


def huge(name, place, size, after=b""):
    """Returns an image whose header claims a far larger size."""
    data = IMAGES[name]
    start = data.index(after) + len(after) + place if after else place
    return data[:start] + size + data[start + len(size) :]


HUGE = {
    "JPEG": huge("JPEG", 3, b"\xf0\x00\xf0\x00", after=b"\xff\xc0"),
    "PNG": huge("PNG", 16, b"\x7f\xff\xff\xff" * 2),
    "PNG, overflowing": huge("PNG", 16, b"\xff\xff\xff\xff" * 2),
    "WebP": huge("WebP", 26, b"\xff\x3f\xff\x3f"),
    "WebP, lossless": huge("WebP, lossless", 21, b"\xff\xff\xff\x0f"),
    "WebP, extended": huge("WebP, EXIF", 24, b"\xff" * 6),
}


@pytest.mark.parametrize("name", HUGE)
def test_too_many_pixels_are_refused_by_the_header(decoded, name):
    with refused(r"\d{5,} x \d{5,} is more than 5000 pixels: scale the image down first"):
        decoded(HUGE[name])


def test_the_limit_is_the_last_that_passes(decoded):
    assert decoded(png(noise(50, 100))).shape == (50, 100, 3)
    with refused("89 x 57 is more than 5000 pixels"):
        decoded(png(noise(57, 89)))


def animated(mode):
    images = [smooth(mode, seed=seed) for seed in range(3)]
    return encode(images[0], "WEBP", save_all=True, append_images=images[1:])


def repeated(name, start, end, times):
    """Returns an image in which the last part from `start` up to `end` is repeated."""
    data = IMAGES[name]
    start, end = data.rindex(start), data.rindex(end)
    return data[:end] + data[start:end] * times + data[end:]


def with_chunks(kind, content, times):
    """Returns a PNG with additional chunks before its last one."""
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    return IMAGES["PNG"][:-12] + times * chunk + IMAGES["PNG"][-12:]


ZEROS = zlib.compress(bytes(10_000))
REFUSED = {
    "nothing": (b"", "not a JPEG, PNG"),
    "text": (b"no image at all", "not a JPEG, PNG"),
    "JPEG XL": (b"\xff\x0a" + bytes(60), "not a JPEG, PNG"),
    "JPEG XL in a box": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "not a JPEG, PNG"),
    "TIFF": (encode(smooth("RGB"), "TIFF"), "not a JPEG, PNG"),
    "GIF": (encode(palette(), "GIF"), "not a JPEG, PNG or WebP image: convert it to PNG first"),
    "BMP": (encode(smooth("RGB"), "BMP"), "not a JPEG, PNG"),
    "JPEG, many scans": (repeated("JPEG, progressive", b"\xff\xda", b"\xff\xd9", 100), "with more"),
    "PNG, many comments": (with_chunks(b"zTXt", b"a\0\0" + ZEROS, 17), "more than 16 comments"),
    "PNG, zeros behind": (
        with_chunks(b"IDAT", bytes(2**20 + 1000), 1),
        "more than 4 bytes per pixel",
    ),
    "WAVE": (b"RIFF\x10\0\0\0WAVEfmt " + bytes(40), "not a JPEG, PNG"),
    "WebP, animated": (animated("RGB"), "an animated WebP"),
    "WebP, animated with alpha": (animated("RGBA"), "an animated WebP"),
    "WebP, other canvas": (huge("WebP, EXIF", 24, b"\5\0\0\5\0\0"), "Failed to decode WebP"),
    "PNG, no width": (huge("PNG", 16, bytes(4)), "without pixels"),
    "JPEG, no height": (huge("JPEG", 3, bytes(2), after=b"\xff\xc0"), "without pixels|Invalid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(decoded, name):
    data, message = REFUSED[name]
    with refused(message):
        decoded(data)


def test_what_encoders_write_is_below_the_limits(decoded):
    for data in (
        repeated("JPEG, progressive", b"\xff\xda", b"\xff\xd9", 50),
        with_chunks(b"zTXt", b"a\0\0" + ZEROS, 16),
        with_chunks(b"eXIf", bytes(500_000), 1),
    ):
        assert decoded(data).shape == (13, 19, 3)


@pytest.mark.parametrize("name", IMAGES)
def test_a_quarter_of_an_image_is_refused(decoded, name):
    data = IMAGES[name]
    with refused("Invalid|[Dd]amaged|Failed|differ"):
        decoded(data[: len(data) // 4])


def test_damaged_bytes_are_decoded_or_refused(decoded):
    random = np.random.default_rng(0)
    failures = 0
    for data in IMAGES.values():
        for _ in range(10):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[random.integers(0, len(data), 5)] = random.integers(0, 256, 5)
            try:
                assert decoded(damaged.tobytes()).shape[2] == 3
            except tf.errors.InvalidArgumentError:
                failures += 1
    assert failures > 20


# === image_bytes ===


def test_images_of_any_kind_and_size_in_one_batch(a2b, translate_bytes):
    translate = translator(a2b)
    images = [*IMAGES.values(), *[png(noise(*size)) for size in SIZES]]
    fakes = translate_bytes(images)
    assert len(fakes) == len(images)
    for data, fake in zip(images, fakes, strict=True):
        assert fake.startswith(b"\x89PNG")
        expected = translate(decode_image(data))
        fake = decode_image(fake)
        assert fake.shape == expected.shape
        assert np.abs(fake.astype(int) - expected).max() <= 1


def test_an_empty_batch_of_images(translate_bytes):
    assert translate_bytes([]) == []


def test_one_bad_image_refuses_its_batch_and_no_other(translate_bytes):
    good = IMAGES["PNG"]
    for bad, message in [*REFUSED.values(), (HUGE["PNG"], "more than 5000 pixels")]:
        with refused(message):
            translate_bytes([good, bad])
    assert len(translate_bytes([good, good])) == 2


def gray_unet():
    network = UNetGenerator(filters=4, depth=5)
    network.build((None, None, None, 1))
    return network


@pytest.mark.parametrize("network", [lambda: generator(channels_out=1), gray_unet])
def test_gray_and_other_networks(tmp_path, network):
    needed("tensorflow_serving.apis")
    network = network()
    version = export_saved_model(network, tmp_path / "gray", max_pixels=13 * 19)
    names = ["JPEG", "JPEG, gray", "PNG, alpha"]
    fakes = bytes_of(version)([IMAGES[name] for name in names])
    for name, fake in zip(names, fakes, strict=True):
        expected = translator(network)(decode_image(IMAGES[name]))
        assert Image.open(io.BytesIO(fake)).mode == ("L" if network.channels == 1 else "RGB")
        difference = decode_image(fake, channels=network.channels).astype(int) - expected
        assert np.abs(difference).max() <= 1


# === Another engine ===


def test_openvino_reads_the_same_folder(version, floats):
    openvino = needed("openvino")
    core = openvino.Core()
    model = core.compile_model(core.read_model(version), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in ((64, 64), (31, 42)):
        image = landscape(0, "summer", height, width, 0)
        fake = model({"image": to_float(image)[np.newaxis]})[0]
        expected = floats(to_float(image)[np.newaxis])
        np.testing.assert_allclose(fake, expected, rtol=0, atol=1e-4)


# === Errors ===


def test_a_version_is_never_replaced(version, a2b):
    before = (version / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match="1 already exists: use another --version"):
        export_saved_model(a2b, version.parent, 1)
    assert (version / "saved_model.pb").read_bytes() == before


def test_what_a_killed_export_left_is_removed(tmp_path, a2b):
    needed("tensorflow_serving.apis")
    (tmp_path / "1.part" / "assets").mkdir(parents=True)
    (tmp_path / "1.part" / "old").touch()
    target = export_saved_model(a2b, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"] and not (target / "old").exists()


def test_wrong_values(tmp_path, a2b):
    for values in ({"version": 0}, {"max_pixels": 63}, {"max_pixels": 10**19}):
        with pytest.raises(ValueError, match="use (1 or more|64 to 2147483648)"):
            export_saved_model(a2b, tmp_path / "new", **values)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written .*use another --output"):
        export_saved_model(a2b, tmp_path / "file")
    assert not (tmp_path / "new").exists()


def test_what_translates_otherwise_is_not_kept(tmp_path, a2b, monkeypatch):
    needed("tensorflow_serving.apis")
    other = translator(generator(seed=5))
    monkeypatch.setattr(saved_model, "translator", lambda generator: other)
    with pytest.raises(ValueError, match="differs from the generator by .* gray levels"):
        export_saved_model(a2b, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_without_tensorflow_serving_api(tmp_path, a2b, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ValueError, match="pip install") as error:
        export_saved_model(a2b, tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


# === The script ===


def test_the_script_exports_a_run_folder(tmp_path, a2b, capsys):
    needed("tensorflow_serving.apis")
    save_generator(a2b, tmp_path / "b2a.keras")
    options = {"run_dir": str(tmp_path), "output": str(tmp_path / "models" / "summer")}
    script = export_saved_model_command
    assert script.main(script.Options(**options, direction="b2a", version=7)) == 0
    assert str(tmp_path / "models" / "summer" / "7") in capsys.readouterr().out
    assert (tmp_path / "models" / "summer" / "7" / "saved_model.pb").is_file()
    with pytest.raises(ValueError, match="has only b2a.keras: use --direction=b2a"):
        script.main(script.Options(**options))
    assert script.Options(**options).max_pixels == saved_model.MAX_PIXELS
