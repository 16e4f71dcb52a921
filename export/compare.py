"""Translate the same images by every runtime, and lay differences and times side by side.

    python export/compare.py --run_dir=runs/demo --direction=a2b --saved_model=models/demo/a2b \\
        --tflite=models/demo/tflite --onnx=models/demo/a2b.onnx --output=models/demo

Reads what saved_model.py, tflite.py and onnx_file.py made of one generator. Writes comparison.json
and comparison.md: largest and mean difference to Keras, PSNR, size, and the median milliseconds of
each, measured in turns. The SavedModel is also asked over gRPC and REST, through
serving/loader_server.py; the float32 file also runs on the page of web/, in Chromium, and on
LiteRT's GPU backend over software Vulkan, which says nothing of a GPU's speed.
Needs: pip install "tf_cyclegan[export]" openvino playwright; npm; Debian's chromium
"""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder that import_weights.py wrote, or a generator: .keras or .pth."""
    saved_model: str
    """The model's folder, with its versions."""
    tflite: str
    """Folder of fixed-size files, one of them float32."""
    onnx: str
    """The .onnx file."""
    output: str
    """Folder for comparison.json and comparison.md."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder."""
    images: tuple[str, ...] = ()
    """Images or folders to compare on; if not given, the run's test images."""
    rounds: int = 7
    """How often each runtime is timed."""
    overwrite: bool = False
    """Replace an earlier comparison there."""


def main(options: Options) -> int:
    """Writes the comparison, prints its table, and returns the exit code."""
    from tf_cyclegan.files import check_output, write_files  # after --help, which needs no others

    # === Everything that can be wrong with the flags, before any work ===
    if options.rounds < 1:
        raise ValueError(f"rounds is {options.rounds}: use 1 or more.")
    names = ("comparison.json", "comparison.md")
    check_output(options.output, names, options.overwrite)

    import openvino  # noqa: F401 - is absent on some machines, as is playwright
    import playwright  # noqa: F401
    import runtimes

    from tf_cyclegan.export import compare
    from tf_cyclegan.export.gpu_gate import check_swiftshader, run_on_gpu
    from tf_cyclegan.export.model_file import read_description
    from tf_cyclegan.export.onnx_file import onnx_runner
    from tf_cyclegan.export.tflite import MODES, LiteModel
    from tf_cyclegan.inference.translator import find_generator

    # === What there is ===
    version, onnx = runtimes.newest(options.saved_model), Path(options.onnx)
    in_onnx = onnx_runner(onnx)
    lite, sizes = {}, {}
    for path in sorted(Path(options.tflite).glob(f"{options.direction}_*.tflite")):
        description = read_description(path.read_bytes())
        if not description["resizable"]:
            lite[description["mode"]] = path
            sizes[path] = description["height"], description["width"]
    if "float32" not in lite or len(set(sizes.values())) != 1:
        raise ValueError(f"{options.tflite}: name a folder of one size, float32 among its modes.")
    check_swiftshader()
    generator = find_generator(options.run_dir, options.direction)
    _, test = compare.find_sets(options.images, options.run_dir, options.direction)
    size = sizes[lite["float32"]]
    images = compare.example_images(test, size, generator.input_channels, 8)

    # === All of them, in turns ===
    with ExitStack() as stack:
        in_page: list[float] = []
        browser = stack.enter_context(runtimes.in_chromium(lite["float32"], in_page))
        runners = {
            "Keras": compare.keras_runner(generator),
            "SavedModel, TensorFlow": runtimes.in_tensorflow(version),
            "SavedModel, OpenVINO": runtimes.in_openvino(version),
            **stack.enter_context(runtimes.over_network(options.saved_model)),
            "ONNX Runtime": in_onnx,
            **{
                f"LiteRT, {mode}": LiteModel(lite[mode].read_bytes())
                for mode in MODES
                if mode in lite
            },
            "LiteRT in Chromium, float32": browser,
        }
        fakes = {name: [run(image) for image in images] for name, run in runners.items()}
        milliseconds = compare.latencies(runners, images[0], options.rounds)
        # Without the way into the page and back.
        milliseconds["LiteRT in Chromium, float32"] = median(in_page[-2 * options.rounds :][1::2])
    content = lite["float32"].read_bytes()
    # One image: in software a large one takes a minute.
    fakes["LiteRT on software Vulkan, float32"] = [run_on_gpu(content, images[0])]

    # === The table ===
    saved = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    bytes_of = {"SavedModel": saved, "ONNX Runtime": onnx.stat().st_size}
    rows = {}
    for name, images in fakes.items():
        mode = name.rpartition(", ")[2]
        file = lite[mode].stat().st_size if name.startswith("LiteRT") else None
        rows[name] = {
            "difference": compare.difference(images, fakes["Keras"][: len(images)]),
            "bytes": bytes_of.get(name.partition(",")[0], file),
            "milliseconds": milliseconds.get(name),
        }
    result = {"run": str(options.run_dir), "direction": options.direction}
    result |= {"height": size[0], "width": size[1]}
    result |= {"images": len(images), "rounds": options.rounds, "cpus": os.cpu_count()}
    text = json.dumps(result | {"runtimes": rows}, indent=2) + "\n"
    files = (text, table(rows))
    write_files(options.output, {n: f.encode() for n, f in zip(names, files, strict=True)})
    print(table(rows), end="")
    return 0


def table(rows: dict) -> str:
    """The rows in Markdown."""
    lines = [
        "| runtime | MB | largest difference | mean | PSNR | ms | / Keras | / ONNX Runtime |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        apart, ms = row["difference"], row["milliseconds"]
        times = ["", "", ""]
        if ms is not None:
            ratios = (ms / rows[other]["milliseconds"] for other in ("Keras", "ONNX Runtime"))
            times = [f"{ms:.1f}", *(f"{ratio:.2f}" for ratio in ratios)]
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f}"
        far = [f"{apart['max']:.1e}", f"{apart['mean']:.1e}", f"{apart['psnr']:.1f}"]
        far = far if apart["max"] else ["0", "0", "equal"]
        lines.append(f"| {' | '.join([name, size, *far, *times])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    needs = '"tf_cyclegan[export]" openvino playwright'
    command.run(main, command.parse(Options, __doc__), needs)
