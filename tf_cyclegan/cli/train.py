"""Train a CycleGAN.

    tf-cyclegan train                       # embedded dataset, minutes on a CPU
    tf-cyclegan train --dataset=cycle_gan/summer2winter_yosemite
    tf-cyclegan train --data_dir=my_photos  # a folder with trainA/ and trainB/
    tf-cyclegan train --data_a=photos --data_b=paintings --run_dir=runs/mine
    tf-cyclegan train --preset=pix2pix --data_dir=my_pairs  # if you have true pairs

Run the same command again to continue from the last checkpoint. Ctrl-C and SIGTERM save one first.
The defaults below are those of --preset=paper: add another preset to --help to see its own.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tf_cyclegan.cli import command
from tf_cyclegan.training import config as settings
from tf_cyclegan.training.config import PRESETS, Config


@dataclass(frozen=True)
class Options:
    """The flags: a preset, and the settings of a `Config` in groups, as --help shows them."""

    preset: Literal["auto", "paper", "demo", "pix2pix"] = "auto"
    """Defaults for all other flags. paper: the settings of the paper. demo: small images and
    networks for the embedded dataset. pix2pix: for pairs, with --lambda_l1=100 and without cycles,
    identity terms and image pools. auto: demo for the embedded dataset, otherwise paper."""
    data: settings.DataSettings = settings.DataSettings()
    networks: settings.NetworkSettings = settings.NetworkSettings()
    objective: settings.ObjectiveSettings = settings.ObjectiveSettings()
    optimization: settings.OptimizationSettings = settings.OptimizationSettings()
    validation: settings.ValidationSettings = settings.ValidationSettings()
    machine: settings.MachineSettings = settings.MachineSettings()
    run_folder: settings.RunFolderSettings = settings.RunFolderSettings()
    saving: settings.SavingSettings = settings.SavingSettings()


def main(config: Config, preset: str = "") -> int:
    """Trains, and returns the exit code: 0, or 128 + the signal that stopped it."""
    from tf_cyclegan.cpu.allocator import keep_freed_memory  # imported here to keep --help fast
    from tf_cyclegan.training.loop import train

    keep_freed_memory()
    if preset:
        print(f"Preset: {preset}")
    return train(config)


def parse(arguments: list[str]) -> tuple[str, Config]:
    """Reads the flags; returns the name of the preset and the settings."""
    asked = [flag for flag in arguments if flag not in ("-h", "--help")]
    options = command.parse(Options, __doc__, arguments=asked)
    preset: str = options.preset
    if preset == "auto":
        embedded = to_config(options).synthetic and asked == arguments  # --help shows the paper's
        preset = "demo" if embedded else "paper"
    defaults = vars(Config(**PRESETS[preset]))
    groups = {
        name: replace(group, **{setting: defaults[setting] for setting in vars(group)})
        for name, group in vars(options).items()
        if name != "preset"
    }
    options = command.parse(Options, __doc__, Options(options.preset, **groups), arguments)
    return preset, to_config(options)


def to_config(options: Options) -> Config:
    """Returns the settings of all groups."""
    groups = [group for name, group in vars(options).items() if name != "preset"]
    return Config(**{name: value for group in groups for name, value in vars(group).items()})


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    preset, config = parse(sys.argv[1:])
    command.run(partial(main, preset=preset), config, at_once=True)
