"""Keras callbacks for training: logs, contact sheets, checkpoints and stopping."""

import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure  # not pyplot, whose global state a notebook may use, too

from tf_cyclegan.data.image_files import to_float, to_uint8, write_image
from tf_cyclegan.evaluation.contact_sheets import COLUMNS, contact_sheet
from tf_cyclegan.files import whole_file
from tf_cyclegan.training.run_folder import RunFolder

BOARD_EVERY = 10  # steps between scalars in TensorBoard; the CSV has every step
CURVE_POINTS = 200  # maximum number of points per curve in the plot


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops training at the first loss that is NaN or infinite.

    Raises:
        FloatingPointError: from `fit`, with the name of the loss and the step. The last checkpoint
            is older.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for name, value in logs.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {self.model.steps_done}: try a lower "
                    "--learning_rate, or --precision=float32; the last checkpoint is not affected."
                )


class LossLog(keras.callbacks.Callback):
    """Writes the losses of every step to losses.csv, some to TensorBoard, and plots them.

    Memory use, and the time at the end of an epoch, do not grow with the number of steps.

    Args:
        run_dir: the run folder.
        step: number of steps done. Rows of later steps, from a killed process, are removed at the
            first step. A losses.csv that cannot be read is renamed.
    """

    def __init__(self, run_dir: str | os.PathLike[str], step: int) -> None:
        super().__init__()
        self.path = Path(run_dir) / "losses.csv"
        self.plot_path = Path(run_dir) / "losses.png"
        self.board = tf.summary.create_file_writer(str(Path(run_dir) / "logs"))
        self.step = step
        self.curves: Curves | None = None
        self.file: TextIO | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.model.steps_done
        if self.curves is None:
            self.curves = _continue(self.path, self.step, ["step", *logs])
        if self.file is None:
            # Line-buffered, so that a row is written before the checkpoint of its step.
            self.file = open(self.path, "a", encoding="utf-8", newline="\r\n", buffering=1)
        values = [float(value) for value in logs.values()]
        self.file.write(",".join([str(step), *(f"{value:.6g}" for value in values)]) + "\n")
        self.curves.add(step, values)
        if step % BOARD_EVERY == 0:
            with self.board.as_default(step=step):
                for name, value in logs.items():
                    tf.summary.scalar(name, value)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.board.flush()
        if self.curves:
            plot_losses(self.curves, self.plot_path)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self.file:
            self.file.close()
            self.file = None


class Curves:
    """Means of every loss over equal spans of steps, with at most CURVE_POINTS spans.

    Args:
        names: names of the losses.

    Attributes:
        points: for each span the number of its steps, its last step, and the sums `[losses]`.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.span = 1  # steps in a complete span
        self.points: list[tuple[int, int, np.ndarray]] = []

    def add(self, step: int, values: list[float]) -> None:
        """Adds the losses of a step, in the order of the names."""
        if not self.points or self.points[-1][0] == self.span:
            if len(self.points) == CURVE_POINTS:  # all complete: merge pairs of spans
                pairs = zip(self.points[::2], self.points[1::2], strict=True)
                self.points = [(n + m, last, a + b) for (n, _, a), (m, last, b) in pairs]
                self.span *= 2
            self.points.append((0, step, np.zeros(len(values))))
        count, _, sums = self.points[-1]
        self.points[-1] = (count + 1, step, sums + values)


def read_losses(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Returns the rows of a losses.csv, without an incomplete last row of a killed process.

    Raises:
        ValueError: the file is not a losses.csv.
    """
    with open(path, encoding="utf-8") as file:
        names = file.readline().rstrip("\n").split(",")
        rows = [(step, values) for _, step, values in _rows(file, len(names))]
    return [dict(zip(names, [step, *values], strict=True)) for step, values in rows]


def _rows(file: TextIO, columns: int) -> Iterator[tuple[str, int, list[float]]]:
    """Yields (text, step, other values) of each complete row after the header."""
    for number, line in enumerate(file, start=2):
        if not line.endswith("\n"):
            return
        try:
            step, *values = line.split(",", columns - 1)
            row = line, int(step), [float(value) for value in values]
        except ValueError:
            raise ValueError(f"line {number} is {line.rstrip()[:60]!r}") from None
        if len(values) != columns - 1:
            raise ValueError(f"line {number} has {len(values) + 1} of {columns} columns")
        yield row


