"""Check, time and train the program that write_program.py wrote, with JAX on this machine.

    python program/run.py check --output=checked --minutes=6
    python program/run.py train --output=trained --minutes=8 --check=checked

`check` runs five steps of a tiny training run and compares them with TensorFlow's, then times the
training steps of the program, and the same step in PyTorch if that is installed. `train` trains
for the given minutes, with a learning rate that falls to 0 in the second half of them. It writes
the generators in float16, the losses and a contact sheet; and a checkpoint to this folder, from
which the same command goes on.

Everything is in this folder. It needs jax, numpy and pillow; the comparison needs torch.
"""

import argparse
import functools
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
BLOCK = 10  # steps between reads of the losses, which wait for the device
PIECE_BYTES = 15 << 20  # of a result file
# Datasheets, in TFLOP/s without sparsity: float32 by CUDA cores, TensorFloat-32, bfloat16.
PEAKS = {"H100": (66.9, 494.7, 989.4), "H200": (66.9, 494.7, 989.4)}
PRECISIONS = ("float32", "tf32", "mixed_bfloat16")
DTYPES = {"f32": np.float32, "i64": np.int64}  # of the state, by their names in StableHLO
NETWORKS = ("a2b/", "b2a/", "d_a/", "d_b/")
# The largest differences from TensorFlow in five steps. Losses are relative, kernels have moved by
# 1e-3, and fakes are in [-1, 1]. The program leaves the rounding of convolutions to the device.
TOLERANCES = {
    "full precision": {"losses": 1e-4, "kernels": 1e-4, "fakes": 1e-3},
    "as the device computes": {"losses": 2e-2, "kernels": 1.1e-3, "fakes": 5e-2},
}


# === The program on this machine ===


class Step:
    """A training step of the program, compiled for the first device.

    Args:
        facts: its entry in program.json.
        highest: whether to compute convolutions in full float32.
        sharding: the device to compile for, if it is not the first one.

    Attributes:
        compiled: JAX's compiled function of two uint8 batches and the state.
    """

    def __init__(self, facts, highest=False, sharding=None):
        import jax

        self.facts = facts
        call, replaced = load(read_program(facts["file"]), len(facts["losses"]), highest)
        self.replaced = [facts["inputs"][number - 2] for number in replaced]
        self.unchanged = [name for name in facts["inputs"] if name not in self.replaced]

        def step(pixels, changed, unchanged):
            state = changed | unchanged
            outputs = call(*pixels, *(state[name] for name in facts["inputs"]))
            losses = jax.numpy.stack(outputs[: len(facts["losses"])])
            return losses, dict(zip(self.replaced, outputs[len(facts["losses"]) :], strict=True))

        array = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
        described = {name: array(v["shape"], v["dtype"]) for name, v in facts["variables"].items()}
        pool = described["pool_a/images"].shape[1:]
        pixels = (array((facts["batch"], *pool), np.uint8),) * 2
        parts = ({name: described[name] for name in p} for p in (self.replaced, self.unchanged))
        self.compiled = jax.jit(step, donate_argnums=1).lower(pixels, *parts).compile()

    def __call__(self, pixels, state):
        """Returns the losses `[n]`, and the new state; the old one cannot be used any more."""
        changed = {name: state[name] for name in self.replaced}
        unchanged = {name: state[name] for name in self.unchanged}
        losses, changed = self.compiled(tuple(pixels), changed, unchanged)
        return losses, changed | unchanged

    def memory_bytes(self):
        """Returns the device memory of inputs, outputs and temporary values."""
        memory = self.compiled.memory_analysis()
        used = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return used - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def read_program(name):
    """Returns the StableHLO text of a compressed file."""
    return gzip.decompress((HERE / name).read_bytes()).decode()


