"""The run folder, which stores the output of a training run and lets it continue.

config.json              all settings
run.json                 other facts about the run: its images, replicas and workers
checkpoints/             the last few checkpoints of everything that a step reads or changes
logs/  losses.csv  losses.png  samples/
a2b.keras  b2a.keras     the generators of the last checkpoint, float32; with --ema, the averages
validation.csv  .png     KID on validation images, with --evaluate_every
best/                    the generators with the lowest KID, as a folder for --run_dir
"""

import dataclasses
import json
import tempfile
import zipfile
from pathlib import Path

import filelock
import tensorflow as tf

from tf_cyclegan.cyclegan import is_seed
from tf_cyclegan.data.image_files import SUFFIXES, DatasetError, ImageSet
from tf_cyclegan.data.record import describe_images, find_difference
from tf_cyclegan.files import whole_file, write_text
from tf_cyclegan.training.batches import load_dataset
from tf_cyclegan.training.checkpoint_files import (
    find_damage,
    read_checkpoint,
    remove_old,
    remove_unfinished,
    saved_steps,
    write_checkpoint,
)
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.student_config import StudentConfig

# Settings that may change when a training run continues; others would alter its results.
MAY_CHANGE = {
    "epochs", "decay_epochs", "max_steps", "data_dir", "data_a", "data_b", "paired", "recursive",
    "side_by_side", "cache", "run_dir", "resume", "allow_other_data", "sample_every",
    "watch_every", "save_every", "save_minutes", "keep_checkpoints", "recompute", "val_dir",
    "evaluate_every", "patience",
}  # fmt: skip


