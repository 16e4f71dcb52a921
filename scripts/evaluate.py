"""Measure the translations of the test images in both directions.

The same as the command `tf-cyclegan evaluate`: see tf_cyclegan/cli/evaluate.py.
"""

from tf_cyclegan.cli.evaluate import cli

if __name__ == "__main__":
    cli()
