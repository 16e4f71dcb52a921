import csv
import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_cyclegan.data.image_files import to_float, to_uint8
from tf_cyclegan.evaluation.contact_sheets import COLUMNS, GAP
from tf_cyclegan.training.callbacks import (
    CURVE_POINTS,
    Checkpoints,
    Curves,
    LossLog,
    Progress,
    SampleGrid,
    StopOnNonFinite,
    StopSignals,
    both_ways,
    plot_losses,
    read_losses,
)

LOGS = {"cycle_a": 1.25, "d_a": 0.5, "learning_rate": 2e-4}


def train(callback, steps, logs=LOGS, first=1, model=None):
    """Calls a callback as `fit` does, without training."""
    model = model or SimpleNamespace(steps_done=0, stop_training=False)
    callback.set_model(model)
    for step in range(first, first + steps):
        model.steps_done = step
        callback.on_train_batch_end(step, logs(step) if callable(logs) else logs)
        if model.stop_training:
            break
    callback.on_epoch_end(0)
    return model


# === Progress ===


@pytest.mark.parametrize(("stop", "shown"), [(2, "2/2 - "), (5, "5/5 - ")])
def test_the_progress_line_counts_the_steps_that_were_done(stop, shown, capsys):
    progress = Progress()
    progress.set_params({"verbose": 2, "epochs": 1, "steps": 5})
    progress.on_epoch_begin(0)
    for batch in range(stop):
        progress.on_train_batch_end(batch, LOGS)
    progress.on_epoch_end(0, LOGS)
    assert capsys.readouterr().out.startswith(shown)


# === StopOnNonFinite ===


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(value):
    with pytest.raises(FloatingPointError, match=f"d_a is {value} at step 3: .*--learning_rate"):
        train(StopOnNonFinite(), 5, lambda step: LOGS | {"d_a": value if step == 3 else 1})


def test_finite_losses_go_on():
    assert train(StopOnNonFinite(), 5).steps_done == 5


# === LossLog ===


def losses(step):
    return {"cycle_a": 10 / step, "d_a": 0.123456789, "learning_rate": 2e-4 / step}


def test_every_step_is_logged(tmp_path):
    train(LossLog(tmp_path, 0), 25, losses)
    rows = read_losses(tmp_path / "losses.csv")
    assert [row["step"] for row in rows] == list(range(1, 26))
    for row in rows:
        assert row == pytest.approx({"step": row["step"]} | losses(row["step"]), rel=1e-5)
    with open(tmp_path / "losses.csv", newline="") as file:
        assert next(csv.reader(file)) == ["step", *LOGS]


def test_a_row_is_on_the_disk_before_the_next_step(tmp_path):
    log = LossLog(tmp_path, 0)
    log.set_model(SimpleNamespace(steps_done=1))
    log.on_train_batch_end(0, LOGS)
    assert len(read_losses(tmp_path / "losses.csv")) == 1


