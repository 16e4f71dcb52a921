"""Run the training steps that xla_program.py wrote, with JAX.

    pip install "jax>=0.10.2"          # NVIDIA: "jax[cuda13]>=0.10.2"
    python xla_run.py program
    python xla_run.py program --minutes=50 --peak_teraflops=495   # in parts; share of the peak

It only needs this file, the folder, jax and numpy. Run the same command again to continue.
Everything stays on the device. Every --save_minutes, and at the end, the state and the losses of
all steps replace state.npz in the folder. If the process is killed, later steps are lost.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

BLOCK = 10  # steps between reads of the losses, which wait for the device


def main(options) -> int:
    """Trains, prints the time of a step, and returns the exit code."""
    folder = Path(options.folder)
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"steps is {options.steps}: use 1 or more.")
    if not (folder / "program.json").exists():
        raise ValueError(f"{folder} has no program.json: run xla_program.py until it is done.")
    program = json.loads((folder / "program.json").read_text())
    jax, compile_and_load = load_jax()
    names, inputs, outputs = (program[key] for key in ("losses", "inputs", "outputs"))
    device = jax.devices()[0]
    reals = [np.load(folder / f"real_{domain}.npy", mmap_mode="r") for domain in "ab"]
    with np.load(folder / "state.npz") as file:
        losses = file["losses"]
        state = {name: jax.device_put(file[name], device) for name in inputs}
    done, steps = len(losses), len(reals[0])
    if done == steps:
        print(f"All {steps} steps are done: bring {folder} back with xla_program.py --bring_back.")
        return 0

    text = (folder / "step.mlir").read_text()
    if options.highest_precision:
        text = text.replace("<precision DEFAULT>", "<precision HIGHEST>")
    begin = time.monotonic()
    executable = compile_and_load(text)
    print(f"{device.device_kind}: compiled in {time.monotonic() - begin:.0f} s", flush=True)

    seconds = []  # mean time of a step in each block
    begin = saved = time.monotonic()
    stop = steps if options.steps is None else min(done + options.steps, steps)
    while done < stop:
        count, rows = min(BLOCK, stop - done), []
        before = time.perf_counter()
        for i in range(done, done + count):
            pair = [jax.device_put(real[i], device) for real in reals]
            results = executable.execute_sharded([*pair, *(state[name] for name in inputs)])
            results = [r for (r,) in results.disassemble_into_single_device_arrays()]
            rows.append(results[: len(names)])
            state |= zip(outputs, results[len(names) :], strict=True)
        block = np.array(jax.device_get(rows), np.float32)
        seconds.append((time.perf_counter() - before) / count)
        if not np.isfinite(block).all():
            name = names[np.argwhere(~np.isfinite(block))[0][1]]
            raise ValueError(f"{name} is not finite: {folder}/state.npz holds an earlier state.")
        losses = np.concatenate([losses, block])
        done += count
        now = time.monotonic()
        late = options.minutes is not None and now - begin > 60 * options.minutes
        if done == stop or late or now - saved > 60 * options.save_minutes:
            save(folder / "state.npz", jax.device_get(state), losses)
            shown = "  ".join(f"{n} {v:.4g}" for n, v in zip(names, block[-1], strict=True))
            print(f"step {program['start'] + done}, {steps - done} left: {shown}", flush=True)
            saved = time.monotonic()
        if late:
            break

    counted = seconds[1:] or seconds  # the first block is for warm-up
    warm = "" if seconds[1:] else ", warm-up and all"
    step = float(np.median(counted))
    rate = program["multiply_adds"] / step
    print(f"{program['precision']}, batch {program['batch_size']}: {1000 * step:.2f} ms a step")
    print(f"(median of {len(counted)} blocks{warm}); {rate / 1e9:.4g} G multiply-adds a second")
    if options.peak_teraflops:
        share = 2 * rate / (1e12 * options.peak_teraflops)  # two flops per multiply-add
        print(f"{100 * share:.3g} % of {options.peak_teraflops:g} TFLOP/s")
    return 0


def load_jax():
    """Returns the jax module, and a function that compiles StableHLO text for its first device."""
    try:
        import jax
        from jaxlib.xla_client import CompileOptions, DeviceList

        device = jax.devices()[0]
        compile_and_load = device.client.compile_and_load
    except ImportError as error:
        raise ValueError(f'JAX cannot be used ({error}): pip install "jax>=0.10.2".') from None
    except AttributeError:
        raise ValueError(f'jax {jax.__version__} is too old: pip install "jax>=0.10.2".') from None
    jax.config.update("jax_enable_x64", True)  # otherwise int64 counts become int32
    return jax, lambda text: compile_and_load(text, DeviceList((device,)), CompileOptions())


def save(path, state, losses):
    """Writes the file atomically."""
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, losses=losses, **state)
    os.replace(part, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder that xla_program.py wrote")
    parser.add_argument("--steps", type=int, help="stop after this many; run again to continue")
    parser.add_argument("--minutes", type=float, help="stop after this many")
    parser.add_argument("--save_minutes", type=float, default=10.0, help="minutes between saves")
    parser.add_argument("--peak_teraflops", type=float, help="peak of the chip in this precision")
    parser.add_argument(
        "--highest_precision",
        action="store_true",
        help="full float32 convolutions; JAX's default on an NVIDIA GPU may be TF32",
    )
    try:
        sys.exit(main(parser.parse_args()))
    except (ValueError, OSError, RuntimeError) as error:  # JAX raises RuntimeErrors
        sys.exit(f"error: {str(error).splitlines()[0]}")