def load(text, results, highest=False):
    """Turns StableHLO from TensorFlow into a function that JAX can compile.

    Args:
        text: a module whose `main` returns `results` values and new values of some inputs.
        results: number of those values.
        highest: whether to compute convolutions in full float32.

    Returns:
        The function of all inputs, and the numbers of the inputs that its further outputs replace.
    """
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import stablehlo
    from jax.interpreters import mlir

    with mlir.make_ir_context() as context:
        context.allow_unregistered_dialects = True  # mhlo, which is not part of StableHLO
        module = ir.Module.parse(text)
        copies = []

        def visit(op):
            if op.name == "mhlo.copy":  # of an input that is also an output
                copies.append(op.operation)
            elif highest and "precision_config" in op.attributes:
                full = ir.ArrayAttr.get([stablehlo.PrecisionAttr.get("HIGHEST")] * 2)
                op.attributes["precision_config"] = full
            return ir.WalkResult.ADVANCE

        module.operation.walk(visit)
        for op in copies:
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()
        attributes = module.operation.attributes
        replaced = {}  # by output
        if "mhlo.input_output_alias" in attributes:
            for entry in map(ir.DictAttr, attributes["mhlo.input_output_alias"]):
                (output,) = ir.DenseI64ArrayAttr(entry["output_index"])
                alias = ir.DictAttr(entry["alias"])
                replaced[output] = ir.IntegerAttr(alias["parameter_number"]).value
        for name in [getattr(attribute, "name", attribute) for attribute in attributes]:
            if name.startswith("mhlo."):
                del attributes[name]
        count = len(_result_types(module))
        if sorted(replaced) != list(range(results, count)):
            raise ValueError("the program's outputs are not its results and its new state.")
        cleaned = str(module)

    return _as_function(cleaned), [replaced[output] for output in range(results, count)]


def _as_function(text):
    """Returns a JAX function that calls a StableHLO module."""
    from jax.core import ShapedArray
    from jax.extend.core import Primitive
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import func
    from jax.interpreters import mlir

    with mlir.make_ir_context():
        types = [ir.RankedTensorType(kind) for kind in _result_types(ir.Module.parse(text))]
        shapes = [ShapedArray(tuple(t.shape), DTYPES[str(t.element_type)]) for t in types]

    def lower(context, *operands):
        module = ir.Module.parse(text)
        results = _result_types(module)
        name = mlir.merge_mlir_modules(
            context.module_context.module,
            "stablehlo",
            module,
            dst_symtab=context.module_context.symbol_table,
        )
        return func.CallOp(results, ir.FlatSymbolRefAttr.get(name), operands).results

    primitive = Primitive("stablehlo")
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *_: shapes)
    mlir.register_lowering(primitive, lower)
    return primitive.bind


def _result_types(module):
    from jax.extend.mlir import ir

    main = ir.SymbolTable(module.operation)["main"]
    return ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value).results


def initial_state(variables, seed):
    """Returns the initial value of each variable, as program.json describes it."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, v in variables.items():
        if "value" in v:
            state[name] = np.full(v["shape"], v["value"], v["dtype"])
        else:
            state[name] = rng.normal(0, v["standard_deviation"], v["shape"]).astype(v["dtype"])
    return state


def read_image(path, side):
    """Returns an image, resized to a square, as uint8 `[side, side, 3]`."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


class Images:
    """The images of both domains, as the input pipeline of tf_cyclegan shows them.

    Args:
        program: from program.json.
    """

    def __init__(self, program):
        self.config = program["config"]
        self.draws = np.load(HERE / "draws.npz")["draws"]
        with ThreadPoolExecutor() as pool:
            self.resized = [list(pool.map(self._read, program["images"][d])) for d in "ab"]

    def _read(self, name):
        return read_image(HERE / name, self.config["load_size"])

    def batches(self, step, batch):
        """Returns uint8 batches `[batch, h, w, 3]` of both domains for a step."""
        places = np.arange(step * batch, (step + 1) * batch) % len(self.draws)
        return [np.stack([self._crop(d, *self.draws[p, d]) for p in places]) for d in range(2)]

    def _crop(self, domain, index, top, left, flip):
        side = self.config["crop_size"]
        image = self.resized[domain][index][top : top + side, left : left + side]
        return image[:, ::-1] if flip else image


# === Phase 1: check ===


