"""Tests that a run folder of version 0.1.0 still loads and continues with the same numbers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.inference.translator import load_translator
from tf_cyclegan.training.callbacks import read_losses
from tf_cyclegan.training.loop import train
from tf_cyclegan.training.run_folder import read_config

OLD = Path(__file__).parent / "goldens" / "run_0_1"


def test_its_generator_translates_as_it_did():
    fake = load_translator(OLD, "a2b")(landscape(0, "summer", 21, 30)).astype(int)
    assert np.abs(fake - np.load(OLD / "translated.npy")).max() <= 1


def test_it_continues_with_the_same_numbers(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    config = replace(read_config(OLD), run_dir=str(tmp_path / "run"), max_steps=4)
    assert train(config) == 0
    row = [float(number) for number in (OLD / "row_4.csv").read_text().split(",")]
    rows = read_losses(tmp_path / "run" / "losses.csv")
    assert len(rows) == 4 and list(rows[3].values()) == pytest.approx(row, rel=2e-3)
