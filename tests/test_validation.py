"""Tests the measurements during training, and which generators they keep."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from cases import write_landscapes

from tf_cyclegan.evaluation.scores import pixel_features
from tf_cyclegan.inference.translator import find_generator
from tf_cyclegan.training import validation
from tf_cyclegan.training.batches import load_dataset
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy
from tf_cyclegan.training.loop import train
from tf_cyclegan.training.run_folder import load_run_images
from tf_cyclegan.training.validation import BestGenerators

TINY = Config(
    load_size=20,
    crop_size=16,
    filters=2,
    blocks=0,
    d_filters=2,
    d_layers=1,
    pool_size=0,
    evaluate_every=1,
    val_share=0.02,
    ema=0.9,
)
SIZE = (16, 16)


class Run:
    """A run folder whose KID is given instead of measured, and which is quick to train."""

    def __init__(self, path, monkeypatch, **changes):
        self.config = dataclasses.replace(TINY, run_dir=str(path), **changes)
        self.path, self.scores = path, []
        self.path.mkdir(exist_ok=True)
        monkeypatch.setattr(validation, "kid", lambda *sets, **k: (self.scores.pop(0), 0.0))
        monkeypatch.setattr(validation, "translator", lambda generator: lambda image: image)
        self.model = make_cyclegan(
            self.config, make_strategy("one"), (*SIZE, 3), (*SIZE, 3), steps_per_epoch=10
        )
        self.start()

    def start(self):
        """Begins as a new process does."""
        sets = load_dataset(self.config)
        self.best = BestGenerators(self.path, self.config, sets, SIZE, 10, pixel_features)
        self.model.stop_training = False
        self.best.attach(self.model)

    def epoch(self, number, a2b, b2a):
        """Trains up to an epoch, in which all weights change, and measures these KIDs."""
        self.model.step.assign(10 * number)
        for average in self.model.averages.values():
            average.set_weights([np.full_like(w, number) for w in average.get_weights()])
        self.scores = [a2b, b2a]
        self.best.on_epoch_end(number - 1)
        return not self.scores  # whether it was measured

    def kept(self, direction):
        """Returns the epoch whose generator is kept."""
        generator = find_generator(self.path / "best", direction)
        return int(generator.get_weights()[0].flat[0])

    def rows(self):
        with open(self.path / "validation.csv", newline="") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path / "run", monkeypatch)


def test_the_best_of_each_direction_is_kept_with_its_epoch(run):
    for number, a2b, b2a in ((1, 0.5, 0.5), (2, 0.3, 0.6), (3, 0.4, 0.2), (4, 0.3, 0.7)):
        assert run.epoch(number, a2b, b2a)
    assert (run.kept("a2b"), run.kept("b2a")) == (2, 3)
    assert json.loads((run.path / "best" / "best.json").read_text()) == {
        "a2b": {"kid": 0.3, "epoch": 2, "step": 20},
        "b2a": {"kid": 0.2, "epoch": 3, "step": 30},
    }
    assert run.rows()[1] == {"epoch": 2, "step": 20, "kid_a2b": 0.3, "kid_b2a": 0.6}
    assert "a2b at epoch 2 (KID 0.3), b2a at epoch 3 (KID 0.2)" in run.best.report()
    assert (run.path / "validation.png").stat().st_size > 1000


def test_a_continued_run_measures_what_a_killed_process_did_not(run):
    run.epoch(1, 0.5, 0.5)
    run.epoch(2, 0.4, 0.6)
    run.model.step.assign(10)  # the last checkpoint is older
    run.start()
    assert len(run.rows()) == 2
    run.epoch(2, 0.4, 0.6)
    assert [row["epoch"] for row in run.rows()] == [1, 2]
    run.model.step.assign(30)  # killed after a checkpoint and before its measurement
    run.scores = [0.1, 0.9]
    run.start()
    assert run.scores == [] and [row["epoch"] for row in run.rows()] == [1, 2, 3]
    assert run.best.best["a2b"]["epoch"] == 3 and run.best.best["b2a"]["epoch"] == 1
    run.start()  # and only once
    assert len(run.rows()) == 3


def test_measured_at_the_end_of_every_few_whole_epochs(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", monkeypatch, evaluate_every=2)
    assert [run.epoch(number, 0.1, 0.1) for number in (1, 2, 3, 4)] == [False, True, False, True]
    run.model.step.assign(65)
    run.scores = [0.1, 0.1]
    run.best.on_epoch_end(5)  # incomplete, stopped by a signal
    assert run.scores


def test_patience_waits_for_either_direction(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", monkeypatch, patience=2)
    stops = []
    for number, a2b, b2a in (
        (1, 0.5, 0.5), (2, 0.6, 0.4), (3, 0.6, 0.6), (4, 0.4, 0.6), (5, 0.5, 0.5), (6, 0.5, 0.5)
    ):  # fmt: skip
        run.epoch(number, a2b, b2a)
        stops.append(run.model.stop_training)
    assert stops == [False] * 5 + [True]
    run.start()  # it stays stopped
    assert run.best.exhausted


def test_patience_counts_from_measurement_to_measurement(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", monkeypatch, patience=3, evaluate_every=5)
    stops = []
    for number in range(1, 16):
        run.epoch(number, 0.5, 0.5)
        stops.append(run.model.stop_training)
    assert stops == [False] * 9 + [True] * 6  # at the second measurement


def test_a_run_that_begins_anew_ignores_what_an_unsaved_one_kept(run):
    run.epoch(1, 0.1, 0.1)
    run.model.step.assign(0)
    run.start()
    run.epoch(1, 0.5, 0.5)
    assert run.best.best["a2b"]["kid"] == 0.5 and len(run.rows()) == 1


def test_commands_that_do_not_train_need_no_validation_images(tmp_path):
    write_landscapes(tmp_path)
    for val_dir, count in ((None, 4), (str(tmp_path / "gone"), 6)):
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        config = dataclasses.replace(TINY, data_dir=str(tmp_path), val_dir=val_dir, val_share=0.34)
        (run_dir / "config.json").write_text(config.to_json())
        assert len(load_run_images(run_dir)["trainA"]) == count


def test_damaged_records_are_named(run):
    run.epoch(1, 0.5, 0.5)
    best, rows = run.path / "best", run.path / "validation.csv"
    for text in ("[1]", "{}", None):
        best_json = best / "best.json"
        best_json.write_text(text) if text else best_json.unlink()
        with pytest.raises(ValueError, match="best.json cannot be read .*to measure anew"):
            run.start()
    shutil.rmtree(best)
    run.scores = [0.25, 0.5]
    run.start()
    assert run.best.best["a2b"]["kid"] == 0.25 and len(run.best.rows) == 1
    rows.write_text("epoch,step\n1,x\n")
    with pytest.raises(ValueError, match="validation.csv cannot be read .*remove it to continue"):
        run.start()


def test_few_images_for_validation_get_a_warning(tmp_path, monkeypatch, capsys):
    Run(tmp_path / "few", monkeypatch)
    assert "warning: KID of 8 validation images is mostly noise" in capsys.readouterr().out
    Run(tmp_path / "many", monkeypatch, val_share=0.05)
    assert "warning" not in capsys.readouterr().out


def test_features_that_do_not_exist_are_refused_before_anything_is_read(tmp_path):
    config = dataclasses.replace(TINY, run_dir=str(tmp_path / "run"), val_features="vgg.h5")
    with pytest.raises(ValueError, match="vgg.h5"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_measures_real_kid_and_best_is_a_run_folder(tmp_path, capsys):
    write_landscapes(tmp_path)
    config = dataclasses.replace(
        TINY,
        data_dir=str(tmp_path),
        run_dir=str(tmp_path / "run"),
        epochs=1,
        decay_epochs=4,
        patience=2,
        val_share=0.34,
    )
    assert train(config) == 0
    text = capsys.readouterr().out
    with open(tmp_path / "run" / "validation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4 * (i + 1) for i in range(len(rows))]
    best = json.loads((tmp_path / "run" / "best" / "best.json").read_text())
    for direction in ("a2b", "b2a"):
        values = [float(row[f"kid_{direction}"]) for row in rows]
        assert best[direction]["kid"] == min(values) and len(set(values)) == len(values)
        find_generator(tmp_path / "run" / "best", direction)
    assert f"Best generators: a2b at epoch {best['a2b']['epoch']}" in text
    assert ("No improvement in 2 epochs: stopped" in text) == (len(rows) < 5)
    again = dataclasses.replace(config, run_dir=str(tmp_path / "run" / "best"))
    with pytest.raises(ValueError, match="to start from them --init_from="):
        train(again)


def test_a_bad_validation_image_is_named_before_anything_is_written(tmp_path):
    write_landscapes(tmp_path, folders=("trainA", "trainB"))
    write_landscapes(tmp_path, folders=("valA", "valB"))
    bad = tmp_path / "valB" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    config = dataclasses.replace(
        TINY, data_dir=str(tmp_path), val_dir=str(tmp_path), run_dir=str(tmp_path / "run")
    )
    with pytest.raises(ValueError, match="3.png"):
        train(config)
    assert not (tmp_path / "run").exists()
