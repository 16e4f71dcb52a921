"""The run folder: what a training leaves behind, and how it continues.

config.json              every setting
checkpoints/             the last few, of everything that a step reads or changes
logs/  losses.csv  losses.png  samples/
a2b.keras  b2a.keras     the generators as of the last checkpoint, float32
"""

import dataclasses
import os
from pathlib import Path

import tensorflow as tf

from tf_cyclegan.config import Config

# What may differ between a training and its continuation: the rest would make it another one.
MAY_CHANGE = {
    "epochs", "decay_epochs", "max_steps", "data_dir", "data_a", "data_b", "paired", "cache",
    "run_dir", "resume", "sample_every", "watch_every", "save_every", "save_minutes",
    "keep_checkpoints", "recompute",
}  # fmt: skip


class RunFolder:
    """A training's folder, new or continued.

    Args:
        path: the folder; made if it is not there.
        config: of this training.
        worker: the number of this process in a cluster. Each keeps checkpoints of its own, since
            pools differ; all else is written by number 0.
        workers: processes in the cluster, all with this folder on a disk that they share.

    Raises:
        ValueError: the folder belongs to a training with other settings or another number of
            workers, holds one while `config.resume` is off, or cannot be written.
    """

    def __init__(self, path: Path, config: Config, worker: int = 0, workers: int = 1):
        self.path = Path(path)
        self.chief = worker == 0
        self.keep = config.keep_checkpoints
        self.folders = [self.path / "checkpoints" / f"worker_{i}" for i in range(workers)]
        self.checkpoints = self.folders[worker]
        before = sum(1 for folder in self.path.glob("checkpoints/worker_*") if saved_steps(folder))
        if before > workers or (before and not all(folder.exists() for folder in self.folders)):
            raise ValueError(
                f"{self.path} holds a training of another number of workers, or on a disk that "
                f"they do not share ({before} of {workers} left checkpoints): use as many, or "
                "another --run_dir."
            )
        saved = self.path / "config.json"
        # Without a checkpoint there is nothing that other settings could spoil.
        if saved.exists() and tf.train.latest_checkpoint(self.checkpoints):
            self._check_same(config, read_config(self.path))
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if self.chief:
                write_text(saved, config.to_json())
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}.") from None

    def _check_same(self, config, before):
        old, new = dataclasses.asdict(before), dataclasses.asdict(config)
        changed = [k for k in old if old[k] != new[k] and k not in MAY_CHANGE]
        if changed:
            was = ", ".join(f"--{k}={old[k]}, now {new[k]}" for k in changed)
            raise ValueError(
                f"{self.path} holds a training with other settings ({was}): use another --run_dir, "
                "or the settings it has."
            )
        if not config.resume:
            raise ValueError(
                f"{self.path} holds a training already: leave --no_resume out to continue it, or "
                "use another --run_dir."
            )

    def attach(self, model) -> int:
        """Names what is saved, and restores the last checkpoint that all workers have, if any.

        Args:
            model: a compiled `CycleGAN`, in the scope of its strategy.

        Returns:
            The steps done so far.

        Raises:
            ValueError: the checkpoint does not fit the model.
        """
        self.model = model
        checkpoint = tf.train.Checkpoint(
            a2b=model.a2b,
            b2a=model.b2a,
            d_a=model.d_a,
            d_b=model.d_b,
            generator_optimizer=model.generator_optimizer,
            discriminator_optimizer=model.discriminator_optimizer,
            pool_a=_numbered(model.pool_a),
            pool_b=_numbered(model.pool_b),
            dropout=_numbered(_dropout_states(model)),
            step=model.step,
        )
        # A worker may have been killed before it saved a step that the others have.
        common = max(set.intersection(*map(saved_steps, self.folders)), default=0)
        forget_after(common, self.checkpoints)
        self.manager = tf.train.CheckpointManager(checkpoint, self.checkpoints, self.keep)
        if self.manager.latest_checkpoint:
            try:
                status = checkpoint.restore(self.manager.latest_checkpoint)
                status.assert_existing_objects_matched()
            except (AssertionError, ValueError, tf.errors.OpError) as error:
                reason = str(error).split("\n")[0][:200]
                raise ValueError(
                    f"{self.manager.latest_checkpoint} does not fit this training ({reason}): use "
                    "another --run_dir."
                ) from None
        return model.steps_done

    def save(self):
        """Saves everything; a process killed meanwhile leaves the checkpoint before it whole."""
        step = self.model.steps_done
        if self.manager.latest_checkpoint and self.manager.latest_checkpoint.endswith(f"-{step}"):
            return
        if self.chief:
            save_generator(self.model.a2b, self.path / "a2b.keras")
            save_generator(self.model.b2a, self.path / "b2a.keras")
        # Last: once this step has a checkpoint, the generators beside it are as new.
        self.manager.save(checkpoint_number=step)


def saved_steps(folder: Path) -> set[int]:
    """The steps of the whole checkpoints in a worker's folder."""
    state = tf.train.get_checkpoint_state(folder)
    paths = state.all_model_checkpoint_paths if state else []
    return {int(path.rpartition("-")[2]) for path in paths}


def forget_after(step: int, folder: Path):
    """Removes the checkpoints of later steps."""
    steps = sorted(saved_steps(folder))
    kept = [str(folder / f"ckpt-{s}") for s in steps if s <= step]
    if len(kept) == len(steps):
        return
    if kept:
        tf.compat.v1.train.update_checkpoint_state(folder, kept[-1], kept)
    else:
        (folder / "checkpoint").unlink()
    for later in steps[len(kept) :]:
        for file in folder.glob(f"ckpt-{later}.*"):
            file.unlink()


def _numbered(parts):
    return tf.train.Checkpoint(**{f"number_{i}": part for i, part in enumerate(parts)})


def _dropout_states(model):
    """The random states of the Dropout layers, which Keras leaves out of TensorFlow checkpoints."""
    networks = (model.a2b, model.b2a)
    variables = [v for network in networks for v in network.non_trainable_variables]
    return [v.value for v in variables if v.path.endswith("seed_generator_state")]


def read_config(run_dir) -> Config:
    """The settings of a run folder.

    Raises:
        ValueError: it is no run folder, or its config.json is damaged.
    """
    path = Path(run_dir) / "config.json"
    try:
        return Config.from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run_dir} is no run folder: it has no config.json.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def save_generator(generator, path):
    """Saves a generator as a float32 `.keras` file, which any later use can load as it is.

    Args:
        generator: built; of any dtype policy.
        path: the file, replaced in one move once it is whole.
    """
    single = type(generator).from_config(generator.get_config() | {"dtype": "float32"})
    single.build_from_config(generator.get_build_config())
    single.set_weights(generator.get_weights())
    part = Path(path).with_suffix(".part.keras")
    single.save(part)
    os.replace(part, path)


def write_text(path, text):
    """Writes a UTF-8 text file whole or not at all; what has no UTF-8 becomes "?"."""
    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8", errors="replace")
    os.replace(part, path)