def _continue(path: Path, step: int, names: list[str]) -> Curves:
    """Creates the losses.csv of a training run that continues after `step`, atomically.

    Args:
        path: the file. If it exists, its rows up to `step` are kept.
        names: names of all columns.

    Returns:
        The curves up to `step`.
    """
    try:
        with whole_file(path) as part:
            return _copy_rows(path, part, step, names)
    except ValueError as error:  # or a UnicodeDecodeError, its subclass
        others = (path.with_name(f"losses.unreadable{i}.csv") for i in itertools.count(1))
        aside = next(other for other in others if not other.exists())
        os.replace(path, aside)
        print(
            f"{path} is damaged or from another training run ({error}): it is renamed to "
            f"{aside.name}, and a new file begins after step {step}.",
            flush=True,
        )
    with whole_file(path) as part:
        return _copy_rows(path, part, step, names)


def _copy_rows(path: Path, part: Path, step: int, names: list[str]) -> Curves:
    curves, header = Curves(names[1:]), ",".join(names) + "\n"
    with open(part, "w", encoding="utf-8", newline="\r\n") as new:
        new.write(header)
        if path.exists():
            with open(path, encoding="utf-8") as old:
                if (first := old.readline()) not in (header, ""):
                    raise ValueError(f"its columns are {first.rstrip()[:60]!r}")
                for line, row_step, values in _rows(old, len(names)):
                    if row_step <= step:
                        new.write(line)
                        curves.add(row_step, values)
    return curves


