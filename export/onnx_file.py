"""Export a generator to ONNX, for ONNX Runtime and compatible tools.

The same as the command `tf-cyclegan export onnx`: see tf_cyclegan/cli/export_onnx.py.
"""

from tf_cyclegan.cli.export_onnx import cli

if __name__ == "__main__":
    cli()
