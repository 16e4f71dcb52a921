"""Tests export/compare.py after the exporters, one photo in every runtime, and time_files.py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras.src.utils import module_utils

from tf_cyclegan.cli import export_onnx, export_tflite
from tf_cyclegan.data.image_files import write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.export.gpu_gate import CHROMIUM
from tf_cyclegan.export.model_file import seal
from tf_cyclegan.export.tflite import convert, describe
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.training.run_folder import save_generator

pytestmark = pytest.mark.slow

EXPORT = Path(__file__).resolve().parents[1] / "export"
EXACT = ["Keras", "SavedModel, TensorFlow", "SavedModel, gRPC, floats", "SavedModel, REST, floats"]
NEAR = [
    *("SavedModel, OpenVINO", "ONNX Runtime", "LiteRT, float32"),
    *("LiteRT in Chromium, float32", "LiteRT on software Vulkan, float32"),
]
ONE_LEVEL = ["SavedModel, gRPC, PNG", "SavedModel, REST, PNG"]


def missing():
    """Returns the names of programs and packages that are needed but not installed."""
    absent = [p for p in ("chromium", "npm") if shutil.which(p) is None]
    absent += [m for m in ("openvino", "playwright") if importlib.util.find_spec(m) is None]
    return absent + ([] if CHROMIUM.exists() else ["SwiftShader"])


def run(script, **flags):
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run(
        [sys.executable, EXPORT / script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(bool(missing()) and "CI" not in os.environ, reason=f"absent: {missing()}")
def test_the_same_photo_through_every_runtime(tmp_path):
    keras.utils.set_random_seed(0)
    generator = ResNetGenerator(filters=4, blocks=1, upsampling="resize")
    generator.build((None, None, None, 3))
    generator.set_weights([10 * weight for weight in generator.get_weights()])
    save_generator(generator, tmp_path / "a2b.keras")
    common = {"run_dir": tmp_path, "direction": "a2b"}
    (tmp_path / "photos").mkdir()
    for i in range(3):
        write_image(tmp_path / "photos" / f"{i}.png", landscape(i, "summer", 40, 56, 0))
    images = {"images": tmp_path / "photos"}
    modes = "float32,dynamic,int8"
    run("saved_model.py", **common, output=tmp_path / "saved")
    run("onnx_file.py", **common, output=tmp_path / "a2b.onnx")
    run("tflite.py", **common, **images, size=32, modes=modes, output=tmp_path / "lite")
    printed = run(
        "compare.py",
        **(common | images),
        saved_model=tmp_path / "saved",
        tflite=tmp_path / "lite",
        onnx=tmp_path / "a2b.onnx",
        output=tmp_path / "compared",
        rounds=1,
    )

    result = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert result["images"] == 3
    rows = result["runtimes"]
    lite = [f"LiteRT, {mode}" for mode in modes.split(",")]
    assert set(rows) == {*EXACT, *NEAR, *ONE_LEVEL, *lite}
    for name in EXACT:
        assert rows[name]["difference"]["max"] == 0, name
    for name in NEAR:
        assert 0 < rows[name]["difference"]["max"] < 2e-4, name
    for name in ONE_LEVEL:
        assert 0 < rows[name]["difference"]["max"] < 1.01 / 127.5, name
    assert all(rows[name]["difference"]["psnr"] > 18 for name in lite)
    timed = set(rows) - {"LiteRT on software Vulkan, float32"}
    assert all(rows[name]["milliseconds"] > 0 for name in timed)
    table = (tmp_path / "compared" / "comparison.md").read_text()
    assert table.count("\n") == 2 + len(rows) and printed.endswith(table)


@pytest.mark.parametrize(
    "module, package, output",
    [(export_tflite, "ai_edge_litert.interpreter", "out"), (export_onnx, "tf2onnx", "out.onnx")],
)
def test_a_missing_package_is_named(module, package, output, tmp_path, monkeypatch, capsys):
    generator = ResNetGenerator(filters=2, blocks=0)
    generator.build((None, None, None, 3))
    save_generator(generator, tmp_path / "a2b.keras")
    for name in [*sys.modules]:
        if name.startswith("tf_cyclegan.export.") or name == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(module_utils.tf2onnx, "module", None)  # Keras keeps it once it is imported
    monkeypatch.setattr(
        sys, "argv", ["x", f"--run_dir={tmp_path}", f"--output={tmp_path / output}"]
    )
    with pytest.raises(SystemExit) as end:
        module.cli()
    assert end.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and package in last
    assert 'pip install "tf_cyclegan[export]' in last


def test_files_are_timed_beside_the_first_of_their_mode(tmp_path):
    paths = []
    for filters, size in ((4, 16), (2, 16), (2, 24)):
        generator = ResNetGenerator(filters, blocks=0)
        generator.build((None, None, None, 3))
        description = describe(generator, "mine", "a2b", size, resizable=False)
        content = convert(generator, "float32", size)
        paths.append(tmp_path / f"{filters}_{size}.tflite")
        paths[-1].write_bytes(seal(content, description | {"mode": "float32"}))
    large, small, other = map(str, paths)
    script = [sys.executable, EXPORT / "time_files.py", "--rounds=2", "--threads=1", "--files"]
    done = subprocess.run([*script, large, small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, *rows = (line.strip("| ").split(" | ") for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == [large, small] and rows[0][-1] == "1.0"
    assert float(rows[1][-1]) == pytest.approx(float(rows[0][-2]) / float(rows[1][-2]), rel=0.1)
    done = subprocess.run([*script, large, other], capture_output=True, text=True)
    assert done.returncode == 1 and "one fixed size" in done.stderr


def test_a_folder_without_files_is_named(tmp_path):
    arguments = (f"--run_dir={tmp_path}", f"--saved_model={tmp_path}", f"--tflite={tmp_path}")
    done = subprocess.run(
        [sys.executable, EXPORT / "compare.py", *arguments, "--onnx=x", f"--output={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}")
