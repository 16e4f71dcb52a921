"""Train a CycleGAN.

    tf-cyclegan train                       # embedded dataset, minutes on a CPU
    tf-cyclegan train --dataset=cycle_gan/summer2winter_yosemite
    tf-cyclegan train --data_dir=my_photos  # a folder with trainA/ and trainB/
    tf-cyclegan train --data_a=photos --data_b=paintings --run_dir=runs/mine
    tf-cyclegan train --model=pix2pix --data_dir=my_pairs  # if you have true pairs

Run the same command again to continue from the last checkpoint. Ctrl-C and SIGTERM save one first.
The defaults below are the paper's; the embedded dataset has smaller ones (DEMO in config.py).
"""

from dataclasses import replace

from tf_cyclegan.cli import command
from tf_cyclegan.training.config import DEMO, PIX2PIX, Config


def main(config: Config) -> int:
    """Trains, and returns the exit code: 0, or 128 + the signal that stopped it."""
    from tf_cyclegan.training.loop import train  # imported here to keep --help fast

    return train(config)


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    config = command.parse(Config, __doc__)
    defaults = DEMO if config.synthetic else Config()
    if config.model == "pix2pix":
        defaults = replace(defaults, **PIX2PIX)
    command.run(main, command.parse(Config, __doc__, defaults))
