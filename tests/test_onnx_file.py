"""Tests ONNX files, and export/onnx_file.py as a program."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from cases import CASES, make

from tf_cyclegan.export import onnx_file
from tf_cyclegan.export.onnx_file import export_onnx, onnx_runner
from tf_cyclegan.export.tflite import LiteModel, convert
from tf_cyclegan.generators import as_generator
from tf_cyclegan.training.run_folder import save_generator

SCRIPT = Path(__file__).resolve().parents[1] / "export" / "onnx_file.py"


def noise(n, height, width, channels=3):
    image = np.random.default_rng(0).uniform(-1, 1, (n, height, width, channels))
    return image.astype(np.float32)


@pytest.mark.parametrize("case", ["resnet", "resnet_resize", "resnet_gray", "unet_batch"])
def test_any_batch_and_size_is_near_keras(case, tmp_path):
    generator = make(CASES[case])
    path = tmp_path / "new" / "model.onnx"
    apart = export_onnx(generator, path, noise(1, 16, 16))
    assert apart["max"] < 1e-4
    for n, height, width in ((1, 16, 16), (3, 24, 8)):
        image = noise(n, height, width)
        np.testing.assert_allclose(onnx_runner(path)(image), generator(image), rtol=0, atol=1e-4)
    for height, width in ((18, 16), (16, 15), (0, 16)):
        with pytest.raises(ValueError, match="does not take .*sides_are_multiples_of_4"):
            onnx_runner(path)(noise(1, height, width).astype(np.float32))
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def test_a_network_of_your_own_takes_multiples_only(tmp_path):
    layers = keras.layers.Conv2D(4, 3, 2, "same"), keras.layers.Conv2DTranspose(3, 3, 2, "same")
    own = as_generator(keras.Sequential([keras.Input((None, None, 3)), *layers]), multiple=4)
    export_onnx(own, tmp_path / "own.onnx", noise(1, 8, 8))
    assert onnx_runner(tmp_path / "own.onnx")(noise(1, 8, 12)).shape == (1, 8, 12, 3)
    run = LiteModel(convert(own, "float32", None))
    assert run(noise(1, 8, 12)).shape == (1, 8, 12, 3)
    for runner in (onnx_runner(tmp_path / "own.onnx"), run):
        with pytest.raises(ValueError, match="does not take"):
            runner(noise(1, 9, 12))  # of which it would make 10 x 12 pixels


def test_metadata_and_dimensions_say_what_the_file_takes(tmp_path):
    generator = make(CASES["resnet_gray"])
    export_onnx(generator, tmp_path / "model.onnx", noise(1, 8, 8), "öl", "b2a")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map == {
        **{"format": "1", "name": "öl", "direction": "b2a", "layout": "NHWC", "color": "RGB"},
        **{"input_channels": "3", "output_channels": "1", "multiple": "4"},
        **{"range": "[-1, 1]", "mean": "127.5", "std": "127.5"},
    }
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_outputs()[0].shape == ["batch", "height", "width", 1]


def test_what_is_no_onnx_file_is_named(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: ") as error:
            onnx_runner(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [1, 2])
def test_a_file_of_another_shape_is_written_again_or_refused(tmp_path, monkeypatch, wrong):
    """tf2onnx sometimes drops a Squeeze: the test simulates this for the first exports."""
    exports = []

    def runner(path):
        exports.append(path)
        run = onnx_runner(path)
        return lambda image: run(image)[None] if len(exports) <= wrong else run(image)

    monkeypatch.setattr(onnx_file, "onnx_runner", runner)
    monkeypatch.setattr(onnx_file, "TRIES", 2)
    path = tmp_path / "model.onnx"
    arguments = make(CASES["resnet"]), path, noise(1, 16, 16)
    if wrong < onnx_file.TRIES:
        assert export_onnx(*arguments)["max"] < 1e-4
        assert len(exports) == wrong + 1 and path.exists()
    else:
        with pytest.raises(ValueError, match=r"shape \(1, 1, 16, 16, 3\) should have \(1, 16,"):
            export_onnx(*arguments)
        assert list(tmp_path.iterdir()) == []


def test_what_is_far_from_keras_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 0)
    with pytest.raises(ValueError, match="from Keras: nothing was written"):
        export_onnx(make(CASES["resnet"]), tmp_path / "model.onnx", noise(1, 16, 16))
    assert list(tmp_path.iterdir()) == []


def test_script(tmp_path):
    save_generator(make(CASES["resnet"]), tmp_path / "a2b.keras")
    command = [sys.executable, SCRIPT, f"--run_dir={tmp_path}", f"--output={tmp_path}/a2b.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "from Keras at most" in done.stdout
    assert onnx_runner(tmp_path / "a2b.onnx")(noise(1, 8, 8)).shape == (1, 8, 8, 3)
    meta = onnxruntime.InferenceSession(tmp_path / "a2b.onnx").get_modelmeta().custom_metadata_map
    assert meta["direction"] == "a2b" and meta["name"] == tmp_path.name
