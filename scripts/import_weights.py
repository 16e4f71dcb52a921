"""Convert a generator that was trained with the authors' PyTorch code.

The same as the command `tf-cyclegan import-weights`: see tf_cyclegan/cli/import_weights.py.
"""

from tf_cyclegan.cli.import_weights import cli

if __name__ == "__main__":
    cli()
