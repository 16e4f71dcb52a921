"""Measure the translations of the test images in each direction.

    tf-cyclegan evaluate --run_dir=runs/demo
    tf-cyclegan evaluate --run_dir=runs/mine --features=inception-legacy  # as published
    tf-cyclegan evaluate --run_dir=theirs --dataset=cycle_gan/maps --features=network.keras

Prints a table, and writes evaluation.json and a contact sheet for each direction. Distances on
"pixels", the default, or on your own network only compare runs on the same data. To compare with
published numbers, use inception-legacy or inception-clean (docs/evaluation.md), which need:
pip install "tf_cyclegan[metrics]"

An image that cannot be read is reported and left out; the exit code is then 1.
"""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tf_cyclegan.cli import command
from tf_cyclegan.training.config import Config


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder from import-weights, or a saved CycleGAN. If it has only one
    direction, as a student's run has, cycles are not measured."""
    features: str = "pixels"
    """Features for distances: pixels, inception-clean (or inception), inception-legacy, or a file:
    FILE.h5 or FILE.keras."""
    dataset: str | None = None
    """Use this dataset, a name in TensorFlow Datasets, instead of the run's own."""
    data_dir: str | None = None
    """Use this dataset instead: a folder with testA and testB, or with trainA and trainB, which
    are measured if there are no test images."""
    paired: bool = False
    """Images with the same name in testA and testB are pairs: use them as ground truth."""
    side_by_side: bool = False
    """Each image in --data_dir holds a pair, a on the left and b on the right, as for pix2pix."""
    recursive: bool = False
    """Search the sub-folders of the folders in --data_dir too."""
    palette: str | None = None
    """Colors, if domain b holds label maps: cityscapes, facades, or a text file of colors."""
    resize: int | None = None
    """Scale all images first so that their longer side has this many pixels. Use it if the run's
    --load_size was far from the images' own size."""
    output: str | None = None
    """Folder for the results; by default, evaluation/ in the run folder."""


