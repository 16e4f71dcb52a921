"""What happens beside the training steps: logs, sample sheets, checkpoints, and stopping."""

import csv
import math
import os
import signal
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from tf_cyclegan.checkpoints import RunFolder
from tf_cyclegan.data.pictures import to_float, to_uint8, write_picture
from tf_cyclegan.sheets import COLUMNS, picture_sheet

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the line above decides what this opens)

BOARD_EVERY = 10  # steps between the scalars that TensorBoard gets; the CSV has every step


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends the training at the first loss that is NaN or infinite, naming it and the step.

    Raises:
        FloatingPointError: from `fit`; the last checkpoint is from before it.
    """

    def on_train_batch_end(self, batch, logs=None):
        for name, value in logs.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {self.model.steps_done}: try a lower "
                    "--learning_rate, or --precision=float32; the last checkpoint is from before."
                )


class LossLog(keras.callbacks.Callback):
    """Every step's losses to losses.csv, some to TensorBoard, and a plot of them.

    Args:
        run_dir: the run folder.
        step: steps done so far; rows after it, of a training that was killed, are dropped.
    """

    def __init__(self, run_dir: Path, step: int):
        super().__init__()
        self.path = Path(run_dir) / "losses.csv"
        self.plot_path = Path(run_dir) / "losses.png"
        self.board = tf.summary.create_file_writer(str(Path(run_dir) / "logs"))
        rows = read_losses(self.path) if self.path.exists() else []
        self.rows_before = [row for row in rows if row["step"] <= step]
        self.file = None

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.steps_done
        if self.file is None:
            self._begin(["step", *logs])
        self.writer.writerow({"step": step} | {k: f"{float(v):.6g}" for k, v in logs.items()})
        if step % BOARD_EVERY == 0:
            with self.board.as_default(step=step):
                for name, value in logs.items():
                    tf.summary.scalar(name, value)

    def _begin(self, names):
        part = self.path.with_suffix(".part")
        # Line by line: a row is on the disk before a checkpoint of its step is.
        self.file = open(part, "w", newline="", buffering=1)
        self.writer = csv.DictWriter(self.file, names)
        self.writer.writeheader()
        self.writer.writerows(self.rows_before)
        os.replace(part, self.path)  # the open file goes on under its new name

    def on_epoch_end(self, epoch, logs=None):
        self.board.flush()
        plot_losses(read_losses(self.path), self.plot_path)


def read_losses(path) -> list[dict[str, float]]:
    """The rows of a losses.csv; a last row that a killed process left half-written is dropped."""
    lines = Path(path).read_text().splitlines(keepends=True)
    rows = csv.DictReader(line for line in lines if line.endswith("\n"))
    return [{k: float(v) for k, v in row.items()} | {"step": int(row["step"])} for row in rows]


def plot_losses(rows, path):
    """Draws every loss over the steps, as means over a hundredth of the training each.

    Args:
        rows: from `read_losses`.
        path: the PNG to write.
    """
    names = [name for name in rows[0] if name not in ("step", "learning_rate")]
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    parts = [part for part in np.array_split(np.arange(len(rows)), 100) if len(part)]
    steps = [rows[part[-1]]["step"] for part in parts]
    curves = {name: [np.mean([rows[i][name] for i in part]) for part in parts] for name in names}
    for name, curve in curves.items():
        axes.plot(steps, curve, label=name)
    # hinge and wgan-gp have losses below 0
    positive = all(min(curve) > 0 for curve in curves.values())
    axes.set(xlabel="step", ylabel="loss, weighted", yscale="log" if positive else "linear")
    axes.legend(ncols=2)
    part = Path(path).with_suffix(".part.png")
    figure.savefig(part, dpi=100)
    pyplot.close(figure)
    os.replace(part, path)


class Samples(keras.callbacks.Callback):
    """Draws the same few pictures every `every` steps: translated, cycled, identity, both ways.

    Args:
        run_dir: the run folder; sheets go to samples/, and to TensorBoard.
        pictures_a, pictures_b: uint8 `[h, w, c]`, as many of each, all of one size.
        every: steps between sheets; 0 for none but the one at the end of the training.
    """

    def __init__(self, run_dir: Path, pictures_a, pictures_b, every: int):
        super().__init__()
        self.folder = Path(run_dir) / "samples"
        self.folder.mkdir(exist_ok=True)
        self.board = tf.summary.create_file_writer(str(Path(run_dir) / "logs"))
        self.pictures_a, self.pictures_b = pictures_a, pictures_b
        self.every = every

    def on_train_batch_end(self, batch, logs=None):
        if self.every and self.model.steps_done % self.every == 0:
            self.draw()

    def draw(self) -> Path:
        """Writes the sheet of this step, and returns its path."""
        step = self.model.steps_done
        columns: dict[str, list] = {name: [] for name in COLUMNS}
        for a, b in zip(self.pictures_a, self.pictures_b, strict=True):
            for name, picture in both_ways(self.model, a, b).items():
                columns[name].append(picture)
        columns = {name: column for name, column in columns.items() if column}
        side = max(self.pictures_a[0].shape[:2])
        sheet = picture_sheet(columns, scale=max(1, 128 // side))
        path = self.folder / f"step_{step:07d}.png"
        write_picture(path, sheet)
        with self.board.as_default(step=step):
            tf.summary.image("samples", sheet[np.newaxis])
        self.board.flush()
        return path


def both_ways(model, real_a, real_b) -> dict[str, np.ndarray]:
    """Two pictures, uint8 `[h, w, c]`, and all that the generators make of them, by name."""
    a, b = to_float(real_a)[np.newaxis], to_float(real_b)[np.newaxis]
    fake_b, fake_a = model.a2b(a), model.b2a(b)
    made = {"fake_b": fake_b, "cycle_a": model.b2a(fake_b)}
    made |= {"fake_a": fake_a, "cycle_b": model.a2b(fake_a)}
    if a.shape[-1] == b.shape[-1]:
        made |= {"same_a": model.b2a(a), "same_b": model.a2b(b)}
    pictures = {name: to_uint8(image.numpy()[0]) for name, image in made.items()}
    return {"real_a": real_a, "real_b": real_b} | pictures


class StopSignals:
    """While it is entered, signals that ask to stop are noted, so that the step can end first.

    These are SIGTERM, Ctrl-C and SIGHUP, which a terminal sends as it closes (under nohup it is
    ignored, and stays so). A second signal of the same kind ends the process at once. On leaving,
    the handlers from before are put back.

    Attributes:
        number: that of the signal, 0 while there was none.
    """

    def __init__(self):
        self.number = 0
        self.before = {}

    def __enter__(self):
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.number = number
        signal.signal(number, signal.SIG_DFL)


class Checkpoints(keras.callbacks.Callback):
    """Saves every so many steps or minutes, and ends the training run after a signal to stop.

    Args:
        run: the `RunFolder`, attached to the model.
        stop: the entered `StopSignals`.
        every: steps between checkpoints, 0 for none by steps.
        minutes: minutes after which one is due, 0 for none by time.
    """

    def __init__(self, run: RunFolder, stop: StopSignals, every: int, minutes: float):
        super().__init__()
        self.run = run
        self.stop = stop
        self.every = every
        self.minutes = minutes
        self.last = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        by_steps = self.every and self.model.steps_done % self.every == 0
        by_time = self.minutes and time.monotonic() - self.last > 60 * self.minutes
        if by_steps or by_time:
            self.run.save()
            self.last = time.monotonic()
        if self.stop.number:
            self.model.stop_training = True
