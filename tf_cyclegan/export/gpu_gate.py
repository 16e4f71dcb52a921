"""Checks without a GPU whether LiteRT's GPU backend supports a whole .tflite file.

LiteRT's GPU accelerator runs on WebGPU, which runs on Vulkan, which runs on SwiftShader, the
software renderer in Debian's chromium package. This shows that every operator is supported and
correct in float32. It does not measure a phone's speed, or the accuracy of float16 on it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CHROMIUM = Path("/usr/lib/chromium")


def check_swiftshader(chromium: Path = CHROMIUM) -> None:
    """Raises a ValueError if SwiftShader is not installed."""
    if not (chromium / "vk_swiftshader_icd.json").exists():
        raise ValueError(f"no SwiftShader in {chromium}: install Debian's chromium.")


def run_on_gpu(content: bytes, image: np.ndarray, chromium: Path = CHROMIUM) -> np.ndarray:
    """Runs a .tflite file on LiteRT's GPU backend alone, over software Vulkan.

    Args:
        content: the file's content.
        image: float32 `[1, h, w, c]`.
        chromium: the folder of libvulkan.so.1 and vk_swiftshader_icd.json.

    Returns:
        float32 `[1, h, w, c']`.

    Raises:
        ValueError: the backend does not support an operator, with its reason; or SwiftShader is
            not installed.
    """
    check_swiftshader(chromium)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        np.save(folder / "image.npy", image)
        # In its own process, because LD_LIBRARY_PATH is read at the start. Only this library of
        # chromium, because its others would shadow the system's.
        (folder / "libvulkan.so.1").symlink_to(chromium / "libvulkan.so.1")
        done = subprocess.run(
            [sys.executable, __file__, folder / "model.tflite", folder / "image.npy"],
            env=os.environ
            | {
                "LD_LIBRARY_PATH": str(folder),
                "VK_ICD_FILENAMES": str(chromium / "vk_swiftshader_icd.json"),
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ValueError(f"the GPU does not support the file: {_reason(done.stderr)}")
        return np.load(folder / "fake.npy")


def _reason(log):
    _, _, after = log.partition("not supported by GPU delegate:\n")
    if after:
        return "; ".join(after.splitlines()[:3])
    return log.strip().splitlines()[-1].removeprefix("└ ")


def _child(model_path, image_path):
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    # Only the GPU: otherwise the CPU runs unsupported operators, and all seem accelerated.
    model = CompiledModel.from_file(model_path, HardwareAccelerator.GPU)
    if not model.is_fully_accelerated():
        sys.exit("ERROR: not every operator is on the GPU")
    signature, names = next(iter(model.get_signature_list().items()))
    source = model.create_input_buffer_by_name(signature, names["inputs"][0])
    target = model.create_output_buffer_by_name(signature, names["outputs"][0])
    source.write(np.load(image_path))
    model.run_by_name(signature, {names["inputs"][0]: source}, {names["outputs"][0]: target})
    shape = model.get_output_tensor_details(signature)[names["outputs"][0]]["shape"]
    fake = target.read(int(np.prod(shape)), np.float32).reshape(shape)
    np.save(Path(image_path).with_name("fake.npy"), fake)


if __name__ == "__main__":
    _child(*sys.argv[1:])
