"""Measures the generators during training, and keeps the best ones."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tf_cyclegan.data.image_files import ImageSet
from tf_cyclegan.data.resizing import resize
from tf_cyclegan.evaluation.distances import kid
from tf_cyclegan.files import whole_file, write_text
from tf_cyclegan.inference.translator import translator
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.run_folder import save_generator

DOMAINS = {"a2b": ("valA", "valB"), "b2a": ("valB", "valA")}  # direction -> inputs, targets
FEW = 20  # validation images, below which there is a warning


class BestGenerators(keras.callbacks.Callback):
    """Measures KID on validation images after every few epochs, and keeps the best generators.

    Writes `validation.csv`, `validation.png`, TensorBoard scalars, and the folder `best/`, which
    all commands that translate or export take as --run_dir: for each direction the generator with
    the lowest KID. Its `best.json` holds their KID, epoch and step.

    Args:
        run_dir: the run folder.
        config: its settings, of which `evaluate_every` and `patience` are used.
        sets: "valA" and "valB".
        size: height and width to which the images are resized.
        steps_per_epoch: number of steps in an epoch.
        features: a function from images to `[n, d]`.

    Raises:
        ImageError: an image cannot be read.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        sets: dict[str, ImageSet],
        size: tuple[int, int],
        steps_per_epoch: int,
        features: Callable[[Iterable[np.ndarray]], np.ndarray],
    ) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.best_dir = run_dir / "best"
        self.config = config
        self.sets = sets
        self.size = size
        self.steps_per_epoch = steps_per_epoch
        self.features = features
        few = min(map(len, sets.values()))
        if few < FEW:
            print(
                f"warning: KID of {few} validation images is mostly noise, so that the best "
                "generators are chosen nearly at random: use more images, with --val_dir or a "
                "larger --val_share.",
                flush=True,
            )
        # Of the real images: they stay the same.
        self.real = {name: self.features(self._images(name)) for name in ("valA", "valB")}

    def attach(self, model: keras.Model) -> None:
        """Connects a model, and measures now if a killed process did not.

        Raises:
            ValueError: files of an earlier run in the folder cannot be read.
        """
        self.set_model(model)
        # A run that begins anew may have other settings than one that never saved a checkpoint.
        self.rows = self._read_rows(model.steps_done)
        self.best = self._read_best() if self.rows else {}
        self.rows = self.rows if self.best else []  # measured anew if the generators were removed
        self.translators = {name: translator(g) for name, g in model.generators().items()}
        self.board = tf.summary.create_file_writer(str(self.run_dir / "logs"))
        self._measure_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._measure_if_due()
        if self.exhausted:
            self.model.stop_training = True

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` epochs or more have brought no improvement."""
        if not self.config.patience or not self.rows:
            return False
        newest = max(best["epoch"] for best in self.best.values())
        return self.rows[-1]["epoch"] - newest >= self.config.patience

    def report(self) -> str:
        """Describes the best generators in one line."""
        found = (f"{d} at epoch {b['epoch']} (KID {b['kid']:.4g})" for d, b in self.best.items())
        return f"Best generators: {', '.join(found) or 'none measured yet'}, in {self.best_dir}"

    def _measure_if_due(self) -> None:
        step = self.model.steps_done
        epoch, left = divmod(step, self.steps_per_epoch)
        due = step and not left and epoch % self.config.evaluate_every == 0
        if not due or any(row["step"] == step for row in self.rows):
            return
        scores = {}
        for direction, (inputs, targets) in DOMAINS.items():
            fakes = self.features(map(self.translators[direction], self._images(inputs)))
            subset = max(min(len(fakes), len(self.real[targets])) // 2, 2)
            scores[direction] = kid(self.real[targets], fakes, subset_size=subset)[0]
        self._keep_best(scores, epoch, step)
        self.rows.append({"epoch": epoch, "step": step, **scores})
        self._write_rows()
        with self.board.as_default(step=step):
            for direction, value in scores.items():
                tf.summary.scalar(f"kid_{direction}", value)
        self.board.flush()
        text = "   ".join(
            f"{d} {v:.4g} (best {self.best[d]['kid']:.4g})" for d, v in scores.items()
        )
        print(f"validation, epoch {epoch}: KID {text}", flush=True)

    def _keep_best(self, scores: dict[str, float], epoch: int, step: int) -> None:
        for direction, value in scores.items():
            if direction in self.best and self.best[direction]["kid"] <= value:
                continue
            self.best_dir.mkdir(exist_ok=True)
            write_text(self.best_dir / "config.json", self.config.to_json())
            save_generator(self.model.generators()[direction], self.best_dir / f"{direction}.keras")
            self.best[direction] = {"kid": value, "epoch": epoch, "step": step}
            write_text(self.best_dir / "best.json", json.dumps(self.best, indent=1) + "\n")

    def _images(self, name: str) -> Iterator[np.ndarray]:
        images = self.sets[name]
        return (resize(images.read(i), self.size) for i in range(len(images)))

    def _read_best(self) -> dict[str, dict[str, Any]]:
        path = self.best_dir / "best.json"
        kept = [d for d in DOMAINS if (self.best_dir / f"{d}.keras").exists()]
        if not kept:
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            types = {"kid": float, "epoch": int, "step": int}
            return {d: {k: read(found[d][k]) for k, read in types.items()} for d in kept}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}): remove {self.best_dir} to measure anew."
            ) from None

    def _read_rows(self, step: int) -> list[dict[str, Any]]:
        """Returns the measurements up to a step; later ones are those of a killed process."""
        path = self.run_dir / "validation.csv"
        if not path.exists():
            return []
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = [
                    {"epoch": int(row["epoch"]), "step": int(row["step"])}
                    | {direction: float(row[f"kid_{direction}"]) for direction in DOMAINS}
                    for row in csv.DictReader(file)
                ]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} cannot be read ({error}): remove it to continue.") from None
        return [row for row in rows if row["step"] <= step]

    def _write_rows(self) -> None:
        lines = ["epoch,step," + ",".join(f"kid_{direction}" for direction in DOMAINS)]
        lines += [",".join(str(value) for value in row.values()) for row in self.rows]
        write_text(self.run_dir / "validation.csv", "\n".join(lines) + "\n")
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        for direction in DOMAINS:
            axes.plot(
                [row["epoch"] for row in self.rows],
                [row[direction] for row in self.rows],
                marker="o",
                label=direction,
            )
        axes.set(xlabel="epoch", ylabel=f"KID on {Path(self.config.val_features).name}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        with whole_file(self.run_dir / "validation.png") as part:
            figure.savefig(part, dpi=100)