def main(options: Options) -> int:
    """Evaluates each direction, and returns the exit code."""
    import tensorflow as tf  # imported here to keep --help fast

    from tf_cyclegan.data.image_files import write_image
    from tf_cyclegan.data.tfds import PAIRED
    from tf_cyclegan.evaluation.contact_sheets import contact_sheet
    from tf_cyclegan.evaluation.features import load_features
    from tf_cyclegan.evaluation.metrics import read_palette
    from tf_cyclegan.evaluation.scores import (
        evaluate_direction,
        finite,
        pixel_features,
        resized,
        table,
    )
    from tf_cyclegan.files import check_output, write_text
    from tf_cyclegan.inference.translator import (
        directions_in,
        find_generator,
        is_single_generator,
        translator,
    )
    from tf_cyclegan.training.batches import load_dataset
    from tf_cyclegan.training.checkpoint_files import saved_steps
    from tf_cyclegan.training.run_folder import load_run_images, read_config, read_facts

    # === Check the flags, load the data and the networks ===
    run_dir = Path(options.run_dir)
    if not run_dir.exists():
        raise ValueError(f"{run_dir} does not exist: name the folder of a training run.")
    if run_dir.is_file() and not options.output:
        raise ValueError(f"{run_dir} is a file: name a folder for the results with --output.")
    output = Path(options.output or run_dir / "evaluation")
    check_output(output)
    if options.resize is not None and options.resize < 1:
        raise ValueError(f"resize is {options.resize}: use 1 or more.")
    own = read_config(run_dir) if (run_dir / "config.json").exists() else None
    config = own or Config()
    if options.dataset or options.data_dir:
        names = ("dataset", "data_dir", "side_by_side", "recursive")
        other = {name: getattr(options, name) for name in names}
        other |= {"max_images": None, "evaluate_every": 0}
        config = dataclasses.replace(config, **other, data_a=None, data_b=None, paired=False)
    elif own is None:
        raise ValueError(f"{run_dir} has no data of its own: use --data_dir or --dataset.")
    if config.data_a and config.data_a == config.data_b:
        raise ValueError(
            f"{run_dir} was trained on images of one domain: name those of both with --data_dir."
        )
    paired = config.paired or options.paired or config.side_by_side or config.dataset in PAIRED
    if options.palette and not paired:
        raise ValueError("--palette needs true label maps: add --paired, or leave it out.")
    palettes = {"a2b": read_palette(options.palette) if options.palette else None, "b2a": None}
    if is_single_generator(run_dir):
        raise ValueError(
            f"{run_dir} is a single generator, whose direction is unknown: copy it to a folder as "
            "a2b.keras or b2a.keras, and name the folder."
        )
    # A student has one direction.
    generators = {d: find_generator(run_dir, d) for d in directions_in(run_dir)}
    translators = {d: translator(generator) for d, generator in generators.items()}
    if own is None:  # imported networks may be for gray images
        direction, generator = next(iter(generators.items()))
        source, target = (f"channels_{domain}" for domain in direction.split("2"))
        channels = {source: generator.input_channels, target: generator.channels}
        config = dataclasses.replace(config, **channels)
    features = pixel_features if options.features == "pixels" else load_features(options.features)
    if config == own:
        sets = load_run_images(run_dir, paired=paired)
    else:
        sets = load_dataset(dataclasses.replace(config, paired=paired), only_test=True)
    if options.resize is not None:
        sets = {name: resized(images, options.resize) for name, images in sets.items()}
    split = "test" if {"testA", "testB"} <= set(sets) else "train"
    if split == "train":
        print("There are no test images: measuring on training images, where results are better.")

    # === Measure each direction ===
    results, shown = {}, {}
    for direction, translate in translators.items():
        source, target = direction.upper().split("2")
        inputs, targets = sets[f"{split}{source}"], sets[f"{split}{target}"]
        truth = sets.get(f"truth{source}") if split == "test" else None
        print(f"{direction}: {command.counted(len(inputs), 'image')} ...", flush=True)
        backward = translators.get("b2a" if direction == "a2b" else "a2b")
        results[direction], shown[direction] = evaluate_direction(
            translate, backward, inputs, targets, truth, features, palettes[direction]
        )

    # === Write and print the results ===
    step = max(saved_steps(run_dir / "checkpoints" / "worker_0"), default=None)
    epoch = None
    if step is not None and config == own:
        larger = max(len(sets["trainA"]), len(sets["trainB"]))
        batch = config.batch_size * config.d_steps * read_facts(run_dir).get("replicas", 1)
        epoch = round(step / -(-larger // batch), 2)
    protocol = {
        "run_dir": str(run_dir),
        "data": options.dataset or options.data_dir or "the run's own",
        "split": split,
        "sizes": f"longer side {options.resize} pixels, antialiased bicubic"
        if options.resize
        else "each image at its own size",
        "features": options.features,
        "features_sha256": getattr(features, "sha256", None),
        "features_resizing": getattr(features, "resizing", "to 8x8, antialiased"),
        "step": step,
        "epoch": epoch,
        "seed": own.seed if own else None,
        "commit": commit(),
        "tensorflow": tf.__version__,
    }
    output.mkdir(parents=True, exist_ok=True)
    result = finite({"protocol": protocol} | results)
    write_text(output / "evaluation.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    print(table(results))
    for direction, scores in results.items():
        print(f"{direction}: {scores['collapse']['verdict']}")
        for name, reason in scores.get("not_measured", {}).items():
            print(f"{direction}: {name} is not measured: {reason}")
    for direction, columns in shown.items():
        sheet = contact_sheet(columns, scale=-(-128 // columns["real"][0].shape[1]))
        write_image(output / f"{direction}.png", sheet)
    drawn = ", ".join(f"{direction}.png" for direction in shown)
    print(f"written to {output}/evaluation.json, {drawn}")
    left_out = 0
    for direction, scores in results.items():
        for name, reason in scores["images"].get("left_out", {}).items():
            print(f"{direction}: left out {name}: {reason}", file=sys.stderr)
            left_out += 1
    return 1 if left_out else 0


def commit() -> str | None:
    """Returns the commit of this checkout, marked if files have changed; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    folder = Path(__file__).resolve().parent
    try:
        # An installed copy of this file may be inside another project's repository.
        tracked = ["git", "ls-files", "--error-unmatch", __file__]
        subprocess.check_output(tracked, cwd=folder, stderr=subprocess.DEVNULL)
        return subprocess.check_output(
            command, cwd=folder, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
