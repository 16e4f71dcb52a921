"""Export a generator to LiteRT (TensorFlow Lite) files, for phones, browsers and small computers.

The same as the command `tf-cyclegan export tflite`: see tf_cyclegan/cli/export_tflite.py.
"""

from tf_cyclegan.cli.export_tflite import cli

if __name__ == "__main__":
    cli()
