"""Write a run's next training steps as a program for a machine with JAX but no TensorFlow.

    tf-cyclegan train --data_dir=my_photos --run_dir=runs/mine --max_steps=1  # or any run
    python benchmarks/xla_program.py --run_dir=runs/mine --folder=program --steps=1000
    python xla_run.py program     # there: it needs that file, the folder, jax and numpy
    python benchmarks/xla_program.py --run_dir=runs/mine --folder=program --bring_back
    tf-cyclegan train --data_dir=my_photos --run_dir=runs/mine                # continues

The folder holds `step.mlir`, the whole step as StableHLO; `state.npz`, all variables that it reads
or changes; `real_a.npy` and `real_b.npy`, the batches of these steps; and `program.json`, which
describes the inputs. It is for one device. With dropout, XLA and TensorFlow draw different masks.
"""

import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, with or without a checkpoint."""
    folder: str
    """The program's folder: a new one, or with --bring_back one that xla_run.py has updated."""
    steps: int = 1000
    """Number of training steps to write batches for, as uint8 images."""
    bring_back: bool = False
    """Save the program's state as the run folder's next checkpoint."""


def main(options: Options) -> int:
    """Writes the program, or brings its state back, and returns the exit code."""
    return (bring_back if options.bring_back else write_program)(options)


def write_program(options: Options) -> int:
    """Writes the folder; `program.json` is written last, when everything else is complete."""
    import numpy as np  # imported here to keep --help fast
    import work

    from tf_cyclegan.data.image_files import to_uint8
    from tf_cyclegan.files import write_text
    from tf_cyclegan.training.batches import TrainingData, load_dataset
    from tf_cyclegan.training.run_folder import read_config

    # === Check everything before anything is written ===
    config = dataclasses.replace(read_config(options.run_dir), resume=True)
    folder = Path(options.folder)
    if options.steps < 1:
        raise ValueError(f"steps is {options.steps}: use 1 or more.")
    if (folder / "program.json").exists():
        raise ValueError(f"{folder} already holds a program: use another --folder.")
    if config.precision == "mixed_float16":
        raise ValueError("mixed_float16 is not supported: train with float32 or mixed_bfloat16.")
    if config.strategy in ("mirrored", "multiworker"):
        raise ValueError(f"the run's strategy is {config.strategy}: use a run for one device.")
    data = TrainingData(load_dataset(config), config)
    shapes = data.shape_a, data.shape_b
    if None in shapes[0] + shapes[1]:
        raise ValueError("images differ in size: use a run with a --preprocess that crops.")
    with restored(options.run_dir, config, shapes, data.steps_per_epoch) as (strategy, model, _):
        start = model.steps_done
    steps = min(options.steps, (config.epochs + config.decay_epochs) * data.steps_per_epoch - start)
    if steps < 1:
        raise ValueError(f"{options.run_dir} is complete at step {start}: use more --epochs.")

    # === Write the program, its initial state and its batches ===
    shapes = [(config.batch_size, *shape) for shape in shapes]
    text, graph, inputs, outputs = lower(model, strategy, shapes)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "step.mlir", text)
    variables = state_variables(model)
    state = {name: variables[name].numpy() for name in inputs}
    losses = np.zeros((0, len(model.log_names())), np.float32)
    np.savez(folder / "state.npz", losses=losses, **state)
    files = [
        np.lib.format.open_memmap(folder / f"real_{domain}.npy", "w+", np.uint8, (steps, *shape))
        for domain, shape in zip("ab", shapes, strict=True)
    ]
    for i, pair in enumerate(data.batches(start, start + steps)):
        for file, real in zip(files, pair, strict=True):
            file[i] = to_uint8(real)
    for file in files:
        file.flush()
    program = {
        "start": start,
        "losses": model.log_names(),  # the first outputs
        "inputs": inputs,  # names in the state, after real_a and real_b
        "outputs": outputs,  # names in the state of the outputs after the losses
        "multiply_adds": sum(map(work.operation_multiply_adds, needed_operations(graph))),
        "precision": config.precision,
        "batch_size": config.batch_size,
        "steps_per_epoch": data.steps_per_epoch,
        "shapes": [data.shape_a, data.shape_b],
        "config": dataclasses.asdict(config),
    }
    write_text(folder / "program.json", json.dumps(program, indent=1) + "\n")
    print(f"{folder}: steps {start} to {start + steps}; run there: python xla_run.py {folder}")
    return 0


