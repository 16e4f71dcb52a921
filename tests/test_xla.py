"""Tests benchmarks/xla/: a program, the runner without TensorFlow, and the run folder from it."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from cases import write_landscapes
from PIL import Image

from tf_cyclegan.cyclegan import run_network
from tf_cyclegan.data.image_files import read_image, to_float, to_uint8
from tf_cyclegan.inference.translator import find_generator
from tf_cyclegan.training.batches import TrainingData, load_dataset
from tf_cyclegan.training.callbacks import read_losses
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.run_folder import read_config

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("TF_CYCLEGAN_JAX_PYTHON", str(ROOT / ".venv-jax" / "bin" / "python"))
sys.path.append(str(ROOT))

from benchmarks.xla import bring_back, write_program  # noqa: E402

pytestmark = pytest.mark.slow

SMALL = dict(load_size=28, crop_size=24, filters=4, blocks=0, pool_size=4, images=300)


def there(program, *flags, script="run.py"):
    """Runs a script of the program as on a machine without this package and without a GPU."""
    return subprocess.run(
        [PYTHON, "-E", "-s", program / script, *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_landscapes(tmp_path_factory.mktemp("photos"), (5, 6), (40, 44))


@pytest.fixture(scope="module")
def program(photos, tmp_path_factory):
    if not Path(PYTHON).exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {PYTHON}: run `make jax`")
    written = tmp_path_factory.mktemp("xla") / "written"
    options = write_program.Options(
        str(photos), str(written), batches=(2,), precisions=("mixed_bfloat16",), **SMALL
    )
    assert write_program.main(options) == 0
    return shutil.move(written, written.with_name("program"))  # nothing in it knows its old path


@pytest.fixture(scope="module")
def checked(program):
    output = program.with_name("checked")
    done = there(program, "check", f"--output={output}", "--minutes=5", "--seconds=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    return output, json.loads((output / "check.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def trained(program, checked):
    """Trains in two calls, the second of which continues the first."""
    output = program.with_name("trained")
    flags = ("train", f"--output={output}", "--minutes=0.15", f"--check={checked[0]}")
    first = there(program, *flags, "--pause_after=0.05")
    assert first.returncode == 0, first.stderr
    paused = json.loads((output / "result.json").read_text())
    second = there(program, *flags)
    assert second.returncode == 0, second.stderr
    return output, paused, json.loads((output / "result.json").read_text())


def test_jax_does_the_steps_of_tensorflow(checked):
    tiny = checked[1]["tiny"]
    assert set(tiny) == {"full precision", "as the device computes"}
    for found in tiny.values():
        # TensorFlow's own steps with and without XLA differ by as much.
        assert found["good"] and found["counters_equal"]
        assert 0 < found["losses"] < 1e-5 and 0 < found["kernels"] < 1e-5
        assert 0 < found["fakes"] < 1e-4


def there_with(step, program, *flags):
    """Runs the program with another `Step`, the expression of a function of `pixels, state`."""
    code = """
        import sys
        sys.path.append(sys.argv.pop(1))
        import numpy, run
        numbers = iter([1.0] * 15)
        run.Step = lambda facts, highest: lambda pixels, state: (STEP, state)
        sys.exit(run.main())
    """
    code = textwrap.dedent(code).replace("STEP", step)
    return subprocess.run(
        [PYTHON, "-I", "-c", code, program, *flags], capture_output=True, text=True
    )


def test_another_result_is_not_good_and_the_time_is_a_limit(program, tmp_path):
    done = there_with("numpy.zeros(9)", program, "check", f"--output={tmp_path}", "--minutes=0.01")
    assert done.returncode == 1, done.stderr
    result = json.loads((tmp_path / "check.json").read_text())
    assert not result["tiny"]["full precision"]["good"]
    assert {entry["error"] for entry in result["times"]} == {"no time left"}


def test_before_nan_is_what_counts(program, tmp_path):
    copy = shutil.copytree(program, tmp_path / "program")
    (copy / "checkpoint.npz").unlink(missing_ok=True)
    output = tmp_path / "out"
    flags = ("train", "--name=mixed_bfloat16_2", f"--output={output}", "--minutes=1")
    done = there_with("numpy.full(9, next(numbers, numpy.nan))", copy, *flags, "--save_minutes=0")
    assert done.returncode == 1
    assert "g_adv_a2b at step 20 is not finite: the results are of step 10" in done.stderr
    result = json.loads((output / "result.json").read_text())
    assert result["steps"] == 10 and not result["complete"]
    assert all((output / file).exists() for file in result["files"])


def test_every_step_is_timed(checked):
    _, result, printed = checked
    assert [entry["name"] for entry in result["times"]] == ["mixed_bfloat16_2"]
    for entry in result["times"]:
        assert entry["seconds"] > 0 and entry["bytes"] > 1e5
        assert f"{1000 * entry['seconds']:.2f} ms a step" in printed
    assert "PyTorch is not installed: our step is timed alone" in printed


def test_images_are_those_of_the_pipeline_to_the_last_bit(program, photos):
    facts = json.loads((program / "program.json").read_text())
    config = Config(**facts["config"] | {"batch_size": 2})
    data = TrainingData(load_dataset(config), config)
    code = (
        "import json, sys; sys.path.append(sys.argv[1])\nimport numpy as np, run\n"
        "images = run.Images(json.loads((run.HERE / 'program.json').read_text()))\n"
        "np.save(sys.argv[2], [images.batches(step, 2) for step in range(20)])"
    )
    target = program.with_name("seen.npy")
    subprocess.run([PYTHON, "-I", "-c", code, program, target], check=True)
    for seen, pair in zip(np.load(target), data.batches(0, 20), strict=True):
        for images, real in zip(seen, pair, strict=True):
            np.testing.assert_array_equal(to_float(images), real)


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA's compiler is for Linux")
def test_every_step_compiles_for_a_gpu(program):
    done = there(program, script="compile_for_gpu.py")
    assert done.returncode == 0, done.stderr
    for name, line in zip(("check", "mixed_bfloat16_2"), done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{name}: 0.0") and "; 0 convolutions without cuDNN; " in line
        assert "__cudnn$convBackwardFilter" in line and "__cudnn$convBackwardInput" in line
    done = there(program, "float32_9", script="compile_for_gpu.py")
    assert done.returncode == 1 and done.stderr == "error: the program has no step float32_9.\n"


def test_training_falls_and_follows_the_clock(trained):
    output, paused, result = trained
    assert not paused["complete"] and result["complete"]
    assert 0 < paused["steps"] < result["steps"] and 8 < result["seconds"] < 60
    with np.load(output / "losses.npz") as file:
        losses = dict(zip(result["losses"], file["losses"].T, strict=True))
    np.testing.assert_array_equal(losses["step"], 10 * np.arange(1, 1 + len(losses["step"])))
    for name in ("cycle_a", "cycle_b"):
        assert losses[name][-3:].mean() < 0.7 * losses[name][:3].mean()
    rates = losses["learning_rate"]
    assert rates[0] == np.float32(2e-4) and rates[-1] < 4e-5 and (np.diff(rates) <= 0).all()
    assert set(result["files"]) == {"sheet.png", "losses.npz", "a2b_0.npz", "b2a_0.npz"}


def test_the_results_become_a_run_folder(program, trained, tmp_path):
    output, _, result = trained
    run = tmp_path / "run"
    options = bring_back.Options(str(program), str(output), str(run))
    assert bring_back.main(options) == 0
    assert read_config(run).filters == 4
    rows = read_losses(run / "losses.csv")
    assert rows[-1]["step"] == result["steps"] and "cycle_a" in rows[0]
    # The contact sheet there shows what the generator computes here, but for float16.
    sheet = read_image(run / "samples" / f"step_{result['steps']:07d}.png").astype(int)
    real = np.stack(np.split(sheet[:24], sheet.shape[1] // 24, axis=1)).astype(np.uint8)
    fake = run_network(find_generator(run, "a2b"), to_float(real), training=False)
    shown = np.stack(np.split(sheet[24:48], len(real), axis=1))
    assert abs(to_uint8(fake.numpy()).astype(int) - shown).max() <= 2 and shown.std() > 5
    with pytest.raises(ValueError, match="is not empty: use another --run_dir"):
        bring_back.main(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_megabytes": 0.001}, "the images take .* larger --max_megabytes"),
        ({"data_dir": "nowhere"}, "nowhere is not a folder"),
    ],
)
def test_mistakes_write_nothing(photos, tmp_path, changes, message):
    folder = tmp_path / "program"
    given = {"data_dir": str(photos), "folder": str(folder)} | SMALL | changes
    with pytest.raises(ValueError, match=message):
        write_program.main(write_program.Options(**given))
    assert not folder.exists()


def test_an_image_that_the_runner_would_read_in_another_way_is_refused(photos, tmp_path):
    data_dir = shutil.copytree(photos, tmp_path / "photos")
    Image.new("RGBA", (40, 40), (255, 0, 0, 90)).save(data_dir / "trainB" / "7.png")
    options = write_program.Options(str(data_dir), str(tmp_path / "program"), **SMALL)
    with pytest.raises(ValueError, match=r"trainB/7.png has a color profile, .* plain RGB image"):
        write_program.main(options)
    assert not (tmp_path / "program").exists()


def test_mistakes_there_give_one_line(program, tmp_path):
    for flags, message in (
        (("train",), "error: give --check, the folder that check wrote, or --name of a step."),
        (("train", "--name=float32_9"), "error: the program has no step float32_9"),
    ):
        done = there(program, *flags, f"--output={tmp_path}", "--minutes=1")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(message)