def check(options, program):
    """Compares a tiny training run with TensorFlow's, and times all steps."""
    begin = time.monotonic()

    def left():
        return begin + 60 * options.minutes - time.monotonic()

    result = {"device": device_kind(), "tiny": compare(program["check"]), "times": []}
    for kind, found in result["tiny"].items():
        print(f"{device_kind()}, tiny run, {kind}: {found}", flush=True)
    names = sorted(program["steps"], key=lambda name: program["steps"][name]["batch"])
    items = [[kind, name] for name in names for kind in ("jax", "torch", "torch-last")]
    items += [["torch-compile", name] for name in names]
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: our step is timed alone.")
        items = [item for item in items if item[0] == "jax"]
    for kind, name in items:
        entry = {"kind": kind, "name": name}
        if left() < 5:
            entry["error"] = "no time left"
        else:
            command = [sys.executable, __file__, "time", f"--kind={kind}", f"--name={name}"]
            command += [f"--seconds={options.seconds}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=left())
                lines = done.stdout.splitlines() or ["{}"]
                last = (done.stderr.splitlines() or ["no output"])[-1]
                entry |= json.loads(lines[-1]) if done.returncode == 0 else {"error": last}
            except subprocess.TimeoutExpired:
                entry["error"] = "no time left"
        result["times"].append(entry)
        print(f"{kind:<14}{name:<20}{describe_time(entry)}", flush=True)
        write_json(options.output / "check.json", result)
    print(f"{time.monotonic() - begin:.0f} s in all")
    return 0 if all(found["good"] for found in result["tiny"].values()) else 1


def compare(facts):
    """Compares the tiny training run with TensorFlow's.

    Returns:
        A dict of the largest differences of losses, relative, and of kernels and stored fakes after
        the last step; of whether all counters are equal; and of whether all of it is good. Biases
        are left out: instance norm cancels them, so that their gradients are rounding errors.
    """
    with np.load(HERE / "check.npz") as file:
        arrays = dict(file)
    expected = arrays["losses"]
    names = facts["inputs"]
    kernels = [name for name in names if name[:4] in NETWORKS and name.endswith("_kernel")]
    counters = [name for name in names if arrays[f"after/{name}"].dtype == np.int64]
    found = {}
    for kind, tolerances in TOLERANCES.items():
        step = Step(facts, highest=kind == "full precision")
        state = {name: arrays[f"before/{name}"] for name in names}
        losses = []
        for number in range(len(expected)):
            row, state = step([arrays[f"real_{d}/{number}"] for d in "ab"], state)
            losses.append(np.asarray(row))

        def apart(some, state=state):
            after = ((np.asarray(state[name]), arrays[f"after/{name}"]) for name in some)
            return max(float(np.abs(one - other).max()) for one, other in after)

        relative = np.abs(np.array(losses) - expected) / np.maximum(np.abs(expected), 0.1)
        differences = {
            "losses": float(relative.max()),
            "kernels": apart(kernels),
            "fakes": apart(["pool_a/images", "pool_b/images"]),
        }
        equal = apart(counters) == 0
        good = equal and all(differences[name] <= most for name, most in tolerances.items())
        found[kind] = differences | {"counters_equal": equal, "good": good}
    return found


def describe_time(entry):
    """Returns a line about one timed step."""
    if "error" in entry:
        return entry["error"]
    share = f"{100 * entry['share_of_peak']:.0f} % of the peak" if "share_of_peak" in entry else ""
    memory = f"{entry['bytes'] / 1e9:.2f} GB" if "bytes" in entry else ""
    return f"{1000 * entry['seconds']:9.2f} ms a step  {share:<16}{memory}"


def time_one(options, program):
    """Times one step, ours or PyTorch's, and prints a line of JSON."""
    facts = program["steps"][options.name]
    call, more = (time_jax if options.kind == "jax" else time_torch)(options, program, facts)
    begin = time.monotonic()
    for _ in range(3):
        call()
    seconds = []
    end = time.monotonic() + options.seconds
    while len(seconds) < 3 or time.monotonic() < end:
        before = time.perf_counter()
        for _ in range(3):
            wait = call()
        wait()
        seconds.append((time.perf_counter() - before) / 3)
    result = more() | {"seconds": float(np.median(seconds)), "rounds": len(seconds)}
    result["total_seconds"] = time.monotonic() - begin
    for chip, peaks in PEAKS.items():
        if chip in device_kind():
            peak = 1e12 * peaks[PRECISIONS.index(facts["precision"])]
            result["share_of_peak"] = 2 * facts["multiply_adds"] / result["seconds"] / peak
    print(json.dumps(result))
    return 0


def time_jax(options, program, facts):
    """Returns a function that starts our step, and one that returns facts about it."""
    import jax

    begin = time.monotonic()
    step = Step(facts, highest=facts["precision"] == "float32")
    compile_seconds = time.monotonic() - begin
    state = jax.device_put(initial_state(facts["variables"], program["config"]["seed"]))
    pixels = [jax.device_put(images) for images in random_pixels(facts)]

    def call():
        nonlocal state
        losses, state = step(pixels, state)
        return losses.block_until_ready

    return call, lambda: {"bytes": step.memory_bytes(), "compile_seconds": compile_seconds}


def time_torch(options, program, facts):
    """Returns a function that runs the step of peer.py, and one that returns facts about it."""
    import peer
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = facts["precision"] == "tf32"
    torch.backends.cudnn.allow_tf32 = facts["precision"] == "tf32"
    torch.backends.cudnn.benchmark = True
    config = program["config"]
    model = peer.CycleGAN(
        config["filters"], config["blocks"], config["d_filters"], config["pool_size"]
    )
    memory_format = torch.contiguous_format
    if options.kind == "torch-last":
        memory_format = torch.channels_last
    for name in ("a2b", "b2a", "d_a", "d_b"):
        network = getattr(model, name).to(device, memory_format=memory_format)
        setattr(model, name, torch.compile(network) if options.kind == "torch-compile" else network)
    real = [
        torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)).to(
            device, memory_format=memory_format
        )
        for images in random_pixels(facts)
    ]
    half = facts["precision"] == "mixed_bfloat16"

    def call():
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            model.train_step(*real)  # waits, since it returns the losses as numbers
        return lambda: None

    def found():
        return {"bytes": torch.cuda.max_memory_allocated()} if device.type == "cuda" else {}

    return call, found


