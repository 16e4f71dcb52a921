"""Checks that commands report wrong flags before they load a trained generator."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tf_cyclegan.cli import export_onnx, export_tflite
from tf_cyclegan.cli import translate as translate_command
from tf_cyclegan.inference import translator as translate

ROOT = Path(__file__).resolve().parents[1]
TFLITE, ONNX, COMPARE = "export tflite", "export onnx", "export/compare.py"
TRANSLATE = "translate"
MODULES = {TFLITE: export_tflite, ONNX: export_onnx, TRANSLATE: translate_command}
# The required flags, all valid except run_dir, which is checked after all others.
RIGHT = {
    TFLITE: {"output": "{tmp}/out"},
    ONNX: {"output": "{tmp}/out/a2b.onnx"},
    COMPARE: {"output": "{tmp}/out", "saved_model": "s", "tflite": "t", "onnx": "x"},
    TRANSLATE: {"output": "{tmp}/out"},
}
IN_FILE = "cannot be written .*file is not a folder.: use another --output"
EXISTS = "exists already: use another --output, or --overwrite"
WRONG = [
    (TFLITE, {"size": "0"}, "size is 0: use 1 to"),
    (TFLITE, {"size": "-4"}, "size is -4: use a number of pixels such as 256, or WIDTHxHEIGHT"),
    (TFLITE, {"size": "big"}, "size is big: use a number of pixels"),
    (TFLITE, {"size": ""}, "size is : use a number of pixels"),
    (TFLITE, {"size": "64x48x3"}, "size is 64x48x3: use a number of pixels"),
    (TFLITE, {"size": "64x0"}, "size is 64x0: use 1 to"),
    (TFLITE, {"size": "100000"}, "size is 100000: use 1 to"),
    (TFLITE, {"modes": "float32, int4"}, "mode 'int4' is not known: use float32, float16"),
    (TFLITE, {"modes": ""}, "mode '' is not known"),
    (TFLITE, {"modes": "float32,"}, "mode '' is not known"),
    (TFLITE, {"modes": "float32, float32"}, "mode float32 is given twice"),
    (TFLITE, {"modes": "float32, int8", "resizable": True}, "leave --resizable out"),
    (TFLITE, {"output": "{tmp}/file"}, IN_FILE),
    (TFLITE, {"output": "{tmp}/full"}, f"a2b_256_float32.tflite {EXISTS}"),
    (TFLITE, {"output": "{tmp}/full", "modes": "int8"}, f"a2b_256_report.json {EXISTS}"),
    (ONNX, {"output": "{tmp}/a2b"}, "use an --output that ends in .onnx"),
    (ONNX, {"output": "{tmp}/file/a2b.onnx"}, IN_FILE),
    (ONNX, {"output": "{tmp}/full/a2b.onnx"}, f"a2b.onnx {EXISTS}"),
    (ONNX, {"output": "{tmp}/full/folder.onnx"}, "folder.onnx is a folder"),
    (COMPARE, {"rounds": 0}, "rounds is 0: use 1 or more"),
    (COMPARE, {"output": "{tmp}/file"}, IN_FILE),
    (COMPARE, {"output": "{tmp}/full"}, f"comparison.md {EXISTS}"),
    (TRANSLATE, {"resize": 0}, "resize is 0: use 1 or more"),
    (TRANSLATE, {"tile": 100}, "tile is 100: use a multiple of 16, 128 or more"),
    (TRANSLATE, {"output": "{tmp}/file"}, IN_FILE),
    (TRANSLATE, {"output": "{tmp}/file", "direction": "both"}, IN_FILE),
]


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Runs the main function of a command with its required flags and further ones."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    for name in ("a2b_256_float32.tflite", "a2b_256_report.json", "a2b.onnx", "comparison.md"):
        (tmp_path / "full" / name).write_text("another generator's")
    (tmp_path / "full" / "folder.onnx").mkdir()

    def run(script, **flags):
        module = MODULES.get(script)
        if module is None:
            spec = importlib.util.spec_from_file_location("flags_compare", ROOT / script)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, spec.name, module)
            spec.loader.exec_module(module)
        flags = RIGHT[script] | {"run_dir": "nowhere"} | flags
        flags = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in flags.items()}
        return module.main(module.Options(**flags))

    return run


@pytest.mark.parametrize("script, flags, message", WRONG)
def test_wrong_flags_are_reported_before_the_generator_is_loaded(
    main, tmp_path, monkeypatch, script, flags, message
):
    monkeypatch.setattr(translate, "find_generator", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match=message) as error:
        main(script, **flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "a2b.onnx").read_text() == "another generator's"


@pytest.mark.parametrize("script, flags", [
    (TFLITE, {"output": "{tmp}/full", "overwrite": True, "modes": " float32 , int8 "}),
    (TFLITE, {"size": "320x240"}),
    (ONNX, {"output": "{tmp}/full/a2b.onnx", "overwrite": True}),
    (TRANSLATE, {"output": "{tmp}/full", "tile": 128, "resize": 7}),
])  # fmt: skip
def test_right_flags_go_on_to_the_generator(main, script, flags):
    with pytest.raises(ValueError, match="nowhere does not exist: name a run folder"):
        main(script, **flags)
