"""Train ours and plain PyTorch on the same images, for equal steps and equal time, and compare.

    python benchmarks/quality.py --train="--data_dir=apple2orange64 --load_size=72 --crop_size=64 \\
        --filters=32 --blocks=6 --d_filters=32 --epochs=1 --decay_epochs=1" \\
        --features=squeezenet.h5 --output=quality

For each random seed, tf-cyclegan trains with these flags, benchmarks/peer.py for the same number of
steps on the same images, crops and flips, and benchmarks/peer.py for the same wall clock time, with
a learning rate that falls by the clock. tf-cyclegan evaluate measures all three on the test images.
Run it on an idle machine. What is finished is not repeated.
"""

import json
import multiprocessing
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import report

from tf_cyclegan.cli import train
from tf_cyclegan.files import write_text
from tf_cyclegan.training.config import Config

# Settings that the peer has, too, or that do not alter what is computed.
CAN_DIFFER = (
    "dataset data_dir data_a data_b recursive max_images preprocess load_size crop_size flip "
    "flip_vertical rotate color_jitter cache batch_size filters blocks d_filters lambda_identity "
    "pool_size epochs decay_epochs seed run_dir"
).split()


@dataclass(frozen=True)
class Options:
    """The flags."""

    train: str
    """Flags of tf-cyclegan train: data, networks and length; other settings must be the paper's."""
    output: str
    """Folder for the run folders and quality.json."""
    features: str = "pixels"
    """As in tf-cyclegan evaluate."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds."""


def main(options: Options) -> int:
    """Trains and evaluates what is missing, prints, writes, and returns the exit code."""
    config, paper = train.parse(shlex.split(options.train))[1], Config()
    for name, value in vars(config).items():
        if name not in CAN_DIFFER and value != getattr(paper, name):
            raise ValueError(f"{name} is {value}: the peer has only {getattr(paper, name)}.")
    output = Path(options.output)
    record = output / "train.txt"
    if record.exists() and record.read_text() != options.train:
        raise ValueError(f"{output} has runs with other --train flags: use another --output.")
    output.mkdir(parents=True, exist_ok=True)
    write_text(record, options.train)
    results: dict[str, list[dict]] = {"ours": [], "peer, equal steps": [], "peer, equal time": []}
    for seed in options.seeds:
        folder = output / f"seed_{seed}"
        ours = folder / "ours"
        flags = [*shlex.split(options.train), f"--seed={seed}", f"--run_dir={ours}"]
        flags += ["--sample_every=0", "--watch_every=0", "--save_every=0"]
        took = timed(ours, command, "train", *flags)
        config = train.parse(flags)[1]
        for name, seconds in (("equal steps", None), ("equal time", took["seconds"])):
            path = folder / name.replace(" ", "_")
            timed(path, peer_process, config, str(path), seconds)
        for name, path in zip(results, ("ours", "equal_steps", "equal_time"), strict=True):
            results[name].append(scores(folder / path, options.features))
    rows = []
    for name, runs in results.items():
        cells = [cell([run[key] for run in runs]) for key in ("a2b", "b2a", "seconds", "steps")]
        rows.append([name, *cells])
    report.print_table(["", "KID a2b", "KID b2a", "seconds", "steps"], rows)
    write_text(output / "quality.json", json.dumps(results, indent=2) + "\n")
    print(f"written to {output / 'quality.json'}")
    return 0


def timed(path: Path, run, *arguments) -> dict:
    """Returns seconds and other facts of a run, which is trained first if it is not finished."""
    record = path / "finished.json"
    if not record.exists():
        shutil.rmtree(path, ignore_errors=True)  # an interrupted run, whose time is unknown
        start = time.perf_counter()
        facts = run(*arguments) or {}
        facts["seconds"] = time.perf_counter() - start
        write_text(record, json.dumps(facts) + "\n")
    return json.loads(record.read_text())


def command(name: str, *flags: str) -> None:
    """Runs a command of tf-cyclegan, with its output on the terminal."""
    code = subprocess.run([sys.executable, "-m", "tf_cyclegan.cli", name, *flags]).returncode
    if code:
        raise ValueError(f"tf-cyclegan {name} failed with exit code {code}: see above.")


def cell(values: list[float]) -> str:
    """Formats a mean and a range."""
    return f"{mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def evaluation(path: Path, features: str, folder: Path | None = None) -> dict:
    """Returns the evaluation.json of a run, in a folder of its own; evaluates first if needed."""
    folder = folder or path / f"evaluation_{Path(features).stem}"
    result = folder / "evaluation.json"
    if not result.exists():
        command("evaluate", f"--run_dir={path}", f"--features={features}", f"--output={folder}")
    return json.loads(result.read_text())


def scores(path: Path, features: str) -> dict:
    """Returns KID in both directions, seconds and steps of a run."""
    measured = evaluation(path, features)
    facts = json.loads((path / "finished.json").read_text())
    steps = facts.get("steps", measured["protocol"]["step"])
    kid = {direction: measured[direction]["distance"]["kid"] for direction in ("a2b", "b2a")}
    return kid | {"seconds": facts["seconds"], "steps": steps}


def peer_process(config: Config, path: str, seconds: float | None) -> dict:
    """Runs `train_peer` in a process of its own, and returns what it returns."""
    context = multiprocessing.get_context("spawn")  # a fork would share memory and threads
    with context.Pool(1) as pool:
        return pool.apply(train_peer, (config, path, seconds))


def train_peer(config: Config, path: str, seconds: float | None) -> dict:
    """Trains the peer on the batches of a config, and writes its generators into a run folder.

    Args:
        config: a `Config`.
        path: the folder.
        seconds: stop after this time, with a learning rate that falls by the clock; None to do the
            steps of the config.

    Returns:
        The number of steps.
    """
    start = time.perf_counter()
    import peer
    import torch

    from tf_cyclegan.interop import from_state_dict
    from tf_cyclegan.schedules import LinearDecay
    from tf_cyclegan.training.batches import TrainingData, load_dataset
    from tf_cyclegan.training.factory import make_generator
    from tf_cyclegan.training.run_folder import save_generator

    torch.manual_seed(config.seed)
    data = TrainingData(load_dataset(config), config)
    epochs = (config.epochs, config.decay_epochs)
    schedule = LinearDecay(config.learning_rate, *epochs, data.steps_per_epoch)
    total = sum(epochs) * data.steps_per_epoch
    model = peer.CycleGAN(
        config.filters, config.blocks, config.d_filters, config.pool_size, config.lambda_identity
    )
    steps = 0
    for batch in data.batches(0, 10**9 if seconds else total):
        at = steps
        if seconds:
            at = int((time.perf_counter() - start) / seconds * total)
            if at >= total:
                break
        for optimizer in (model.generator_adam, model.discriminator_adam):
            for group in optimizer.param_groups:
                group["lr"] = float(schedule(at))
        model.train_step(*(torch.from_numpy(x.numpy()).permute(0, 3, 1, 2) for x in batch))
        steps += 1
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", config.to_json())
    for direction in ("a2b", "b2a"):
        generator = make_generator(config, 3, 3)
        state = getattr(model, direction).state_dict()
        from_state_dict(generator, {name: value.numpy() for name, value in state.items()})
        save_generator(generator, folder / f"{direction}.keras")
    return {"steps": steps}


if __name__ == "__main__":
    report.run(main, Options, __doc__)
