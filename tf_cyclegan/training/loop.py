"""The training loop, which can be stopped and continued at any step."""

import os
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import ImageSet
from tf_cyclegan.evaluation.features import load_features
from tf_cyclegan.evaluation.metrics import score_translations
from tf_cyclegan.evaluation.scores import pixel_features
from tf_cyclegan.inference.translator import translator
from tf_cyclegan.replicas import worker_count, worker_number
from tf_cyclegan.training.batches import TrainingData, load_dataset
from tf_cyclegan.training.callbacks import (
    Checkpoints,
    LossLog,
    Progress,
    SampleGrid,
    StopOnNonFinite,
    StopSignals,
    both_ways,
)
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import describe_devices, make_cyclegan, make_strategy
from tf_cyclegan.training.health import HealthWarnings
from tf_cyclegan.training.initial_weights import initialize
from tf_cyclegan.training.run_folder import RunFolder, has_checkpoints
from tf_cyclegan.training.validation import BestGenerators

Columns = Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]]


def train(config: Config) -> int:
    """Trains, and returns the exit code: 0, or 128 + the number of the signal that stopped it."""
    # === Data: all images are read and checked before anything is written ===
    config.check()
    folders = [os.path.realpath(path) for path in (config.data_a, config.data_b) if path]
    if len(folders) > len(set(folders)):
        raise ValueError(
            f"data_a and data_b are the same folder, {config.data_a}: name two folders."
        )
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config.strategy)
    replicas = strategy.num_replicas_in_sync
    print(
        f"Training on {describe_devices(strategy)}, {replicas} replica(s), "
        f"{replicas * config.batch_size * config.d_steps} image(s) of each domain in a batch",
        flush=True,
    )
    worker = worker_number(strategy)
    measures = config.evaluate_every and worker == 0
    if measures:
        named = config.val_features
        features = pixel_features if named == "pixels" else load_features(named)
    sets = load_dataset(config)
    print(f"Reading {len(sets['trainA'])} + {len(sets['trainB'])} images ...", flush=True)
    data = TrainingData(sets, config, strategy.num_replicas_in_sync)
    shown = data.examples(sets)
    best = None
    if measures:
        best = BestGenerators(
            config.run_folder, config, sets, data.shown_size, data.steps_per_epoch, features
        )

    # === Model, with the state from its last checkpoint ===
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    if config.init_from and not has_checkpoints(config.run_folder):
        names = initialize(model, config.init_from)
        fresh = [name for name in model.networks() if name not in names]
        print(
            f"Starting from {', '.join(names)} of {config.init_from}"
            + (f"; {', '.join(fresh)} start untrained" if fresh else ""),
            flush=True,
        )
    run = RunFolder(config.run_folder, config, sets, replicas, worker, worker_count(strategy))
    with run:
        return run_to_end(run, config, strategy, sets, data, model, shown, both_ways, best)


def run_to_end(
    run: RunFolder,
    config: Config,
    strategy: tf.distribute.Strategy,
    sets: dict[str, ImageSet],
    data: TrainingData,
    model: keras.Model,
    shown: tuple[list[np.ndarray], list[np.ndarray]],
    columns: Columns,
    best: BestGenerators | None = None,
) -> int:
    """Trains a model from its last checkpoint to its last step, or until a signal stops it.

    Args:
        run: the locked run folder.
        config: the settings.
        strategy: what the model was created with.
        sets: from `load_dataset`.
        data: the training images.
        model: a compiled `CycleGAN` or `Distillation`.
        shown: the images of contact sheets, from `data.examples`.
        columns: makes the rows of contact sheets, as in `SampleGrid`.
        best: measures during training, if anything does.

    Returns:
        The exit code: 0, or 128 + the number of the signal.
    """
    worker = worker_number(strategy)
    total = (config.epochs + config.decay_epochs) * data.steps_per_epoch
    total = min(total, config.max_steps or total)
    with StopSignals() as stop:
        step = run.attach(model)
        print(f"{run.path}: step {step} of {total}, {data.steps_per_epoch} per epoch", flush=True)
        if step >= total:
            print("Nothing is left to train: for more, raise --epochs or --max_steps.", flush=True)

        # === Training: the first epoch, if resumed, and the last may be incomplete ===
        # Workers must save at the same steps, but their clocks differ: ignore the time.
        minutes = config.save_minutes if config.strategy != "multiworker" else 0
        callbacks = [StopOnNonFinite(), Checkpoints(run, stop, config.save_every, minutes)]
        if worker == 0:
            samples = SampleGrid(
                run.path / "samples",
                shown,
                config.sample_every,
                run.path / "logs",
                at_end=False,
                columns=columns,
            )
            samples.set_model(model)  # for draw() below, since fit may have no step left to run
            images_a, images_b = data.examples(sets, 16)
            health = HealthWarnings(images_a, images_b, config.watch_every)
            callbacks[1:1] = [LossLog(run.path, step), samples, health]
            if best:
                best.attach(model)
                callbacks.append(best)
        callbacks.append(Progress())
        while step < total and not stop.number and not (best and best.exhausted):
            epoch, done = divmod(step, data.steps_per_epoch)
            steps = min(data.steps_per_epoch - done, total - step)
            epochs = 1 if done else max((total - step) // data.steps_per_epoch, 1)
            try:
                model.fit(
                    data.distributed(strategy, step, step + epochs * steps),
                    initial_epoch=epoch,
                    epochs=epoch + epochs,
                    steps_per_epoch=steps,
                    shuffle=False,  # the dataset is shuffled already
                    callbacks=callbacks,
                    verbose=1 if sys.stdout.isatty() else 2,
                )
            except tf.errors.ResourceExhaustedError:
                raise MemoryError(
                    "memory or disk space ran out: free some, or use another "
                    f"{config.folder_flag} with a smaller --crop_size, --batch_size or --filters; "
                    "the last checkpoint is intact."
                ) from None
            except tf.errors.UnavailableError:
                raise ConnectionError(
                    "another worker has stopped: restart all workers with the same command; the "
                    "last checkpoint is intact."
                ) from None
            except (tf.errors.OpError, OSError, ValueError) as error:
                # An image that cannot be read, or a file of a callback.
                cause = data.error if isinstance(error, tf.errors.OpError) else error
                if cause is None or model.steps_done == step:
                    raise
                run.save()  # a failed step has changed nothing
                raise ValueError(
                    f"{cause} (training stopped at step {model.steps_done}, which is saved: the "
                    "same command continues)"
                ) from None
            step = model.steps_done
        run.save()
        if stop.number:
            print(f"Stopped at step {step} of {total}; the same command continues.")
            return 128 + stop.number

    # === Results ===
    if worker > 0:
        return 0
    sheet = samples.draw()
    for direction, generator in model.generators().items():
        domain = direction[0].upper()
        if f"truth{domain}" in sets:
            real, truth = sets[f"test{domain}"], sets[f"truth{domain}"]
            try:
                after, before = score_translations(translator(generator), real, truth)
            except ValueError as error:  # a damaged image, or a pair of two sizes
                print(f"{direction}: not compared with the ground truth: {error}")
                continue
            print(
                f"{direction}: distance to the ground truth, {len(real)} test images "
                "(untranslated):"
            )
            print("   ", "   ".join(f"{k} {after[k]:.3f} ({before[k]:.3f})" for k in after))
    if best:
        if step < total:
            print(f"No improvement in {config.patience} epochs: stopped at step {step}.")
        print(best.report())
    files = ", ".join(f"{direction}.keras" for direction in model.generators())
    print(f"Done. Samples: {sheet}   Generators: {run.path}/{files}")
    return 0