def test_a_resumed_training_drops_what_came_after_its_checkpoint(tmp_path):
    train(LossLog(tmp_path, 0), 7, losses)
    train(LossLog(tmp_path, 4), 2, lambda step: LOGS, first=5)
    rows = read_losses(tmp_path / "losses.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[3]["cycle_a"] == 2.5
    assert rows[4]["cycle_a"] == LOGS["cycle_a"]


def test_nothing_is_lost_before_the_first_resumed_step(tmp_path):
    train(LossLog(tmp_path, 0), 3, losses)
    before = (tmp_path / "losses.csv").read_bytes()
    LossLog(tmp_path, 3)
    assert (tmp_path / "losses.csv").read_bytes() == before


def test_a_half_written_last_row_is_dropped_wherever_it_ends(tmp_path):
    path = tmp_path / "losses.csv"
    train(LossLog(tmp_path, 0), 3, losses)
    whole, rows = path.read_bytes(), read_losses(path)
    second = whole.rstrip().rfind(b"\n") + 1  # the start of the last row
    for end in range(second, len(whole) - 1):  # without "\r", which already ends a row
        path.write_bytes(whole[:end])
        assert [row["step"] for row in read_losses(path)] == [1, 2], whole[:end]
    train(LossLog(tmp_path, 2), 1, losses, first=3)
    assert read_losses(path) == rows


def test_the_plot_is_a_png(tmp_path):
    train(LossLog(tmp_path, 0), 150, losses)
    with Image.open(tmp_path / "losses.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("loss, scale", [(-1.0, "linear"), (1.0, "log")])
def test_losses_below_zero_are_drawn_too(tmp_path, loss, scale):
    curves = Curves(["d_a", "learning_rate"])
    curves.add(1, [loss, 0.0])
    (axes,) = plot_losses(curves, tmp_path / "x.png").axes
    assert axes.get_yscale() == scale
    assert [line.get_label() for line in axes.lines] == ["d_a"]


def test_curves_are_means_of_every_step_in_bounded_memory():
    curves, steps = Curves(["d_a"]), 7 * CURVE_POINTS + 3
    for step in range(1, steps + 1):
        curves.add(step, [float(step)])
    assert CURVE_POINTS / 2 < len(curves.points) <= CURVE_POINTS
    first = 1
    for count, last, sums in curves.points:
        assert last == first + count - 1
        assert sums[0] == sum(range(first, last + 1))
        first = last + 1
    assert first == steps + 1
    assert {count for count, _, _ in curves.points[:-1]} == {curves.span}


def test_the_curves_of_a_resumed_training_are_those_of_one_go(tmp_path):
    whole = LossLog(tmp_path, 0)
    train(whole, 500, losses)
    resumed = LossLog(tmp_path, 300)
    train(resumed, 200, losses, first=301)
    for (n, last, sums), (m, again, others) in zip(
        whole.curves.points, resumed.curves.points, strict=True
    ):
        assert (n, last) == (m, again)
        np.testing.assert_allclose(sums, others, rtol=1e-5)


def test_rows_are_kept_byte_for_byte_and_closed_files_appended_to(tmp_path):
    log = LossLog(tmp_path, 0)
    train(log, 6, losses)
    log.on_train_end()
    one_go = (tmp_path / "losses.csv").read_bytes()
    (tmp_path / "losses.csv").write_bytes(one_go[:-3])  # as if killed in the last row
    log = LossLog(tmp_path, 2)
    for first in (3, 5):  # `fit` is called again, as in scripts/train.py
        train(log, 2, losses, first=first)
        log.on_train_end()
    assert (tmp_path / "losses.csv").read_bytes() == one_go
    assert not list(tmp_path.glob("*.part*"))


HEADER = b"step,cycle_a,d_a,learning_rate\r\n"


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"step;cycle_a;d_a;learning_rate\r\n1;5,0;0,8;0,0002\r\n", "its columns are 'step;cycle"),
        (b"\xef\xbb\xbf" + HEADER + b"1,5.0,0.8,0.0002\r\n", "its columns are "),
        (b"step,cycle_a,other\r\n1,5.0,0.8\r\n", "its columns are 'step,cycle_a,other'"),
        (HEADER + b"1,5,0,0,8,0,0002\r\n", "line 2 is '1,5,0,0,8,0,0002'"),
        (HEADER + b"1,5.0,0.8,0.0002\r\n2,5.0\r\n", "line 3 has 2 of 4 columns"),
        (HEADER + b"1,5.0,high,0.0002\r\n", "line 2 is '1,5.0,high,0.0002'"),
        (b"PK\x03\x04\xff\xfe\x00\x00", "can't decode byte"),
        (b"[1, 2]", "its columns are '[1, 2]'"),
    ],
)
def test_a_file_that_is_not_ours_is_kept_aside_and_the_run_goes_on(
    tmp_path, capsys, content, reason
):
    for kept in ("losses.unreadable1.csv", "losses.unreadable2.csv"):
        (tmp_path / "losses.csv").write_bytes(content)
        train(LossLog(tmp_path, 4), 2, losses, first=5)
        assert (tmp_path / kept).read_bytes() == content
        assert [row["step"] for row in read_losses(tmp_path / "losses.csv")] == [5, 6]
        (line,) = capsys.readouterr().out.splitlines()
        assert reason in line and kept in line


# === Samples ===


def fake(add, channels=3):
    """Returns a generator that adds a constant to an image and outputs the given channel count."""
    return lambda image: tf.repeat(image[..., :1] + add, channels, axis=-1)


def images(count, channels=3, side=16):
    shape = (count, side, side, 1)
    levels = np.random.default_rng(channels).integers(60, 200, shape, np.uint8)
    return list(levels.repeat(channels, axis=-1))


def model_of(a2b, b2a, **attributes):
    return SimpleNamespace(generators=lambda: {"a2b": a2b, "b2a": b2a}, **attributes)


