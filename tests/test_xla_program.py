"""The step as a program for JAX alone: benchmarks/xla_program.py and xla_run.py."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.build import make_cyclegan, make_strategy
from tf_cyclegan.callbacks import read_losses
from tf_cyclegan.checkpoints import RunFolder
from tf_cyclegan.config import DEMO
from tf_cyclegan.data import TrainingData, load_dataset
from tf_cyclegan.data.pictures import to_float, to_uint8

pytest.importorskip("jax", reason="JAX is not installed")
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import xla_program  # noqa: E402
from xla_program import Options, state_variables  # noqa: E402

STEPS = 12  # more than the runner's block of 10, and than what fills the pools
TINY = dataclasses.replace(
    DEMO,
    dataset="synthetic/summer2winter",
    load_size=28,
    crop_size=24,
    filters=4,
    blocks=1,
    d_filters=4,
    pool_size=4,
    batch_size=2,
)


def run_there(folder, *flags):
    """Runs a copy of the runner beside the folder, as on a machine without this package."""
    shutil.copy(ROOT / "benchmarks" / "xla_run.py", folder.parent)
    return subprocess.run(
        [sys.executable, "-I", "xla_run.py", folder.name, *flags],
        cwd=folder.parent,
        capture_output=True,
        text=True,
    )


def make_run(path, config):
    """A run folder with a checkpoint after one step, and TensorFlow's steps after it.

    Returns:
        The state and the losses after each step, from the first.
    """
    data = TrainingData(load_dataset(config), config)
    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    run = RunFolder(path, config)
    run.attach(model)
    step = tf.function(lambda *real: strategy.run(model.train_step, args=(real,)), autograph=False)
    states, losses = [], []
    for real in data.batches(0, 1 + STEPS):
        losses.append([float(loss) for loss in step(*real).values()])
        states.append({name: np.array(v) for name, v in state_variables(model).items()})
        if len(states) == 1:
            run.save()
    return states, losses
