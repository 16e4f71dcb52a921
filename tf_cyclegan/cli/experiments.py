"""Train variants of one setting for the same number of steps, and compare them.

    tf-cyclegan experiments losses
    tf-cyclegan experiments identity --seeds 0 1 --train="--epochs=11 --decay_epochs=4"
    tf-cyclegan experiments losses --variants "GAN alone" CycleGAN --seeds 0 \\
        --train="--data_dir=my_photos" --features=network.h5 --output=measured

Trains and evaluates each variant with each seed under runs/experiments/, and writes README.md (a
table of means and ranges over the seeds), results.json and figure.png. If you run it again, it
continues where it stopped; variants that experiments share are trained once. With the defaults,
each variant and seed takes 2 to 4 minutes on 2 CPU cores.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from tf_cyclegan.cli import command
from tf_cyclegan.training.config import PRESETS

# The objective of the preset; the embedded dataset has pairs without --paired.
PIX2PIX = " ".join(f"--{k}={v}" for k, v in PRESETS["pix2pix"].items() if k != "paired")
# Name -> the question, and the flags of `tf-cyclegan train` for each variant.
EXPERIMENTS = {
    "losses": (
        "Which terms does the objective need? (section 5.1.4, tables 4 and 5, figure 7)",
        {
            "cycle alone": "--lambda_identity=0 --lambda_adversarial=0",
            "GAN alone": "--lambda_identity=0 --lambda_cycle_a=0 --lambda_cycle_b=0",
            "GAN + forward cycle": "--lambda_identity=0 --lambda_cycle_b=0",
            "GAN + backward cycle": "--lambda_identity=0 --lambda_cycle_a=0",
            "CycleGAN": "--lambda_identity=0",
            "CycleGAN with identity": "",
        },
    ),
    "generators": (
        "A ResNet or a U-Net, with about as many weights?",
        {"ResNet": "", "U-Net": "--generator=unet --filters=8 --depth=5"},
    ),
    "adversarial": (
        "Which adversarial loss?",
        {name: f"--adversarial={name}" for name in ("bce", "hinge", "wgan-gp")} | {"lsgan": ""},
    ),
    "identity": (
        "What does the identity loss preserve? (section 5.2, figure 9)",
        {"without": "--lambda_identity=0", "with identity": ""},
    ),
    "pool": (
        "Do 50 earlier fakes make training more stable? (section 4)",
        {"no pool": "--pool_size=0", "pool of 50": ""},
    ),
    "settings": (
        "What do the settings of later papers add, each alone and together?",
        {
            "paper": "",
            "EMA": "--ema=0.999",
            "learning rate 5e-4": "--learning_rate=5e-4",
            "slower discriminators": "--d_learning_rate=1e-4",
            "d_augment": "--d_augment=translation,color,cutout",
            "rotation and color jitter": "--rotate=10 --color_jitter=0.1",
            "spectral norm": "--d_norm=spectral",
            "R1": "--gradient_penalty=0.01",
            "penalty with center 1": "--gradient_penalty=0.1 --gradient_center=1",
            "penalty with center 100": "--gradient_penalty=0.1 --gradient_center=100",
            "wgan-gp": "--adversarial=wgan-gp",
            "wgan-gp, 5 updates": "--adversarial=wgan-gp --d_steps=5",
            "R1 and EMA": "--gradient_penalty=0.01 --ema=0.999",
            "center 1 and EMA": "--gradient_penalty=0.1 --gradient_center=1 --ema=0.999",
        },
    ),
    "paired": (
        "How far is it from training on true pairs? (pix2pix, the upper bound of tables 2 to 5)",
        {"CycleGAN": "", "pix2pix": PIX2PIX},
    ),
}


@dataclass(frozen=True)
class Options:
    """The flags."""

    name: tyro.conf.Positional[
        Literal["losses", "generators", "adversarial", "identity", "pool", "settings", "paired"]
    ]
    """Which experiment."""
    variants: tuple[str, ...] = ()
    """Train only these variants, by name; by default, all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Train each variant once with each of these random seeds."""
    train: str = "--epochs=5 --decay_epochs=3"
    """Flags of tf-cyclegan train for all variants, for example for other data or more epochs."""
    features: str = "pixels"
    """As in tf-cyclegan evaluate."""
    resize: int | None = None
    """As in tf-cyclegan evaluate."""
    figure: bool = True
    """Draw figure.png; use --no_figure if you must not share the images."""
    output: str | None = None
    """Folder for the results; by default, docs/experiments/<name>."""


def main(options: Options) -> int:
    """Trains and measures what is missing, and returns the exit code."""
    question, variants = EXPERIMENTS[options.name]
    if not options.seeds:
        raise ValueError("name one random seed or more, for example --seeds 0 1.")
    if unknown := set(options.variants) - set(variants):
        raise ValueError(f"no variant {', '.join(unknown)}: choose from {', '.join(variants)}.")
    variants = {n: flags for n, flags in variants.items() if n in (options.variants or variants)}

    if options.resize is not None and options.resize < 1:
        raise ValueError(f"resize is {options.resize}: use 1 or more.")
    output = Path(options.output or Path("docs/experiments") / options.name)

    from tf_cyclegan.data.image_files import write_image  # imported late: it takes seconds
    from tf_cyclegan.evaluation.experiment_report import figure, page
    from tf_cyclegan.evaluation.features import load_features
    from tf_cyclegan.files import check_output, write_text
    from tf_cyclegan.inference.translator import load_translator
    from tf_cyclegan.training.run_folder import load_run_images

    check_output(output)
    if options.features != "pixels":
        load_features(options.features)  # fails now rather than after the first training run
    results = {
        variant: [measured(flags, seed, options) for seed in options.seeds]
        for variant, flags in variants.items()
    }
    first = {name: run_folder(flags, options.seeds[0], options) for name, flags in variants.items()}
    command = ["tf-cyclegan", "experiments", options.name]
    command += ["--variants", *options.variants] if options.variants else []
    command += ["--seeds", *map(str, options.seeds)]
    command += [f"--train={options.train}", f"--features={options.features}"]
    command += [f"--resize={options.resize}"] if options.resize else []
    command += [] if options.figure else ["--no_figure"]
    command += [f"--output={options.output}"] if options.output else []

    output.mkdir(parents=True, exist_ok=True)
    if options.figure:
        sets = load_run_images(next(iter(first.values())))
        translators = {
            variant: {direction: load_translator(run, direction) for direction in ("a2b", "b2a")}
            for variant, run in first.items()
        }
        write_image(output / "figure.png", figure(sets, translators, options.resize))
    write_text(output / "results.json", json.dumps(results, indent=2) + "\n")
    text = page(output.name, question, shlex.join(command), results, options.figure)
    write_text(output / "README.md", text)
    print(f"written to {output}")
    return 0


def run_folder(flags: str, seed: int, options: Options) -> Path:
    """Returns a run folder named after the flags, so that experiments share it."""
    names = [named_after(text) for text in (options.train, flags)]
    return Path("runs/experiments", *names, f"seed_{seed}")


def named_after(text: str) -> str:
    """Returns a short file name that no other text has."""
    readable = re.sub(r"[^\w.]+", "_", text).strip("_")[:80]
    return f"{readable or 'default'}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def measured(flags: str, seed: int, options: Options) -> dict:
    """Returns the scores of a variant and seed; trains and evaluates it if needed."""
    from tf_cyclegan.evaluation.experiment_report import late_spread
    from tf_cyclegan.training.callbacks import read_losses

    run = run_folder(flags, seed, options)
    size = f"_{options.resize}" if options.resize else ""
    folder = run / f"evaluation_{named_after(options.features)}{size}"
    if not (folder / "evaluation.json").exists():
        ours = [f"--run_dir={run}", f"--seed={seed}", "--sample_every=0", "--watch_every=0"]
        call("train", *shlex.split(options.train), *shlex.split(flags), *ours)
        theirs = [f"--features={options.features}", f"--output={folder}"]
        theirs += [f"--resize={options.resize}"] if options.resize else []
        call("evaluate", ours[0], *theirs, result=folder / "evaluation.json")
    scores = json.loads((folder / "evaluation.json").read_text())
    rows = read_losses(run / "losses.csv")
    for direction, discriminator in (("a2b", "d_b"), ("b2a", "d_a")):
        losses = [row[discriminator] for row in rows if discriminator in row]
        scores[direction]["d_spread"] = late_spread(losses)
    return scores


def call(name: str, *flags: str, result: Path | None = None):
    """Runs a command of tf-cyclegan, with its output on the terminal.

    Raises:
        ValueError: it fails, and has not written `result`: `evaluate` does so without the images
            that it cannot read.
    """
    command = shlex.join(["tf-cyclegan", name, *flags])
    print(command, flush=True)
    process = subprocess.Popen([sys.executable, "-m", "tf_cyclegan.cli", name, *flags])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got Ctrl-C, too, and saves a checkpoint
        raise
    if code and not (result and result.exists()):
        raise ValueError(f"{command} failed with exit code {code}: see above, then run this again.")


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
