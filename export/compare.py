"""Translate the same images with every runtime, and compare differences and times.

    python export/compare.py --run_dir=runs/demo --direction=a2b --saved_model=models/demo/a2b \\
        --tflite=models/demo/tflite --onnx=models/demo/a2b.onnx --output=models/demo

Reads the files that `tf-cyclegan export` wrote for one generator. Writes comparison.json and
comparison.md: largest and mean difference to Keras, PSNR, size, and median milliseconds, measured
in turns. The SavedModel also runs over gRPC and REST, in serving/loader_server.py. The float32
.tflite file also runs on the web page, in Chromium, and on LiteRT's GPU backend over software
Vulkan, whose speed is not that of a GPU.
This needs: pip install "tf_cyclegan[export]" openvino playwright; npm; Debian's chromium
"""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder from import-weights, or a generator file: .keras or .pth."""
    saved_model: str
    """Folder of the SavedModel, with its versions."""
    tflite: str
    """Folder of fixed-size .tflite files, one of them float32."""
    onnx: str
    """The .onnx file."""
    output: str
    """Folder for comparison.json and comparison.md."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder to use."""
    images: tuple[str, ...] = ()
    """Images or folders to compare on; by default, the run's test images."""
    rounds: int = 7
    """How often to time each runtime."""
    overwrite: bool = False
    """Replace an existing comparison."""


def main(options: Options) -> int:
    """Writes the comparison, prints its table, and returns the exit code."""
    from tf_cyclegan.files import check_output, write_files

    # === Check all flags before any work ===
    if options.rounds < 1:
        raise ValueError(f"rounds is {options.rounds}: use 1 or more.")
    names = ("comparison.json", "comparison.md")
    check_output(options.output, names, options.overwrite)

    import openvino  # noqa: F401 - stops early if it or playwright is not installed
    import playwright  # noqa: F401
    import runtimes

    from tf_cyclegan.export import compare
    from tf_cyclegan.export.gpu_gate import check_swiftshader, run_on_gpu
    from tf_cyclegan.export.model_file import read_description
    from tf_cyclegan.export.onnx_file import onnx_runner
    from tf_cyclegan.export.tflite import MODES, LiteModel
    from tf_cyclegan.inference.translator import find_generator

    # === Load the files and the images ===
    version, onnx = runtimes.newest(options.saved_model), Path(options.onnx)
    in_onnx = onnx_runner(onnx)
    lite, sizes = {}, {}
    for path in sorted(Path(options.tflite).glob(f"{options.direction}_*.tflite")):
        description = read_description(path.read_bytes())
        if not description["resizable"]:
            lite[description["mode"]] = path
            sizes[path] = description["height"], description["width"]
    if "float32" not in lite or len(set(sizes.values())) != 1:
        raise ValueError(f"{options.tflite}: give a folder of one size that includes float32.")
    check_swiftshader()
    generator = find_generator(options.run_dir, options.direction)
    _, test = compare.find_sets(options.images, options.run_dir, options.direction)
    size = sizes[lite["float32"]]
    images = compare.example_images(test, size, generator.input_channels, 8)

    # === Run and time all of them, in turns ===
    with ExitStack() as stack:
        in_page: dict[Path, list[float]] = {}
        browser = stack.enter_context(runtimes.in_chromium([lite["float32"]], in_page))
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
            "LiteRT in Chromium, float32": browser[lite["float32"]],
        }
        fakes = {name: [run(image) for image in images] for name, run in runners.items()}
        milliseconds = compare.latencies(runners, images[0], options.rounds)
        # The page's own times, without the transfer to the page and back.
        timed = runtimes.median_in_page(in_page[lite["float32"]], options.rounds)
        milliseconds["LiteRT in Chromium, float32"] = timed
    content = lite["float32"].read_bytes()
    # Only one image: in software, a large one takes a minute.
    fakes["LiteRT on software Vulkan, float32"] = [run_on_gpu(content, images[0])]

    # === Write the table ===
    saved = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    bytes_of = {"SavedModel": saved, "ONNX Runtime": onnx.stat().st_size}
    rows = {}
    for name, own in fakes.items():
        mode = name.rpartition(", ")[2]
        file = lite[mode].stat().st_size if name.startswith("LiteRT") else None
        rows[name] = {
            "difference": compare.difference(own, fakes["Keras"][: len(own)]),
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
    """Formats the rows in Markdown."""
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