class RunFolder:
    """The folder of a new or continued training run; a context manager that locks the folder.

    Args:
        path: the folder, created if it does not exist.
        config: the settings of this run.
        sets: the images of this run, from `load_dataset`; or None if no images are read, which
            leaves the record of them unchanged.
        replicas: total number of replicas of all workers.
        worker: number of this process in a cluster. Number 0, the chief, saves the shared state;
            each of the others saves only its own image pools and random states.
        workers: number of processes in the cluster. All need this folder on a shared disk.

    Raises:
        ValueError: the folder belongs to a run with other settings, other images, or another
            number of replicas or workers; it contains a run while `config.resume` is off, or
            generators without a checkpoint; another process uses it; or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        sets: dict[str, ImageSet],
        replicas: int = 1,
        worker: int = 0,
        workers: int = 1,
    ):
        self.path = Path(path)
        self.flag = config.folder_flag
        self.chief = worker == 0
        # Workers may be killed when only some have saved: all need one checkpoint in common.
        self.keep = max(config.keep_checkpoints, 2 if workers > 1 else 1)
        self.folders = [self.path / "checkpoints" / f"worker_{i}" for i in range(workers)]
        self.checkpoints = self.folders[worker]
        facts = {
            "replicas": replicas,
            "workers": workers,
            "images": {
                name: describe_images(images)
                for name, images in sets.items()
                if name in ("trainA", "trainB", "valA", "valB")
            },
        }
        if has_checkpoints(self.path):
            self._check_same(config, facts)
        else:
            self._check_new()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for folder in {self.path, self.checkpoints}:
                # Fails now rather than at the first save.
                tempfile.TemporaryFile(dir=folder).close()
            self.lock = filelock.FileLock(self.checkpoints / "lock")
            self.lock.acquire(timeout=0)
            remove_unfinished(self.checkpoints)
            if self.chief:
                write_text(self.path / "config.json", config.to_json())
                write_text(self.path / "run.json", json.dumps(facts, indent=1) + "\n")
        except filelock.Timeout:
            raise ValueError(
                f"{self.path} is in use by another training process: wait until it ends, or "
                f"use another {self.flag}."
            ) from None
        except OSError as error:
            raise ValueError(
                f"{self.path} cannot be written ({error.strerror or error}): check its permissions "
                f"and the disk space, or use another {self.flag}."
            ) from None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.lock.release()

    def _check_new(self):
        """Raises a ValueError if a new run would replace files, or mix its files with images."""
        if any((self.path / f"{name}.keras").exists() for name in ("a2b", "b2a")):
            raise ValueError(
                f"{self.path} holds generators but no checkpoints, for example imported weights, "
                f"and training would replace them: use another {self.flag}, and to start from them "
                f"--init_from={self.path}."
            )
        if (self.path / "config.json").exists():  # of a run that saved no checkpoint
            try:
                read_config(self.path)
            except ValueError:
                raise ValueError(
                    f"{self.path}/config.json is not of a training run, and training would "
                    f"replace it: use another {self.flag}."
                ) from None
        elif any(path.suffix.lower() in SUFFIXES for path in self.path.glob("*")):
            raise ValueError(
                f"{self.path} holds images, and the files of the run would be among them: use "
                f"another {self.flag}."
            )

    def _check_same(self, config, facts):
        if not (self.path / "config.json").exists():
            raise ValueError(
                f"{self.path} holds checkpoints but no config.json with the settings of the "
                f"training run: restore that file, or use another {self.flag}."
            )
        earlier = read_config(self.path)
        old, new = dataclasses.asdict(earlier), dataclasses.asdict(config)
        if old.keys() != new.keys():
            raise ValueError(
                f"{self.path} holds the training run of a {kind_of(old)}, not of a {kind_of(new)}: "
                f"use another {self.flag}."
            )
        if config.synthetic and not earlier.synthetic:
            named = [
                f"--{k}={old[k]}" for k in ("dataset", "data_dir", "data_a", "data_b") if old[k]
            ]
            raise ValueError(
                f"no images are named, but {self.path} was trained with {' '.join(named)}: add "
                f"that, or use another {self.flag}."
            )
        changed = [k for k in old if old[k] != new[k] and k not in MAY_CHANGE]
        if changed:
            was = ", ".join(f"--{k}={old[k]}, now {new[k]}" for k in changed)
            raise ValueError(
                f"{self.path} holds a training run with other settings ({was}): use the same "
                f"settings, or another {self.flag}; --init_from={self.path} starts a new run from "
                "its weights."
            )
        held_out = [bool(c["evaluate_every"]) and not c["val_dir"] for c in (old, new)]
        if held_out == [False, True]:
            raise ValueError(
                f"{self.path} was trained on all images, and --evaluate_every would now measure on "
                "some of them: name a folder of other images with --val_dir."
            )
        if held_out == [True, False] and not config.allow_other_data:
            raise ValueError(
                f"{self.path} was trained without the images that --evaluate_every holds out: keep "
                "that flag and add no --val_dir, or train on these images as well with "
                "--allow_other_data."
            )
        if not config.resume:
            raise ValueError(
                f"{self.path} already holds a training run: remove --no_resume to continue it, or "
                f"use another {self.flag}."
            )
        if not saved_steps(self.folders[0]):
            raise ValueError(
                f"{self.folders[0]} contains no checkpoint, but other workers' folders do: restore "
                "it (all workers need the run folder on a shared disk), or use another "
                f"{self.flag}."
            )
        before = read_facts(self.path)
        for name, remedy in (
            ("workers", "start the same number"),
            ("replicas", "use as many devices (CUDA_VISIBLE_DEVICES, --strategy)"),
        ):
            if before.get(name, facts[name]) != facts[name]:
                raise ValueError(
                    f"{self.path} was trained on {before[name]} {name}, but now there would be "
                    f"{facts[name]}, which changes the global batch: {remedy}, or use another "
                    f"{self.flag}."
                )
        if "images" not in before:
            self._say(f"{self.path}/run.json is missing: the images are not checked.")
        for name, images in sorted(facts["images"].items(), reverse=True):  # validation first
            recorded = before.get("images", {}).get(name, images)
            other = find_difference(recorded, images)
            if other and name in ("valA", "valB"):
                raise ValueError(
                    f"the images for validation have changed ({name} now has {other}), so that "
                    "values of KID cannot be compared: use the same images, or another "
                    f"{self.flag} with --init_from={self.path}."
                )
            if other and not config.allow_other_data:
                raise ValueError(
                    f"{self.path} was trained on another dataset ({name} now has {other}): use "
                    f"another {self.flag}, or continue on these images with --allow_other_data."
                )

    def attach(self, model) -> int:
        """Connects a model to this folder, and restores the newest intact checkpoint, if any.

        A checkpoint that all workers have is preferred, since only it continues bit for bit. If
        a checkpoint is damaged or missing, a message says so and what is used instead.

        Args:
            model: a compiled `CycleGAN` or `Distillation`. Call this outside of its strategy's
                scope: inside, saving the generators would create mirrored variables on one worker
                only.

        Returns:
            The number of steps done.

        Raises:
            ValueError: no checkpoint is intact, or it does not fit the model.
        """
        self.model = model
        shared = model.networks() | model.named_averages() | model.optimizers()
        shared["step"] = model.step
        own = {
            "pool_a": _numbered(model.pool_a),
            "pool_b": _numbered(model.pool_b),
            "dropout": _numbered(_dropout_states(model)),
        }
        self.checkpoint = tf.train.Checkpoint(**(shared | own if self.chief else own))
        self.saved = None
        step, complete = self._newest_whole()
        if step is None:
            return 0
        try:
            if not self.chief:
                read_checkpoint(tf.train.Checkpoint(**shared), self.folders[0], step)
            if self.chief or complete:
                read_checkpoint(self.checkpoint, self.checkpoints, step)
        except ValueError as error:
            raise ValueError(
                f"{self.checkpoints}/ckpt-{step} does not fit this training run ({error}): use "
                f"another {self.flag}."
            ) from None
        if complete:
            self.saved = step
        if self.chief:
            self._save_generators_after(step)
        return model.steps_done

    def _newest_whole(self):
        """Returns (step to continue from or None for a new run, whether all workers have it)."""
        steps = [set(saved_steps(folder)) for folder in self.folders]
        common = set.intersection(*steps)
        for step in sorted(common, reverse=True) + sorted(steps[0] - common, reverse=True):
            needed = self.folders if step in common else self.folders[:1]
            damage = {folder: find_damage(folder, step) for folder in needed}
            for folder, reason in damage.items():
                if reason:
                    self._say(f"{folder}/ckpt-{step} is damaged and is ignored: {reason}")
            if not any(damage.values()):
                if step not in common:
                    self._say(
                        "No step has intact checkpoints of all workers: continuing from step "
                        f"{step} of {self.folders[0]}. The other workers' image pools start empty."
                    )
                return step, step in common
        if steps[0]:
            raise ValueError(
                f"No checkpoint in {self.folders[0]} is intact: restore one from a backup, or use "
                f"another {self.flag}."
            )
        return None, False

    def _say(self, text):
        if self.chief:
            print(text, flush=True)

    def save(self):
        """Saves everything. If the process is killed meanwhile, earlier checkpoints stay intact.

        Raises:
            FloatingPointError: a value in a network, optimizer or image pool is NaN or infinite.
                Nothing is saved then.
            OSError: the folder cannot be written, or the disk is full.
        """
        step = self.model.steps_done
        if step == self.saved:
            return
        if name := self.model.first_non_finite():
            raise FloatingPointError(
                f"{name} holds NaN or infinity after step {step}: try a lower --learning_rate, or "
                f"--precision=float32, in another {self.flag}. This step is not saved; the last "
                "checkpoint is intact."
            )
        write_checkpoint(self.checkpoint, self.checkpoints, step)
        if self.chief:
            self._save_generators()
        remove_old(self.checkpoints, self.keep, step)
        self.saved = step

    def _save_generators(self):
        for direction, generator in self.model.generators().items():
            save_generator(generator, self.path / f"{direction}.keras")

    def _save_generators_after(self, step):
        """Saves the generators if the process was killed before it had, or a file is damaged."""
        written = (self.checkpoints / f"ckpt-{step}.index").stat().st_mtime_ns
        files = [self.path / f"{name}.keras" for name in self.model.generators()]
        if not all(zipfile.is_zipfile(f) and f.stat().st_mtime_ns >= written for f in files):
            self._save_generators()


def read_facts(run_dir: Path) -> dict:
    """Returns the content of run.json, or what is known of a run of an earlier version.

    Raises:
        ValueError: run.json is damaged.
    """
    path = run_dir / "run.json"
    if not path.exists():
        found = [f for f in run_dir.glob("checkpoints/worker_*") if saved_steps(f)]
        return {"workers": len(found)}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        for images in facts["images"].values():
            if not {"count", "first", "names", "samples"} <= images.keys():
                raise ValueError("it does not describe the images")
        return {name: facts[name] for name in ("workers", "replicas", "images")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): restore it, or use another run folder."
        ) from None


def kind_of(settings: dict) -> str:
    """Names what a run with these settings trains."""
    return "student" if "teacher" in settings else "CycleGAN"


def has_checkpoints(path: Path) -> bool:
    """Returns whether a folder holds a training run with a checkpoint."""
    return any(map(saved_steps, path.glob("checkpoints/worker_*")))


def _numbered(parts):
    return tf.train.Checkpoint(**{f"number_{i}": part for i, part in enumerate(parts)})


def _dropout_states(model):
    """Returns the random states of Dropout layers, which TensorFlow checkpoints of Keras lack."""
    generators = [network for name, network in model.networks().items() if name[0] != "d"]
    variables = [v for network in generators for v in network.non_trainable_variables]
    return [v.value for v in variables if is_seed(v)]


def read_config(run_dir) -> Config:
    """Returns the settings of a run folder.

    Raises:
        ValueError: it is not a run folder, or its config.json is damaged.
    """
    path = Path(run_dir) / "config.json"
    try:
        text = path.read_text(encoding="utf-8-sig")
        return (StudentConfig if '"teacher":' in text else Config).from_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run_dir} is not a run folder: it has no config.json.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def load_run_images(run_dir, **changes) -> dict[str, ImageSet]:
    """Loads the dataset in the config.json of a run folder; see `load_dataset`.

    Args:
        run_dir: the run folder.
        changes: settings that replace those of config.json.

    Raises:
        ValueError: it is not a run folder.
        DatasetError: the images do not exist or cannot be read.
    """
    config = dataclasses.replace(read_config(run_dir), **changes)
    if config.val_dir:  # images that only training needs
        config = dataclasses.replace(config, val_dir=None, evaluate_every=0)
    try:
        return load_dataset(config)
    except DatasetError as error:
        raise DatasetError(
            f"{error} (from {run_dir}/config.json; relative paths in it start at the folder that "
            "you trained from)"
        ) from None


def load_test_images(run_dir, direction: str, output=None) -> ImageSet:
    """Loads the test images of a run's dataset for one direction, to translate them.

    Args:
        run_dir: the run folder.
        direction: "a2b" or "b2a".
        output: the folder for the translations, if any.

    Returns:
        An `ImageSet` whose names are file names with a suffix of an image format.

    Raises:
        ValueError: it is not a run folder, its dataset has no test images, or `output` is the
            folder of the originals.
    """
    split = "testA" if direction == "a2b" else "testB"
    try:
        config = read_config(run_dir)
    except ValueError as error:
        raise ValueError(f"{error} Give images with --input.") from None
    if config.data_dir and output:
        for name in ("test", "val") if config.side_by_side else (split,):
            originals = Path(config.data_dir) / name
            if originals.resolve() == Path(output).resolve():
                raise ValueError(f"{output} holds the originals: use another --output.")
    sets = load_run_images(run_dir)
    if split not in sets:
        raise ValueError(f"{run_dir} was trained without {split}: give images with --input.")
    images = sets[split]
    names = [n if Path(n).suffix.lower() in SUFFIXES else f"{n}.png" for n in images.names]
    return ImageSet(tuple(names), images.read)


def save_generator(generator, path):
    """Saves a generator as a float32 `.keras` file.

    Args:
        generator: a built generator of any dtype policy.
        path: the file. An existing file is replaced atomically.
    """
    single = type(generator).from_config(generator.get_config() | {"dtype": "float32"})
    single.build_from_config(generator.get_build_config())
    single.set_weights(generator.get_weights())
    with whole_file(path) as part:
        single.save(part)
