"""Tests LiteRT files in every mode, and export/tflite.py through its main()."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, make

from tf_cyclegan.cli import export_tflite
from tf_cyclegan.data.image_files import read_image, write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.export.compare import difference
from tf_cyclegan.export.model_file import check_operators, operators, read_description
from tf_cyclegan.export.tflite import (
    CALIBRATED,
    MODES,
    LiteModel,
    convert,
    describe,
    export_files,
)
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.run_folder import save_generator

SCRIPT = Path(__file__).resolve().parents[1] / "export" / "tflite.py"


@pytest.fixture(scope="module")
def generator():
    return make(CASES["resnet_resize"])


@pytest.fixture(scope="module")
def images():
    """Returns smooth images `[1, 16, 16, 3]`."""
    scenes = [landscape(i, "summer", 16, 16, 0) for i in range(4)]
    return [(image / 127.5 - 1).astype(np.float32)[np.newaxis] for image in scenes]


@pytest.fixture(scope="module")
def script():
    return export_tflite


# === The library ===


@pytest.fixture(scope="module")
def exported(generator, images):
    description = describe(generator, "sum", "a2b", 16, resizable=False)
    return export_files(generator, description, list(MODES), images, images)


def test_every_mode_is_near_keras(exported, generator, images):
    files, report, _ = exported
    for mode in MODES:
        content = files[f"a2b_16_{mode}.tflite"]
        run = LiteModel(content)
        apart = difference([run(x) for x in images], [generator(x).numpy() for x in images])
        assert apart["psnr"] >= MODES[mode]
        assert apart["psnr"] == pytest.approx(report["modes"][mode]["difference"]["psnr"], abs=0.1)
    assert report["modes"]["float32"]["difference"]["max"] < 1e-4
    assert report["modes"]["float16"]["difference"]["max"] > 1e-5  # not float32


def test_modes_differ_in_what_they_hold(exported):
    files, report, _ = exported
    holds = {mode: set(report["modes"][mode]["operators"]) for mode in MODES}
    assert {"QUANTIZE", "DEQUANTIZE"} & holds["float32"] == set()
    assert "QUANTIZE" not in holds["dynamic"] | holds["float16"]
    assert all("QUANTIZE" in holds[mode] for mode in CALIBRATED)
    # int8 also quantizes the norm, int8_convolutions does not.
    convolutions = operators(files["a2b_16_int8_convolutions.tflite"])
    assert convolutions["QUANTIZE"] > operators(files["a2b_16_int8.tflite"])["QUANTIZE"]
    for mode in MODES:
        check_operators(files[f"a2b_16_{mode}.tflite"])


def test_a_separable_generator_is_one_piece(images):
    network = make(CASES["resnet_separable"])
    description = describe(network, "student", "a2b", 16, resizable=False)
    modes = ["float32", "float16", "dynamic"]
    files, report, _ = export_files(network, description, modes, [], images)
    assert [report["modes"][mode]["partitions"] for mode in modes] == [1, 1, 1]
    assert report["weights"] == network.count_params()
    for mode in modes:
        check_operators(files[f"a2b_16_{mode}.tflite"])


def test_fixed_size_float_modes_are_one_piece(exported):
    _, report, _ = exported
    assert [report["modes"][m]["partitions"] for m in ("float32", "float16", "dynamic")] == [1] * 3


def test_the_description_beside_a_file_is_the_one_inside(exported):
    files, _, _ = exported
    for mode in MODES:
        content = files[f"a2b_16_{mode}.tflite"]
        beside = json.loads(files[f"a2b_16_{mode}.json"])
        assert beside.pop("sha256") == hashlib.sha256(content).hexdigest()
        assert beside.pop("bytes") == len(content)
        assert beside.pop("file") == f"a2b_16_{mode}.tflite"
        assert beside == read_description(content)
        assert beside["mode"] == mode and beside["height"] == beside["width"] == 16
        assert beside["color"] == "RGB" and beside["range"] == [-1, 1] and not beside["resizable"]


def test_the_report_measures_all(exported, images):
    _, report, sheet = exported
    assert report["calibration"] == report["compared"] == len(images)
    assert report["keras_milliseconds"] > 0
    for mode, measured in report["modes"].items():
        assert measured["milliseconds"] > 0, mode
    assert sheet.dtype == np.uint8 and sheet.std() > 10


def test_resizable_files_take_every_multiple(generator, images):
    description = describe(generator, "sum", "b2a", 16, resizable=True)
    modes = ["float32", "float16", "dynamic"]
    files, report, _ = export_files(generator, description, modes, (), images)
    for mode in modes:
        assert read_description(files[f"b2a_resizable_{mode}.tflite"])["resizable"]
        run = LiteModel(files[f"b2a_resizable_{mode}.tflite"])
        for height, width in ((16, 16), (8, 24), (40, 12)):
            x = np.random.default_rng(0).uniform(-1, 1, (1, height, width, 3)).astype(np.float32)
            fake = run(x)
            assert fake.shape == x.shape
            assert difference([fake], [generator(x).numpy()])["psnr"] >= MODES[mode]
        for height, width in ((18, 16), (16, 30)):
            with pytest.raises(ValueError, match=rf"does not take \(1, {height}, {width}, 3\)"):
                run(np.zeros((1, height, width, 3), np.float32))
        assert run(x).shape == x.shape  # valid sizes still work


def test_a_file_need_not_be_square(generator):
    description = describe(generator, "wide", "a2b", (16, 24), resizable=False)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 24, 3)).astype(np.float32)
    files, report, sheet = export_files(generator, description, ["float32", "int8"], [x], [x])
    assert sorted(files) == [
        *("a2b_24x16_float32.json", "a2b_24x16_float32.tflite"),  # width x height
        *("a2b_24x16_int8.json", "a2b_24x16_int8.tflite"),
    ]
    beside = json.loads(files["a2b_24x16_float32.json"])
    assert (beside["height"], beside["width"]) == (16, 24)
    assert report["modes"]["float32"]["difference"]["max"] < 1e-4
    assert report["modes"]["float32"]["partitions"] == 1
    assert sheet.shape[1] > sheet.shape[0]
    run = LiteModel(files["a2b_24x16_float32.tflite"])
    for height, width in ((24, 16), (16, 16), (24, 24), (8, 48)):
        with pytest.raises(ValueError, match="does not take"):
            run(np.zeros((1, height, width, 3), np.float32))


def test_a_size_that_a_file_does_not_take_is_an_error(exported):
    run = LiteModel(exported[0]["a2b_16_float32.tflite"])
    with pytest.raises(ValueError, match=r"does not take \(1, 32, 32, 3\)"):
        run(np.zeros((1, 32, 32, 3), np.float32))


def test_gray():
    generator = make(CASES["resnet_gray"])
    x = np.random.default_rng(0).uniform(-1, 1, (1, 8, 12, 3)).astype(np.float32)[:, :, :8]
    description = describe(generator, "gray", "a2b", 8, resizable=False)
    files, report, _ = export_files(generator, description, ["float32"], (), [x])
    assert LiteModel(files["a2b_8_float32.tflite"])(x).shape == (1, 8, 8, 1)
    assert report["output_channels"] == 1


def broken(generator, value):
    copy = type(generator).from_config(generator.get_config())
    copy.build((None, None, None, 3))
    copy.set_weights([np.full_like(weight, value) for weight in generator.get_weights()])
    return copy


def test_a_generator_of_nan_is_refused(generator, images):
    description = describe(generator, "nan", "a2b", 16, resizable=False)
    with pytest.raises(ValueError, match="float32: nan dB against Keras"):
        export_files(broken(generator, np.nan), description, ["float32"], (), images)


def test_the_converters_silent_garbage_would_be_refused(generator, images, tmp_path):
    """A tf.Module of a Keras 3 model with two signatures converts to NaN or noise silently."""
    module = tf.Module()
    module.model = generator
    spec = tf.TensorSpec([1, 16, 16, 3])
    one = tf.function(lambda image: {"image": generator(image)}).get_concrete_function(spec)
    two = tf.function(lambda image: {"image": -generator(image)}).get_concrete_function(spec)
    tf.saved_model.save(module, str(tmp_path), {"one": one, "two": two})
    content = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path), signature_keys=["one", "two"]
    ).convert()
    fakes = [LiteModel(content)(x) for x in images]
    apart = difference(fakes, [generator(x).numpy() for x in images])
    assert not apart["psnr"] >= MODES["float32"]


def test_a_mode_too_far_from_keras_is_refused(generator, images, monkeypatch):
    monkeypatch.setitem(MODES, "dynamic", 200.0)
    description = describe(generator, "far", "a2b", 16, resizable=False)
    with pytest.raises(ValueError, match="^dynamic: .* dB against Keras, 200 is the minimum"):
        export_files(generator, description, ["float32", "dynamic"], (), images)


@pytest.mark.parametrize("mode", sorted(CALIBRATED))
def test_calibration_must_be_given(generator, images, mode):
    with pytest.raises(ValueError, match="calibrated on images: give a folder with --images"):
        convert(generator, mode, 16)
    with pytest.raises(ValueError, match="one size: leave --resizable out"):
        convert(generator, mode, None, images)


def test_an_unknown_mode_is_named(generator):
    with pytest.raises(ValueError, match="mode 'int4' is not known: use float32, float16"):
        convert(generator, "int4", 16)


# === The script ===


@pytest.fixture
def run(tmp_path, generator):
    """Returns a run folder that uses the built-in dataset."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_generator(generator, folder / "a2b.keras")
    config = Config(load_size=18, crop_size=16)
    (folder / "config.json").write_text(config.to_json())
    return folder


