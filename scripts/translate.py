"""Translate images with a trained generator, each at its own size.

The same as the command `tf-cyclegan translate`: see tf_cyclegan/cli/translate.py.
"""

from tf_cyclegan.cli.translate import cli

if __name__ == "__main__":
    cli()
