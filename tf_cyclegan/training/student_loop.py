"""Trains a student from a teacher: a run folder or a generator file to a run folder."""

import shutil
from pathlib import Path

import keras
import tensorflow as tf

from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.export.multiply_adds import convolutions
from tf_cyclegan.generators import in_float32
from tf_cyclegan.inference.translator import directions_in, find_generator
from tf_cyclegan.interop import load_discriminator, load_generator
from tf_cyclegan.replicas import worker_count, worker_number
from tf_cyclegan.training.batches import TrainingData, load_dataset
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.distillation import Distillation
from tf_cyclegan.training.factory import (
    describe_devices,
    make_adam,
    make_discriminator,
    make_generator,
    make_strategy,
)
from tf_cyclegan.training.initial_weights import read_discriminators
from tf_cyclegan.training.loop import run_to_end
from tf_cyclegan.training.run_folder import RunFolder, has_checkpoints, read_config, save_generator
from tf_cyclegan.training.student_config import StudentConfig


def train_student(config: StudentConfig) -> int:
    """Trains a student, and returns the exit code: 0, or 128 + the number of the signal.

    The teacher is copied into the folder `teacher` of the run folder, from where a run that
    continues reads it: it does not change when the teacher's own training run goes on.

    Raises:
        ValueError: the teacher does not exist or does not fit the settings.
    """
    # === Data and teacher: all is read and checked before anything is written ===
    config.check()
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config.strategy)
    replicas = strategy.num_replicas_in_sync
    print(f"Training on {describe_devices(strategy)}, {replicas} replica(s)", flush=True)
    kept = config.run_folder / "teacher"
    resumes = kept.is_dir() and has_checkpoints(config.run_folder)
    if resumes and config.direction not in (found := directions_in(kept)):
        raise ValueError(
            f"{config.run_folder} holds a student for {found[0]}, not for {config.direction}: use "
            "another --output."
        )
    with strategy.scope():
        teacher, discriminator, source = load_teacher(kept if resumes else config.teacher, config)
    check_fits(teacher, discriminator, config, source)
    sets = load_dataset(config)
    print(f"Reading {len(sets['trainA'])} + {len(sets['trainB'])} images ...", flush=True)
    data = TrainingData(sets, config, replicas)
    if config.both_domains and (data.shape_a != data.shape_b or None in data.shape_a):
        raise ValueError("The images of both domains differ in size: use --no_both_domains.")
    shown = data.examples(sets)

    # === Student ===
    model = make_distillation(config, strategy, teacher, discriminator, data.steps_per_epoch)
    compare(teacher, model.student, source, (1, *data.shown_size, teacher.input_channels))
    worker = worker_number(strategy)
    run = RunFolder(config.run_folder, config, sets, replicas, worker, worker_count(strategy))
    with run:
        if worker == 0 and not resumes:
            shutil.rmtree(kept, ignore_errors=True)  # of a start that saved no checkpoint
            kept.mkdir()
            save_generator(teacher, kept / f"{config.direction}.keras")
            if discriminator is not None:
                save_generator(discriminator, kept / f"{model.critic_name}.keras")
        return run_to_end(run, config, strategy, sets, data, model, shown, Distillation.rows)


