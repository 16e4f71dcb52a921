"""Runs a command. You can use `python -m tf_cyclegan.cli` instead of `tf-cyclegan`.

tf-cyclegan train --data_a=photos --data_b=paintings --run_dir=runs/mine
tf-cyclegan translate --run_dir=runs/mine --input=holiday.jpg --output=translated
tf-cyclegan train --help
"""

import difflib
import importlib
import sys

# What you type -> the module in tf_cyclegan.cli, and what it does.
COMMANDS = {
    "train": ("train", "train a CycleGAN, or continue a training run"),
    "student": ("student", "train a small generator to copy a trained one, for phones"),
    "translate": ("translate", "translate images with a trained generator"),
    "translate-many": ("translate_many", "translate a large collection with Apache Beam"),
    "evaluate": ("evaluate", "measure the translations of the test images"),
    "import-weights": ("import_weights", "convert a generator of the authors' PyTorch code"),
    "export saved-model": ("export_saved_model", "export a generator for TensorFlow Serving"),
    "export tflite": ("export_tflite", "export a generator for phones and browsers"),
    "export onnx": ("export_onnx", "export a generator for ONNX Runtime"),
    "page": ("page", "serve a web page that translates photos in the browser"),
    "workers": ("workers", "train in several processes on this machine"),
    "experiments": ("experiments", "train and compare variants of one setting"),
}


def main() -> None:
    """Runs the command that you typed, and ends the process."""
    words = sys.argv[1:]
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            sys.argv = [f"tf-cyclegan {name}", *words[count:]]
            return importlib.import_module(f"tf_cyclegan.cli.{COMMANDS[name][0]}").cli()
    print(f"usage: tf-cyclegan COMMAND [flags]\n\n{__doc__}\nCommands:")
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:<20}{purpose}")
    if words and words[0] not in ("-h", "--help"):
        typed = " ".join(word for word in words[:2] if not word.startswith("-"))[:60] or words[0]
        near = difflib.get_close_matches(typed, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "use one of those above."
        sys.exit(f"error: unknown command {typed}: {hint}")
    sys.exit(0)


if __name__ == "__main__":
    main()