def test_script_writes_files_and_report(script, run, tmp_path, capsys):
    options = script.Options(str(run), str(tmp_path / "out"), modes="float32,int8")
    assert script.main(options) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        *("a2b_16_float32.json", "a2b_16_float32.tflite", "a2b_16_int8.json", "a2b_16_int8.tflite"),
        *("a2b_16_report.json", "a2b_16_report.png"),
    ]
    report = json.loads((tmp_path / "out" / "a2b_16_report.json").read_text())
    assert report["name"] == "run" and report["calibration"] == 32 and report["compared"] == 8
    assert read_image(tmp_path / "out" / "a2b_16_report.png").shape[1] > 4 * 128
    printed = capsys.readouterr().out
    assert "a2b_16_int8.tflite" in printed and "8 images of 16x16" in printed


def test_script_takes_other_images_sizes_and_one_generator(script, run, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        write_image(images / f"{i}.png", landscape(i, "winter", 20, 30, 0))
    arguments = ("--size=24x16", "--modes= float32", f"--images={images}")
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--run_dir={run / 'a2b.keras'}", *arguments]
        + [f"--output={tmp_path / 'out'}", "--name=mine"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "3 images of 24x16" in done.stdout
    description = json.loads((tmp_path / "out" / "a2b_24x16_float32.json").read_text())
    assert description["name"] == "mine" and description["height"] == 16


@pytest.mark.parametrize(
    "change, cause",
    [
        ({"run_dir": "{run}/a2b.keras"}, "is a file without images: name some with --images"),
        ({"size": "30"}, "size is 30: use a multiple of 4"),
        ({"size": "32x30"}, "size is 32x30: use a multiple of 4"),
        ({"modes": "float32,int4"}, "mode 'int4' is not known"),
        ({"direction": "b2a"}, "has only a2b.keras: use --direction=a2b"),
        ({"modes": "int8", "resizable": True}, "leave --resizable out"),
        ({"images": ("{run}/missing",)}, "missing"),
    ],
)
def test_script_refuses_in_one_line_and_leaves_nothing(script, run, tmp_path, change, cause):
    arguments = {"run_dir": str(run), "output": str(tmp_path / "out"), "modes": "float32"}
    for name, value in change.items():
        if isinstance(value, str):
            value = value.format(run=run)
        if isinstance(value, tuple):
            value = tuple(path.format(run=run) for path in value)
        arguments[name] = value
    with pytest.raises(ValueError, match=cause) as error:
        script.main(script.Options(**arguments))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_script_of_a_generator_of_nan_leaves_nothing(script, run, tmp_path, generator):
    save_generator(broken(generator, np.nan), run / "a2b.keras")
    with pytest.raises(ValueError, match="a2b.keras.*holds NaN or infinity"):
        script.main(script.Options(str(run), str(tmp_path / "out"), modes="float32"))
    assert not (tmp_path / "out").exists()
