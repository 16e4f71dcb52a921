"""Export a trained generator as a SavedModel for TensorFlow Serving.

The same as the command `tf-cyclegan export saved-model`: see tf_cyclegan/cli/export_saved_model.py.
"""

from tf_cyclegan.cli.export_saved_model import cli

if __name__ == "__main__":
    cli()