def load_teacher(
    teacher: str | Path, config: StudentConfig
) -> tuple[keras.Model, keras.Model | None, Path]:
    """Loads the teacher's generator, and its discriminator of the target domain if it has one.

    Args:
        teacher: as `StudentConfig.teacher`, or the folder that an earlier start wrote. Of a run
            folder with best generators, the best one is used.
        config: the settings.

    Returns:
        The generator, the discriminator or None, and the file or folder of the generator.

    Raises:
        ValueError: there is no generator of this direction.
    """
    path, direction = Path(teacher), config.direction
    name = f"d_{direction[-1]}"
    best = path / "best"
    source = best if (best / f"{direction}.keras").exists() else path
    generator = find_generator(source, direction)
    discriminator = None
    if path.is_file():
        discriminator = getattr(load_generator(path), name, None)  # of a saved CycleGAN
    elif (path / f"{name}.keras").exists():
        discriminator = load_discriminator(path / f"{name}.keras")
    elif (path / "config.json").exists():
        theirs = read_config(path)
        if isinstance(theirs, StudentConfig):  # has that of its own teacher, if any
            return generator, load_teacher(path / "teacher", config)[1], source
        channels = theirs.channels_a, theirs.channels_b
        inputs, outputs = channels if direction == "a2b" else channels[::-1]
        network = make_discriminator(theirs, outputs, inputs)
        if theirs.lambda_adversarial and read_discriminators(path, **{name: network}):
            discriminator = network
    if not isinstance(discriminator, PatchDiscriminator | PixelDiscriminator):
        return generator, None, source
    return generator, in_float32(discriminator), source


def check_fits(
    teacher: keras.Model, discriminator: keras.Model | None, config: StudentConfig, source: Path
) -> None:
    """Raises a ValueError if the data settings of the config do not fit a teacher."""
    channels = config.channels_a, config.channels_b
    wanted = channels if config.direction == "a2b" else channels[::-1]
    own = teacher.input_channels, teacher.channels
    if own != wanted:
        a, b = own if config.direction == "a2b" else own[::-1]
        raise ValueError(
            f"{source} translates images of {own[0]} channels to {own[1]}: use --channels_a={a} "
            f"--channels_b={b}."
        )
    if config.both_domains and own[0] != own[1]:
        raise ValueError("The domains differ in channels: use --no_both_domains.")
    if "crop" not in config.preprocess:
        if teacher.multiple > config.multiple:
            raise ValueError(
                f"The teacher needs sides that are multiples of {teacher.multiple}: use a "
                "--preprocess with crop."
            )
        return
    if config.crop_size % teacher.multiple:
        raise ValueError(
            f"crop_size {config.crop_size} is not a multiple of {teacher.multiple}, as the teacher "
            "needs: use another --crop_size."
        )
    smallest = 3 * 2 ** getattr(discriminator, "strided_layers", 0)
    if discriminator is not None and config.crop_size < smallest:
        raise ValueError(
            f"crop_size {config.crop_size} is too small for the teacher's discriminator: use "
            f"--crop_size={smallest} or more."
        )


def make_distillation(
    config: StudentConfig,
    strategy: tf.distribute.Strategy,
    teacher: keras.Model,
    discriminator: keras.Model | None,
    steps_per_epoch: int,
) -> Distillation:
    """Returns a compiled `Distillation`, its student initialized by the seed of the config."""

    features = config.lambda_features
    if features is None:
        features = 0.0 if discriminator is None else 1.0
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        student = make_generator(config, teacher.input_channels, teacher.channels)
        model = Distillation(student, teacher, config.direction, discriminator, config.both_domains)
        # The critic is trained with the paper's learning rate and beta_1.
        paper = Config(
            epochs=config.epochs, decay_epochs=config.decay_epochs, precision=config.precision
        )
        model.compile(
            make_adam(config, config.learning_rate, steps_per_epoch),
            make_adam(paper, paper.learning_rate, steps_per_epoch),
            config.lambda_teacher,
            config.lambda_ssim,
            features,
            config.lambda_adversarial,
            config.adversarial,
            config.jit_compile,
        )
    return model


def compare(teacher: keras.Model, student: keras.Model, source: Path, shape) -> None:
    """Prints weights and multiply-adds of both networks, for an image of a shape."""
    counts = [(sum(convolutions(n, shape)), n.count_params()) for n in (teacher, student)]
    for name, (operations, weights) in zip((f"Teacher {source}", "Student"), counts, strict=True):
        print(f"{name}: {operations / 1e6:,.1f} million multiply-adds, {weights:,} weights")
    fewer = [before / after for before, after in zip(*counts, strict=True)]
    print(f"{fewer[0]:.0f} times fewer multiply-adds, {fewer[1]:.0f} times fewer weights")