def random_pixels(facts):
    """Returns two uint8 batches of noise: zeros can be faster than real images."""
    shape = (facts["batch"], *facts["variables"]["pool_a/images"]["shape"][1:])
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for _ in "ab"]


# === Phase 2: train ===


def train(options, program):
    """Trains until the time is up, and writes the generators, the losses and a contact sheet."""
    import jax

    name = options.name or best_step(options.check)
    if name not in program["steps"]:
        raise ValueError(
            f"the program has no step {name}: use one of {', '.join(program['steps'])}."
        )
    facts = program["steps"][name]
    checkpoint = HERE / "checkpoint.npz"
    if checkpoint.exists():
        with np.load(checkpoint) as file:
            state = dict(file)
        elapsed, steps, losses = (state.pop(f"run/{key}") for key in ("elapsed", "steps", "losses"))
        if str(state.pop("run/name")) != name:
            raise ValueError(f"{checkpoint} is of another step: remove it, or use the same --name.")
        elapsed, steps, losses = float(elapsed), int(steps), list(losses)
    else:
        state = initial_state(facts["variables"], program["config"]["seed"])
        elapsed, steps, losses = 0.0, 0, []
    print(f"{device_kind()}: {name}, from step {steps}", flush=True)
    step = Step(facts, highest=facts["precision"] == "float32")
    images = Images(program)
    state = jax.device_put(state)
    rate = program["config"]["learning_rate"]
    whole = 60 * options.minutes
    stop = min(whole, elapsed + 60 * options.pause_after) if options.pause_after else whole
    begin = time.monotonic() - elapsed
    kept = {"elapsed": elapsed, "steps": steps, "losses": losses, "name": name}
    kept_state, lost = jax.device_get(state), None
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(images.batches, steps, facts["batch"])
        while elapsed < stop:
            # Constant in the first half of the time, then falling to 0 at its end.
            now = np.float32(rate * min(1.0, 2 * (1 - elapsed / whole)))
            state |= {name: now for name in facts["rates"]}
            for _ in range(BLOCK):
                pixels = coming.result()
                steps += 1
                coming = ahead.submit(images.batches, steps, facts["batch"])
                row, state = step(pixels, state)
            row = np.asarray(row)  # waits for the device
            if not np.isfinite(row).all():
                lost = f"{facts['losses'][int(np.argmin(np.isfinite(row)))]} at step {steps}"
                break
            losses = [*losses, np.array([steps, *row], np.float32)]
            elapsed = time.monotonic() - begin
            if elapsed - kept["elapsed"] > 60 * options.save_minutes or elapsed >= stop:
                kept = {"elapsed": elapsed, "steps": steps, "losses": losses, "name": name}
                kept_state = jax.device_get(state)
                save(checkpoint, kept_state | {f"run/{k}": v for k, v in kept.items()})
                shown = "  ".join(f"{n} {v:.3g}" for n, v in zip(facts["losses"], row, strict=True))
                print(f"step {steps}, {elapsed:.0f} s of {whole:.0f}: {shown}", flush=True)
    result = {
        "device": device_kind(),
        "name": name,
        "steps": kept["steps"],
        "batch": facts["batch"],
        "seconds": kept["elapsed"],
        "complete": kept["elapsed"] >= whole,
        "not_finite": lost,
        "losses": ["step", *facts["losses"]],
    }
    write_results(options.output, program, result, kept_state, np.array(kept["losses"]))
    if lost:
        raise ValueError(f"{lost} is not finite: the results are of step {kept['steps']}.")
    return 0


