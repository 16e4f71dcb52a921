"""Tests benchmarks/xla_program.py and xla_run.py, which train with JAX alone."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.data.image_files import to_float, to_uint8
from tf_cyclegan.training.batches import TrainingData, load_dataset
from tf_cyclegan.training.callbacks import read_losses
from tf_cyclegan.training.config import PRESETS, Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy
from tf_cyclegan.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("TF_CYCLEGAN_JAX_PYTHON", str(ROOT / ".venv-jax" / "bin" / "python"))
sys.path.append(str(ROOT / "benchmarks"))

import xla_program  # noqa: E402
from xla_program import Options, state_variables  # noqa: E402

STEPS = 5  # the run's third step fills the pools
TINY = dataclasses.replace(
    Config(**PRESETS["demo"]),
    dataset="synthetic/summer2winter",
    load_size=28,
    crop_size=24,
    filters=4,
    blocks=0,
    d_filters=4,
    d_layers=1,
    pool_size=6,
    max_steps=2 + STEPS,
    sample_every=0,
    watch_every=0,
    batch_size=2,
)

# With and without XLA, momenta in TensorFlow differ by 3e-5 after five steps, and biases by 1e-3:
# instance norm cancels most biases, so their gradients are only rounding errors, which Adam scales
# to full steps in random directions. Their slots in Adam have the same tolerance as all others.
TOLERANCES = {"kernel": 1e-6, "momentum": 1e-4, "bias": 2 * STEPS * TINY.learning_rate}


def run_there(folder, *flags):
    """Runs a copy of xla_run.py next to the folder, as on a machine without this package."""
    shutil.copy(ROOT / "benchmarks" / "xla_run.py", folder.parent)
    return subprocess.run(
        [PYTHON, "-I", "xla_run.py", folder.name, *flags],
        cwd=folder.parent,
        capture_output=True,
        text=True,
    )


def make_run(path, config):
    """Creates a run folder with a checkpoint after one step, and trains on in TensorFlow.

    Returns:
        A list of the states and a list of the losses, after each step from the first on.
    """
    data = TrainingData(load_dataset(config), config)
    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    step = tf.function(lambda *real: strategy.run(model.train_step, args=(real,)), autograph=False)
    states, losses = [], []
    with RunFolder(path, config, load_dataset(config)) as run:
        run.attach(model)
        for real in data.batches(0, 1 + STEPS):
            losses.append([float(loss) for loss in step(*real).values()])
            states.append({name: np.array(v) for name, v in state_variables(model).items()})
            if len(states) == 1:
                run.save()
    return states, losses


def npz(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """Runs a program in two parts, from a run folder at step 1, and the same in TensorFlow."""
    if not Path(PYTHON).exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {PYTHON}: run `make jax`")
    folder = tmp_path_factory.mktemp("xla")
    states, losses = make_run(folder / "run", TINY)
    options = Options(str(folder / "run"), str(folder / "program"), STEPS)
    assert xla_program.main(options) == 0
    started = npz(folder / "program" / "state.npz")
    first = run_there(folder / "program", "--steps=2")
    (folder / "program" / "state.part").write_bytes(b"killed here")
    between = npz(folder / "program" / "state.npz")
    second = run_there(folder / "program", "--peak_teraflops=1", "--highest_precision")
    return folder, states, losses, started, between, (first, second)


def check_state(found, states, losses, steps):
    """Compares the program's state and losses with TensorFlow's after `steps` steps."""
    found = dict(found)
    logged = np.array(losses[1 : 1 + steps], np.float32).reshape(steps, len(losses[0]))
    np.testing.assert_allclose(found.pop("losses"), logged, rtol=1e-5, atol=1e-5)
    assert found.keys() == states[steps].keys()
    for name, value in states[steps].items():
        assert found[name].dtype == value.dtype
        if name.startswith("mean_"):  # of an epoch, which a new process resets
            continue
        kind = name.rpartition("_")[2]
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=TOLERANCES.get(kind, 1e-5), err_msg=name
        )


def test_jax_does_the_steps_of_tensorflow(worked):
    folder, states, losses, started, between, _ = worked
    check_state(started, states, losses, 0)
    check_state(between, states, losses, 2)
    check_state(npz(folder / "program" / "state.npz"), states, losses, STEPS)
    assert between["pool_a/seen"] == 6 and between["step"] == 3


def test_the_program_is_plain_stablehlo(worked):
    folder = worked[0]
    text = (folder / "program" / "step.mlir").read_text()
    assert "custom_call" not in text and "mhlo.copy" not in text
    program = json.loads((folder / "program" / "program.json").read_text())
    assert program["outputs"] == program["inputs"]  # a step changes everything it reads
    for i, name in enumerate(program["inputs"]):  # no input became a constant
        assert text[text.index("@main(") :].count(f"%arg{i + 2}") > 1, name


def test_the_runner_says_how_fast(worked):
    first, second = worked[-1]
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "step 3, 3 left: g_adv_a2b" in first.stdout
    assert "step 6, 0 left" in second.stdout
    assert "ms a step" in second.stdout and "% of 1 TFLOP/s" in second.stdout


def test_images_are_those_of_the_pipeline_to_the_last_bit(worked):
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(levels)), levels)
    data = TrainingData(load_dataset(TINY), TINY)
    for i, pair in enumerate(data.batches(1, 1 + STEPS)):
        for domain, real in zip("ab", pair, strict=True):
            stored = np.load(worked[0] / "program" / f"real_{domain}.npy", mmap_mode="r")
            np.testing.assert_array_equal(to_float(stored[i]), real)


def test_the_state_comes_back_and_training_goes_on(worked, tmp_path):
    folder = worked[0]
    shutil.copytree(folder / "run", tmp_path / "run")
    back = Options(str(tmp_path / "run"), str(folder / "program"), bring_back=True)
    assert xla_program.main(back) == 0
    with pytest.raises(ValueError, match="is at step 6, .* goes from step 1 to 6"):
        xla_program.main(back)
    config = dataclasses.replace(TINY, run_dir=str(tmp_path / "run"))
    data = TrainingData(load_dataset(config), config)
    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    with RunFolder(tmp_path / "run", config) as run:
        assert run.attach(model) == 1 + STEPS
    found = npz(folder / "program" / "state.npz")
    for name, variable in state_variables(model).items():
        if not name.startswith("mean_"):  # of an epoch, not in checkpoints
            np.testing.assert_array_equal(np.array(variable), found[name], err_msg=name)
    rows = read_losses(tmp_path / "run" / "losses.csv")
    assert [row["step"] for row in rows] == list(range(2, 2 + STEPS))
    np.testing.assert_allclose([row["d_a"] for row in rows], found["losses"][:, 6], rtol=1e-5)
    # TensorFlow can then train on from this state.
    step = tf.function(lambda *real: strategy.run(model.train_step, args=(real,)), autograph=False)
    for real in data.batches(1 + STEPS, 2 + STEPS):
        step(*real)
    assert model.steps_done == 2 + STEPS


def test_mistakes_give_one_line(worked, tmp_path):
    folder = worked[0]
    run, program = str(folder / "run"), str(folder / "program")
    with pytest.raises(ValueError, match="already holds a program"):
        xla_program.main(Options(run, program))
    with pytest.raises(ValueError, match="steps is 0"):
        xla_program.main(Options(run, str(tmp_path / "new"), steps=0))
    with pytest.raises(ValueError, match="is not a run folder"):
        xla_program.main(Options(str(tmp_path / "none"), program, bring_back=True))
    with pytest.raises(ValueError, match="contains no program"):
        xla_program.main(Options(run, str(tmp_path), bring_back=True))
    half = dataclasses.replace(TINY, precision="mixed_float16")
    with RunFolder(tmp_path / "half", half):
        pass
    with pytest.raises(ValueError, match="mixed_float16 is not supported"):
        xla_program.main(Options(str(tmp_path / "half"), str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()

    shutil.copytree(folder / "program", tmp_path / "other")
    state = npz(folder / "program" / "state.npz")
    state["a2b/000_kernel"] = np.zeros(3, np.float32)
    np.savez(tmp_path / "other" / "state.npz", **state)
    with pytest.raises(ValueError, match="does not fit: the run has no a2b/000_kernel"):
        xla_program.main(Options(run, str(tmp_path / "other"), bring_back=True))
    saved = json.loads((tmp_path / "other" / "program.json").read_text())
    saved["config"]["lambda_cycle_a"] = 7.0
    (tmp_path / "other" / "program.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="lambda_cycle_a=5.0, now 7.0"):
        xla_program.main(Options(run, str(tmp_path / "other"), bring_back=True))

    for path in (folder / "program", tmp_path / "absent"):
        process = run_there(path, "--steps=0" if path.exists() else "--minutes=1")
        assert process.returncode == 1 and process.stderr.count("\n") == 1
        assert process.stderr.startswith("error: ")
