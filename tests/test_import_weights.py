import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_cyclegan.cli import import_weights
from tf_cyclegan.inference.translator import load_translator
from tf_cyclegan.interop import load_generator, save_torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "import_weights.py"
REFERENCE = ROOT / "tests" / "goldens" / "reference_resnet_9blocks_net_G_A.pth"

pytest.importorskip("torch", reason="the authors' .pth files need PyTorch")


def run(checkpoint, direction, output):
    return import_weights.main(import_weights.Options(str(checkpoint), direction, str(output)))


def test_the_folder_translates_like_the_file(tmp_path):
    assert run(REFERENCE, "a2b", tmp_path / "new" / "theirs") == 0
    folder = tmp_path / "new" / "theirs"
    assert sorted(path.name for path in folder.iterdir()) == ["a2b.keras", "import.json"]
    assert json.loads((folder / "import.json").read_text()) == {
        "a2b": {
            "file": REFERENCE.name,
            "sha256": hashlib.sha256(REFERENCE.read_bytes()).hexdigest(),
            "network": "ResNetGenerator",
            "input_channels": 3,
            "filters": 8,
            "blocks": 9,
            "channels": 3,
            "upsampling": "transpose",
            "norm": "instance",
            "dropout": 0.0,
        }
    }
    image = np.random.default_rng(0).integers(0, 256, (18, 21, 3), np.uint8)
    ours, theirs = (load_translator(path, "a2b")(image) for path in (folder, REFERENCE))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="has only a2b.keras: use --direction=a2b"):
        load_translator(folder, "b2a")


def test_both_directions_share_a_folder_and_neither_is_replaced(tmp_path):
    other = tmp_path / "other.pth"
    generator = load_generator(REFERENCE)
    generator.weights[0].assign(generator.weights[0] + 1)
    save_torch(generator, other)
    folder = tmp_path / "theirs"
    run(REFERENCE, "a2b", folder)
    run(other, "b2a", folder)
    record = json.loads((folder / "import.json").read_text())
    assert {d: origin["file"] for d, origin in record.items()} == {
        "a2b": REFERENCE.name,
        "b2a": "other.pth",
    }
    before = (folder / "a2b.keras").read_bytes()
    with pytest.raises(ValueError, match="a2b.keras exists and is not from .*use another --output"):
        run(other, "a2b", folder)
    assert (folder / "a2b.keras").read_bytes() == before
    assert json.loads((folder / "import.json").read_text()) == record
    assert run(REFERENCE, "a2b", folder) == 0  # importing the same file again is allowed


def test_a_trained_generator_is_not_replaced(tmp_path):
    (tmp_path / "a2b.keras").write_bytes(b"trained for a week")
    with pytest.raises(ValueError, match="a2b.keras exists and is not from"):
        run(REFERENCE, "a2b", tmp_path)
    assert (tmp_path / "a2b.keras").read_bytes() == b"trained for a week"
    assert not (tmp_path / "import.json").exists()


def test_a_keras_file_needs_no_import(tmp_path):
    file = tmp_path / "a2b.KERAS"
    file.touch()
    with pytest.raises(ValueError, match="a2b.KERAS needs no conversion: use it .* as --run_dir"):
        run(file, "a2b", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "checkpoints"])
def test_a_run_folder_is_not_written_to(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="holds a training run, whose next save .* another --outp"):
        run(REFERENCE, "a2b", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 10**5])
def test_a_damaged_record_is_named_and_kept(tmp_path, content):
    (tmp_path / "import.json").write_bytes(content)
    with pytest.raises(ValueError, match="import.json cannot be read .*remove it, or use") as error:
        run(REFERENCE, "a2b", tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "import.json").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["import.json"]


def test_errors_are_one_line_and_exit_code_1(tmp_path):
    flags = [f"--checkpoint={tmp_path}/none.pth", "--direction=a2b", f"--output={tmp_path}/out"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        f"error: {tmp_path}/none.pth does not exist: give a .keras file or a .pth file."
    ]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