def plot_losses(curves: Curves, path: Path) -> Figure:
    """Plots every loss over the steps.

    Args:
        curves: curves of at least one step. "learning_rate" is not plotted.
        path: the PNG to write, atomically.

    Returns:
        The figure.
    """
    steps = [last for _, last, _ in curves.points]
    means = np.array([sums / count for count, _, sums in curves.points])
    shown = [i for i, name in enumerate(curves.names) if name != "learning_rate"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for i in shown:
        axes.plot(steps, means[:, i], label=curves.names[i])
    # hinge and wgan-gp have losses below 0
    scale = "log" if (means[:, shown] > 0).all() else "linear"
    axes.set(xlabel="step", ylabel="loss, weighted", yscale=scale)
    axes.legend(ncols=2)
    with whole_file(path) as part:
        figure.savefig(part, dpi=100)
    return figure


def both_ways(model: keras.Model, real_a: np.ndarray, real_b: np.ndarray) -> dict[str, np.ndarray]:
    """Returns two images, uint8 `[h, w, c]`, and all their translations, by column name."""
    a, b = to_float(real_a)[np.newaxis], to_float(real_b)[np.newaxis]
    a2b, b2a = model.generators().values()
    fake_b, fake_a = a2b(a), b2a(b)
    made = {"fake_b": fake_b, "cycle_a": b2a(fake_b)}
    made |= {"fake_a": fake_a, "cycle_b": a2b(fake_a)}
    if a.shape[-1] == b.shape[-1]:
        made |= {"same_a": b2a(a), "same_b": a2b(b)}
    images = {"real_a": real_a, "real_b": real_b}
    images |= {name: to_uint8(image.numpy()[0]) for name, image in made.items()}
    return {name: images[name] for name in COLUMNS if name in images}


NO_IMAGES = (
    "SampleGrid has no images: pass `images`, or train on a tf.data.Dataset or on two arrays."
)


class SampleGrid(keras.callbacks.Callback):
    """Writes a contact sheet of the same few images at regular steps of a training run.

    The columns are real_a, fake_b, cycle_a, same_a, real_b, fake_a, cycle_b and same_b.

    Args:
        folder: folder for the sheets, step_0000500.png and so on; created if it does not exist.
        images: `(images_a, images_b)`, two lists of the same length, uint8 `[h, w, c]`, all of one
            size. By default, the first images of the dataset passed to `fit`.
        every: number of steps between sheets; 0 for none before the end.
        logs: a log folder of TensorBoard, to show the sheets there, too.
        at_end: whether to write a sheet at the end of `fit`, too.
        columns: a function of the model and an image of each domain that returns the images of a
            row by column name.

    Raises:
        ValueError: the images are not uint8 `[h, w, c]`, or not as many of each domain.

    Example:

    >>> model.fit(data, callbacks=[tf_cyclegan.callbacks.SampleGrid("samples", every=200)])
    """

    COUNT = 4  # images of each domain that are taken from a dataset

    def __init__(
        self,
        folder: str | os.PathLike[str],
        images: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None = None,
        every: int = 500,
        logs: str | os.PathLike[str] | None = None,
        at_end: bool = True,
        columns: Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]] = both_ways,
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.board = tf.summary.create_file_writer(str(logs)) if logs else None
        self.images_a: list[np.ndarray] = list(images[0]) if images else []
        self.images_b: list[np.ndarray] = list(images[1]) if images else []
        for image in (*self.images_a, *self.images_b):
            if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3:
                raise ValueError("SampleGrid takes images as arrays of uint8 [h, w, c].")
        if len(self.images_a) != len(self.images_b):
            raise ValueError(
                f"SampleGrid got {len(self.images_a)} images of a and {len(self.images_b)} of b: "
                "pass as many of each."
            )
        self.every = every
        self.at_end = at_end
        self.columns = columns
        self.last_drawn = 0

    def take_images(self, x: Any, y: Any = None) -> None:
        """Keeps the first images of the data of `CycleGAN.fit`, which calls this.

        Args:
            x, y: a dataset of `(real_a, real_b)` and None, or the arrays of a and of b.

        Raises:
            ValueError: there are no images to draw.
        """
        if not self.images_a:
            if isinstance(x, tf.data.Dataset):
                pairs = x.unbatch().take(self.COUNT).as_numpy_iterator()
            elif y is not None:
                pairs = zip(x[: self.COUNT], y[: self.COUNT], strict=True)
            else:
                raise ValueError(NO_IMAGES)
            self.images_a, self.images_b = (
                [to_uint8(image) for image in part] for part in zip(*pairs, strict=True)
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.every and self.model.steps_done % self.every == 0:
            self.draw()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self.at_end and self.last_drawn != self.model.steps_done:
            self.draw()

    def draw(self) -> Path:
        """Writes the sheet of the current step, and returns its path.

        Raises:
            ValueError: there are no images to draw.
        """
        if not self.images_a:
            raise ValueError(NO_IMAGES)
        step = self.last_drawn = self.model.steps_done
        columns: dict[str, list[np.ndarray]] = {}
        for a, b in zip(self.images_a, self.images_b, strict=True):
            for name, image in self.columns(self.model, a, b).items():
                columns.setdefault(name, []).append(image)
        side = max(self.images_a[0].shape[:2])
        sheet = contact_sheet(columns, scale=max(1, 128 // side))
        self.folder.mkdir(parents=True, exist_ok=True)  # again, if it was removed
        path = self.folder / f"step_{step:07d}.png"
        write_image(path, sheet)
        if self.board:
            with self.board.as_default(step=step):
                tf.summary.image("samples", sheet[np.newaxis])
            self.board.flush()
        return path


class StopSignals:
    """A context manager that records stop signals, so that the current step can finish.

    The signals are SIGTERM, SIGINT (Ctrl-C) and SIGHUP, which a closing terminal sends (under nohup
    SIGHUP stays ignored). A second signal of the same kind ends the process at once. On exit, the
    previous handlers are restored.

    Attributes:
        number: number of the signal, or 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)


class Progress(keras.callbacks.ProgbarLogger):
    """Prints Keras' lines of progress, with the steps that were done if training stops early.

    Keras prints that all steps of the epoch were done, and their time as if they had been.
    """

    target: int | None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.target and self.seen < self.target:
            self.target = None  # then Keras takes the number of steps that it has seen
        super().on_epoch_end(epoch, logs)


class Checkpoints(keras.callbacks.Callback):
    """Saves checkpoints at regular steps or minutes, and ends training after a stop signal.

    Args:
        run: the `RunFolder`, attached to the model.
        stop: the active `StopSignals`.
        every: number of steps between checkpoints, 0 to ignore steps.
        minutes: minutes between checkpoints, 0 to ignore time.
    """

    def __init__(self, run: RunFolder, stop: StopSignals, every: int, minutes: float) -> None:
        super().__init__()
        self.run = run
        self.stop = stop
        self.every = every
        self.minutes = minutes
        self.last = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        by_steps = self.every and self.model.steps_done % self.every == 0
        by_time = self.minutes and time.monotonic() - self.last > 60 * self.minutes
        if by_steps or by_time:
            self.run.save()
            self.last = time.monotonic()
        if self.stop.number:
            self.model.stop_training = True
