"""Train a CycleGAN.

    python scripts/train.py                       # embedded landscapes, minutes on a CPU
    python scripts/train.py --dataset=cycle_gan/summer2winter_yosemite
    python scripts/train.py --data_dir=my_photos  # with trainA/ and trainB/ in it
    python scripts/train.py --data_a=photos --data_b=paintings --run_dir=runs/mine
    python scripts/train.py --model=pix2pix --data_dir=my_pairs  # where true pairs are known

The same command again continues where the last checkpoint ends. Ctrl-C and SIGTERM save first.
The defaults below are the paper's; the embedded data set has smaller ones (DEMO in config.py).
"""

import sys
from dataclasses import replace

from tf_cyclegan.cli import command
from tf_cyclegan.training.config import DEMO, PIX2PIX, Config


def main(config: Config) -> int:
    """Trains, and returns the exit code: 0, or 128 + the signal that stopped it."""
    import tensorflow as tf  # after --help, which needs none of it

    from tf_cyclegan.cyclegan import worker_count, worker_number
    from tf_cyclegan.data import TrainingData, load_dataset
    from tf_cyclegan.evaluation.metrics import score_translations
    from tf_cyclegan.inference.translator import translator
    from tf_cyclegan.training.callbacks import (
        Checkpoints,
        LossLog,
        Samples,
        StopOnNonFinite,
        StopSignals,
    )
    from tf_cyclegan.training.factory import make_cyclegan, make_strategy
    from tf_cyclegan.training.health import Watch
    from tf_cyclegan.training.run_folder import RunFolder

    # === Data: everything is read, and so checked, before anything is written ===
    config.check()
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config.strategy)
    sets = load_dataset(config)
    print(f"Reading {len(sets['trainA'])} + {len(sets['trainB'])} images ...", flush=True)
    data = TrainingData(sets, config, strategy.num_replicas_in_sync)
    shown = data.examples(sets)
    total = (config.epochs + config.decay_epochs) * data.steps_per_epoch
    total = min(total, config.max_steps or total)

    # === Model, and what an earlier process left of it ===
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    worker = worker_number(strategy)
    replicas = strategy.num_replicas_in_sync
    run = RunFolder(config.run_folder, config, sets, replicas, worker, worker_count(strategy))
    with run, StopSignals() as stop:
        step = run.attach(model)
        print(f"{run.path}: step {step} of {total}, {data.steps_per_epoch} an epoch", flush=True)

        # === Training: whole epochs but for the first, if resumed in the middle, and the last ===
        # The clocks of several workers differ: there, checkpoints go by steps alone.
        minutes = config.save_minutes if config.strategy != "multiworker" else 0
        callbacks = [StopOnNonFinite(), Checkpoints(run, stop, config.save_every, minutes)]
        if worker == 0:
            samples = Samples(run.path, *shown, config.sample_every)
            samples.set_model(model)  # which fit does, but there may be no step left to fit
            watch = Watch(*data.examples(sets, 16), config.watch_every)
            callbacks[1:1] = [LossLog(run.path, step), samples, watch]
        while step < total and not stop.number:
            epoch, done = divmod(step, data.steps_per_epoch)
            steps = min(data.steps_per_epoch - done, total - step)
            epochs = 1 if done else max((total - step) // data.steps_per_epoch, 1)
            try:
                model.fit(
                    data.distributed(strategy, step, step + epochs * steps),
                    initial_epoch=epoch,
                    epochs=epoch + epochs,
                    steps_per_epoch=steps,
                    shuffle=False,  # the data set has its own order
                    callbacks=callbacks,
                    verbose=1 if sys.stdout.isatty() else 2,
                )
            except tf.errors.ResourceExhaustedError:
                raise MemoryError(
                    "memory or disk space ran out: free some, or use another --run_dir with a "
                    "smaller --crop_size, --batch_size or --filters; the last checkpoint is whole."
                ) from None
            except tf.errors.UnavailableError:
                raise ConnectionError(
                    "another worker is gone: start all of them again with the same command; the "
                    "last checkpoint is whole."
                ) from None
            except tf.errors.OpError:
                if data.error is None:
                    raise
                run.save()  # the step that asked for the image has changed nothing
                raise ValueError(
                    f"{data.error} (training stopped at step {model.steps_done}, which is saved: "
                    "the same command continues)"
                ) from None
            step = model.steps_done
        run.save()
        if stop.number:
            print(f"Stopped at step {step} of {total}; the same command continues.")
            return 128 + stop.number

        # === What came of it ===
        if worker > 0:
            return 0
        for direction, domain in (("a2b", "A"), ("b2a", "B")):
            if f"truth{domain}" in sets:
                translate = translator(getattr(model, direction))
                real, truth = sets[f"test{domain}"], sets[f"truth{domain}"]
                after, before = score_translations(translate, real, truth)
                print(
                    f"{direction}: distance to the truth, {len(real)} test images (untranslated):"
                )
                print("   ", "   ".join(f"{k} {after[k]:.3f} ({before[k]:.3f})" for k in after))
        print(f"Done. Samples: {samples.draw()}   Generators: {run.path}/a2b.keras, b2a.keras")
        return 0


if __name__ == "__main__":
    config = command.parse(Config, __doc__)
    defaults = DEMO if config.synthetic else Config()
    if config.model == "pix2pix":
        defaults = replace(defaults, **PIX2PIX)
    command.run(main, command.parse(Config, __doc__, defaults))
