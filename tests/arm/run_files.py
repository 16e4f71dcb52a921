"""Runs .tflite files on images. It needs only NumPy and LiteRT, and runs on an emulated Arm, too.

    python run_files.py FOLDER

For each *.tflite in the folder, translates every image in images.npy, float32 `[n, h, w, c]`, and
writes NAME.npy. Prints the processor that it ran on.
"""

import platform
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
print(platform.machine(), flush=True)
for file in sorted(folder.glob("*.tflite")):
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    fakes = []
    for image in images:
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        fakes.append(interpreter.get_tensor(target["index"])[0])
    np.save(file.with_suffix(".npy"), np.stack(fakes))