def best_step(folder):
    """Returns the name of the step with the most images a second, by check.json."""
    if folder is None:
        raise ValueError("give --check, the folder that check wrote, or --name of a step.")
    times = json.loads((folder / "check.json").read_text())["times"]
    ours = [entry for entry in times if entry["kind"] == "jax" and "seconds" in entry]
    if not ours:
        raise ValueError(f"{folder}/check.json contains no timed step: pass --name.")
    return max(ours, key=lambda e: int(e["name"].rpartition("_")[2]) / e["seconds"])["name"]


def write_results(folder, program, result, state, losses):
    """Writes files of at most PIECE_BYTES, result.json last."""
    sheet = []
    with np.load(HERE / "examples.npz") as examples:
        for network, domain in (("a2b", "a"), ("b2a", "b")):
            real = examples[domain]
            sheet += [np.hstack(real), np.hstack(translate(program, network, state, real))]
    Image.fromarray(np.vstack(sheet)).save(folder / "sheet.png")
    np.savez(folder / "losses.npz", losses=losses)
    files = ["sheet.png", "losses.npz"]
    for network in ("a2b", "b2a"):
        pieces, size = [{}], 0
        for name in program["generator"]["inputs"]:
            array = state[f"{network}/{name}"].astype(np.float16)
            if size + array.nbytes > PIECE_BYTES:
                pieces, size = [*pieces, {}], 0
            pieces[-1][name] = array
            size += array.nbytes
        for number, piece in enumerate(pieces):
            files.append(f"{network}_{number}.npz")
            np.savez(folder / files[-1], **piece)
    write_json(folder / "result.json", result | {"files": files})
    megabytes = sum((folder / name).stat().st_size for name in files) / 1e6
    print(f"{folder}: {len(files) + 1} files, {megabytes:.1f} MB")


def translate(program, network, state, images):
    """Translates uint8 images with a generator of the state."""
    import jax

    facts = program["generator"]
    call, _ = load(read_program(facts["file"]), 1)
    weights = [state[f"{network}/{name}"] for name in facts["inputs"]]
    (fake,) = jax.jit(call)(images / np.float32(127.5) - np.float32(1), *weights)
    return np.clip(np.rint((np.asarray(fake) + 1) * 127.5), 0, 255).astype(np.uint8)


# === Command line ===


def save(path, arrays):
    """Writes a file atomically."""
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, **arrays)
    os.replace(part, path)


def write_json(path, value):
    """Writes a JSON file atomically."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


@functools.cache
def device_kind():
    """Returns the name of the device, which JAX must be able to use."""
    import jax

    return jax.devices()[0].device_kind


def main() -> int:
    """Runs a phase, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    phases = parser.add_subparsers(dest="phase", required=True)
    checks = phases.add_parser("check", help="compare with TensorFlow, and time all steps")
    checks.add_argument("--seconds", type=float, default=3, help="of timing for each step")
    trains = phases.add_parser("train", help="train for a time")
    trains.add_argument("--check", type=Path, help="folder of check: use its fastest step")
    trains.add_argument("--name", help="the step to train with, such as tf32_1")
    trains.add_argument("--pause_after", type=float, help="minutes of this call")
    trains.add_argument("--save_minutes", type=float, default=2, help="between checkpoints")
    for phase in (checks, trains):
        phase.add_argument("--output", type=Path, required=True, help="folder for the results")
        phase.add_argument("--minutes", type=float, required=True, help="for the whole phase")
    times = phases.add_parser("time", help="time one step (check calls this)")
    times.add_argument("--kind", required=True)
    times.add_argument("--name", required=True)
    times.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()

    if importlib.util.find_spec("jax") is None:
        raise ValueError("JAX is missing: pip install -r requirements.txt")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too
    import jax

    jax.config.update("jax_enable_x64", True)  # otherwise int64 counts become int32
    jax.config.update("jax_compilation_cache_dir", str(HERE / "compiled"))  # train compiles again
    program = json.loads((HERE / "program.json").read_text())
    if options.phase != "time":
        options.output.mkdir(parents=True, exist_ok=True)
    return {"check": check, "train": train, "time": time_one}[options.phase](options, program)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, KeyError, RuntimeError) as error:  # JAX raises RuntimeErrors
        sys.exit(f"error: {str(error).splitlines()[0]}")
