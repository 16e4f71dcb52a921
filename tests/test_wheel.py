"""Tests that the installed wheel works from any folder, without the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--load_size=20 --crop_size=16 --filters=2 --blocks=0 --d_filters=2 --d_layers=1 --cache=none"
)


def run(*command, **settings):
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Packages of the extras: the tests have them, but a plain `pip install` does not.
EXTRAS = """
    ai_edge_litert ai_edge_quantizer apache_beam cleanfid distributed onnx onnxruntime openvino
    pillow_heif playwright tensorflow_serving tf2onnx torch
""".split()


HIDE = f"""
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Returns a folder with the wheel's content, and environment variables that use it first."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "tf_cyclegan", folder / "tf_cyclegan")
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", f"--wheel-dir={folder / 'dist'}", str(folder))
    (wheel,) = (folder / "dist").glob("*.whl")
    run(*pip, "install", "--no-deps", f"--target={folder / 'installed'}", str(wheel))
    (folder / "installed" / "sitecustomize.py").write_text(HIDE)  # Python runs it when it starts
    return folder / "installed", os.environ | {"PYTHONPATH": str(folder / "installed")}


def test_the_command_trains_translates_and_evaluates(installed, tmp_path):
    target, environment = installed
    command = (sys.executable, target / "bin" / "tf-cyclegan")
    settings = {"cwd": tmp_path, "env": environment}
    assert "tf-cyclegan COMMAND" in run(*command, "--help", **settings)
    run(*command, "train", *TINY.split(), "--max_steps=1", "--run_dir=mine", **settings)
    shutil.copy(ROOT / "docs" / "demo.png", tmp_path / "photo.png")
    run(*command, "translate", "--run_dir=mine", "--input=photo.png", "--output=out", **settings)
    assert (tmp_path / "out" / "photo.png").exists()
    assert "KID" in run(*command, "evaluate", "--run_dir=mine", **settings)
    program = "import tf_cyclegan; print(tf_cyclegan.__version__, tf_cyclegan.__file__)"
    version, file = run(sys.executable, "-c", program, **settings).split()
    assert Path(file).is_relative_to(target)
    metadata = target / f"tf_cyclegan-{version}.dist-info"
    assert (metadata / "METADATA").exists() and list(metadata.rglob("LICENSE"))
    for name in ("py.typed", "export/page/index.html", "export/page/package-lock.json"):
        assert (target / "tf_cyclegan" / name).exists()
    failed = subprocess.run(
        [*command, "export", "onnx", "--run_dir=mine", "--output=a2b.onnx"],
        capture_output=True,
        text=True,
        **settings,
    )
    assert failed.returncode == 1 and 'pip install "tf_cyclegan[export]"' in failed.stderr