def test_both_ways_names_what_the_generators_make():
    model = model_of(fake(0.2), fake(-0.1))
    (a,), (b,) = images(1), images(1, side=8)
    made = both_ways(model, a, b)
    assert sorted(made) == sorted(COLUMNS)
    changes = {
        "real_a": (a, 0), "fake_b": (a, 0.2), "cycle_a": (a, 0.1), "same_a": (a, -0.1),
        "real_b": (b, 0), "fake_a": (b, -0.1), "cycle_b": (b, 0.1), "same_b": (b, 0.2),
    }  # fmt: skip
    for name, (real, change) in changes.items():
        expected = to_uint8(to_float(real) + change).astype(int)
        assert np.abs(made[name] - expected).max() <= 1, name
        assert made[name].dtype == np.uint8


@pytest.mark.parametrize("channels_b, columns", [(3, 8), (1, 6)])
def test_a_sheet_has_every_column_that_there_is(tmp_path, channels_b, columns):
    samples = SampleGrid(
        tmp_path / "samples", (images(2), images(2, channels_b)), 0, tmp_path / "logs"
    )
    model = model_of(fake(0.1, channels_b), fake(0.1), steps_done=12)
    samples.set_model(model)
    path = samples.draw()
    assert path == tmp_path / "samples" / "step_0000012.png"
    with Image.open(path) as image:
        width, height = image.size
    assert width == GAP + columns * (128 + GAP)  # 16 pixels, enlarged 8 times
    assert height > 2 * (128 + GAP)
    assert list((tmp_path / "logs").glob("events*"))


@pytest.mark.parametrize(
    "every, at_end, sheets",
    [(0, False, []), (2, False, [2, 4]), (2, True, [2, 4, 5]), (5, True, [5])],
)
def test_sheets_come_every_so_many_steps_and_at_the_end(tmp_path, every, at_end, sheets):
    samples = SampleGrid(tmp_path, (images(1), images(1)), every, at_end=at_end)
    train(samples, 5, model=model_of(fake(0), fake(0), stop_training=False))
    samples.on_train_end()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [f"step_{step:07d}.png" for step in sheets]


# === Checkpoints ===


class FakeRun:
    """Records the step of each save."""

    def __init__(self):
        self.model = SimpleNamespace(steps_done=0, stop_training=False)
        self.saved = []

    def save(self):
        self.saved.append(self.model.steps_done)


@pytest.fixture
def run():
    return FakeRun()


def test_saves_by_steps(run):
    train(Checkpoints(run, StopSignals(), every=3, minutes=0), 10, model=run.model)
    assert run.saved == [3, 6, 9]


def test_saves_by_time(run, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def half_a_minute(step):
        now[0] += 30
        return LOGS

    checkpoints = Checkpoints(run, StopSignals(), every=0, minutes=1.6)
    train(checkpoints, 10, half_a_minute, model=run.model)
    assert run.saved == [4, 8]  # after 120 s each, at the first step that ends after 96 s


def test_neither_saves_nothing(run):
    train(Checkpoints(run, StopSignals(), every=0, minutes=0), 10, model=run.model)
    assert run.saved == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_step_end_and_stops(run, number):
    # Replaces the process's handler, as shells make background processes ignore some signals.
    def before(number, frame):
        raise AssertionError("the signal was not noted")

    own = signal.signal(number, before)

    def steps(step):
        if step == 3:
            os.kill(os.getpid(), number)
        return LOGS

    with StopSignals() as stop:
        train(Checkpoints(run, stop, every=0, minutes=0), 10, steps, model=run.model)
        assert run.model.steps_done == 3
        assert stop.number == number
        # a second signal is not delayed: the user wants to stop immediately
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.signal(number, own) == before


def test_a_signal_that_is_ignored_stays_ignored():
    """Checks that nohup still works, so that a training run continues after its terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_images_that_cannot_be_drawn_are_refused_at_once(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    for images in (([image / 255], [image]), (["a.png"], [image]), ([image[0]], [image])):
        with pytest.raises(ValueError, match=r"takes images as arrays of uint8 \[h, w, c\]"):
            SampleGrid(tmp_path, images)
    with pytest.raises(ValueError, match="got 2 images of a and 1 of b: pass as many of each"):
        SampleGrid(tmp_path, ([image, image], [image]))
