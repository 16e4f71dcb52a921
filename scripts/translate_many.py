"""Translate a large collection of images with a trained generator and Apache Beam.

The same as the command `tf-cyclegan translate-many`: see tf_cyclegan/cli/translate_many.py.
"""

from tf_cyclegan.cli.translate_many import cli

if __name__ == "__main__":
    cli()
