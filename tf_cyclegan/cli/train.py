"""Train a CycleGAN.

    tf-cyclegan train                       # embedded landscapes, minutes on a CPU
    tf-cyclegan train --dataset=cycle_gan/summer2winter_yosemite
    tf-cyclegan train --data_dir=my_photos  # with trainA/ and trainB/ in it
    tf-cyclegan train --data_a=photos --data_b=paintings --run_dir=runs/mine
    tf-cyclegan train --model=pix2pix --data_dir=my_pairs  # where true pairs are known

The same command again continues where the last checkpoint ends. Ctrl-C and SIGTERM save first.
The defaults below are the paper's; the embedded data set has smaller ones (DEMO in config.py).
"""

from dataclasses import replace

from tf_cyclegan.cli import command
from tf_cyclegan.training.config import DEMO, PIX2PIX, Config


def main(config: Config) -> int:
    """Trains, and returns the exit code: 0, or 128 + the signal that stopped it."""
    from tf_cyclegan.training.loop import train  # after --help, which needs no TensorFlow

    return train(config)


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    config = command.parse(Config, __doc__)
    defaults = DEMO if config.synthetic else Config()
    if config.model == "pix2pix":
        defaults = replace(defaults, **PIX2PIX)
    command.run(main, command.parse(Config, __doc__, defaults))
