"""Train a CycleGAN.

The same as the command `tf-cyclegan train`: see tf_cyclegan/cli/train.py.
"""

from tf_cyclegan.cli.train import cli

if __name__ == "__main__":
    cli()