def bring_back(options: Options) -> int:
    """Logs the losses, sets the state and saves a checkpoint."""
    import numpy as np

    from tf_cyclegan.training.callbacks import LossLog
    from tf_cyclegan.training.config import Config
    from tf_cyclegan.training.run_folder import read_config

    folder = Path(options.folder)
    if not (folder / "program.json").exists():
        raise ValueError(f"{folder} contains no program.json: use the --folder of a whole program.")
    program = json.loads((folder / "program.json").read_text())
    with np.load(folder / "state.npz") as file:
        state = dict(file)
    losses = state.pop("losses")
    read_config(options.run_dir)  # raises an error if it is missing; `restored` compares it
    config = Config.from_json(json.dumps(program["config"]))
    shapes = program["shapes"]
    with restored(options.run_dir, config, shapes, program["steps_per_epoch"]) as (_, model, run):
        start, step, end = program["start"], model.steps_done, int(state.get("step", -1))
        if not start <= step < end:
            raise ValueError(
                f"{run.path} is at step {step}, {folder} goes from step {start} to {end}: bring it "
                "back to the run that it was made from, and only once."
            )
        variables = state_variables(model)
        for name, value in state.items():
            if name not in variables or variables[name].shape != value.shape:
                raise ValueError(
                    f"{folder}/state.npz does not fit: the run has no {name} {value.shape}."
                )
        if state.keys() != set(program["inputs"]) or len(losses) != end - start:
            raise ValueError(f"{folder}/state.npz is not from this program: copy it there again.")

        log = LossLog(run.path, step)
        log.set_model(model)
        for row in losses[step - start :]:
            model.step.assign_add(1)
            log.on_train_batch_end(0, dict(zip(program["losses"], row, strict=True)))
        log.on_epoch_end(0)
        for name, value in state.items():
            variables[name].assign(value)
        run.save()
        print(f"{run.path}: step {step} is now step {end}; continue it with tf-cyclegan train.")
    return 0


@contextlib.contextmanager
def restored(run_dir, config, shapes, steps_per_epoch):
    """Yields the run's strategy, model and locked folder, with its last checkpoint restored."""
    from tf_cyclegan.training.factory import make_cyclegan, make_strategy
    from tf_cyclegan.training.run_folder import RunFolder

    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, *shapes, steps_per_epoch)
    with RunFolder(Path(run_dir), config) as run:
        run.attach(model)
        yield strategy, model, run


def state_variables(model):
    """Returns all `tf.Variable`s that a step reads or changes, with stable names."""
    means = {f"mean_{name}": tracker for name, tracker in model.trackers.items()}
    parts = model.networks() | model.optimizers() | means
    # Keras' own names change, because it numbers layers per process and names slots after them.
    named = {
        f"{part}/{i:03d}_{variable.name.rpartition('_')[2]}": variable.value
        for part, owner in parts.items()
        for i, variable in enumerate(owner.variables)
    }
    for domain, pools in (("a", model.pool_a), ("b", model.pool_b)):
        for pool in pools:
            named |= {f"pool_{domain}/images": pool.images, f"pool_{domain}/seen": pool.seen}
    return named | {"step": model.step}


def lower(model, strategy, shapes):
    """Lowers the training step on uint8 images to StableHLO.

    Args:
        model: a compiled `CycleGAN`.
        strategy: the model's strategy, with one device.
        shapes: `[n, h, w, c]` of real_a and real_b.

    Returns:
        The text; its TensorFlow graph; the names of its inputs after real_a and real_b; and the
        names of its outputs, new values of inputs, after the losses (in `log_names` order).
    """
    import numpy as np
    import tensorflow as tf

    from tf_cyclegan import cpu
    from tf_cyclegan.data.image_files import to_float

    names = model.log_names()
    # A table, since XLA may replace the division of the input pipeline by a multiplication.
    levels = to_float(np.arange(256, dtype=np.uint8))

    def step(*pixels):
        real = tuple(tf.gather(levels, tf.cast(image, tf.int32)) for image in pixels)
        report = strategy.run(model.train_step, args=(real,))
        return [report[name] for name in names]

    function = tf.function(step, jit_compile=True, autograph=False)
    pair = [tf.zeros(shape, tf.uint8) for shape in shapes]
    with cpu.disabled():  # the program is for GPUs
        concrete = function.get_concrete_function(*pair)
        text = function.experimental_get_compiler_ir(*pair)(stage="stablehlo")
    by_handle = {id(v.handle): name for name, v in state_variables(model).items()}
    inputs = [by_handle[id(handle)] for handle in concrete.captured_inputs]
    # The only operation that is not StableHLO; it copies an input that is also an output.
    text = re.sub(r"mhlo\.copy (%\S+) : (\S+)", r"stablehlo.reshape \1 : (\2) -> \2", text)
    # TensorFlow's donations: the input that each output replaces.
    found = re.findall(r"number = (\d+) : i64}, output_index = array<i64: (\d+)>", text)
    replaces = {int(output): inputs[int(number) - len(pair)] for number, output in found}
    outputs = [replaces[len(names) + i] for i in range(len(replaces))]
    return text, concrete.graph, inputs, outputs


def needed_operations(graph):
    """Returns the operations that a graph's results and updates depend on."""
    todo, needed = [*(t.op for t in graph.outputs), *graph.control_outputs], set()
    while todo:
        op = todo.pop()
        if op not in needed:
            needed.add(op)
            todo += [*(t.op for t in op.inputs), *op.control_inputs]
    return needed


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__, use_underscores=True)
    try:
        sys.exit(main(options))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
