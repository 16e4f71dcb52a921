"""Write a training run as a program for a machine with JAX and a GPU, but without TensorFlow.

    python -m benchmarks.xla.write_program --data_dir=horse2zebra --folder=program
    python program/run.py check --output=checked                        # on the other machine
    python program/run.py train --check=checked --minutes=8 --output=trained
    python -m benchmarks.xla.bring_back --program=program --results=trained --run_dir=runs/mine

Run it in the root of the repository. The folder holds all that the other machine needs: `run.py`
and the PyTorch step that it compares with; the training step of each precision and batch size as
StableHLO; the image files, and a table of the image, crop and flip of every step. It holds no
weights: `program.json` describes how to initialize each variable. `check.npz` holds five steps of
a tiny training run, computed by TensorFlow.
"""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path
from typing import Literal

from tf_cyclegan.cli import command

HERE = Path(__file__).parent
CHECK_STEPS = 5  # the third step fills the pools
TINY = {
    "dataset": "synthetic/summer2winter",
    "load_size": 28,
    "crop_size": 24,
    "filters": 4,
    "blocks": 0,
    "d_filters": 4,
    "d_layers": 1,
    "pool_size": 6,
    "batch_size": 2,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags."""

    data_dir: str
    """Folder with trainA/ and trainB/. Its image files become part of the program."""
    folder: str
    """New folder for the program."""
    load_size: int = 286
    """Side in pixels to which images are resized."""
    crop_size: int = 256
    """Side in pixels of the random crops."""
    filters: int = 64
    """Filters of the first layer of generators and discriminators."""
    blocks: int = 9
    """Residual blocks of a generator."""
    pool_size: int = 50
    """Fakes that an image pool keeps."""
    batches: tuple[int, ...] = (1, 4, 8)
    """Batch sizes to write a training step for."""
    precisions: tuple[Literal["float32", "mixed_bfloat16"], ...] = ("float32", "mixed_bfloat16")
    """Precisions to write a training step for. The runner computes float32 in full precision, or
    with convolutions as the device rounds them, called tf32."""
    images: int = 200_000
    """Crops of each domain that the table holds; training repeats them if it needs more."""
    seed: int = 0
    """Random seed of the crops, and of the initial weights."""
    max_megabytes: float = 64
    """Refuse to write a larger program."""


def main(options: Options) -> int:
    """Writes the program; `program.json` is written last, when everything else is complete."""
    import numpy as np  # imported here to keep --help fast

    from benchmarks.xla.run import read_image
    from tf_cyclegan.files import write_text
    from tf_cyclegan.training.batches import TrainingData, load_dataset
    from tf_cyclegan.training.config import Config

    # === Check everything before anything is written ===
    folder = Path(options.folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: use another --folder.")
    config = Config(
        data_dir=options.data_dir,
        load_size=options.load_size,
        crop_size=options.crop_size,
        filters=options.filters,
        blocks=options.blocks,
        d_filters=options.filters,
        pool_size=options.pool_size,
        seed=options.seed,
        cache="none",
    )
    sets = load_dataset(config)
    data = TrainingData(sets, config)
    paths = {domain: sets[f"train{domain.upper()}"].paths for domain in "ab"}
    size = sum(Path(path).stat().st_size for files in paths.values() for path in files)
    if size > 1e6 * options.max_megabytes:
        raise ValueError(
            f"the images take {size / 1e6:.0f} MB: use fewer or smaller ones, or a larger "
            "--max_megabytes."
        )
    for domain, resized in (("a", data.a), ("b", data.b)):
        for index, path in enumerate(paths[domain]):
            if not np.array_equal(resized[index], read_image(path, config.load_size)):
                raise ValueError(
                    f"{path} has a color profile, an orientation or transparency, which run.py "
                    "would ignore: save it as a plain RGB image."
                )

    # === Write ===
    folder.mkdir(parents=True, exist_ok=True)
    for source in (HERE / "run.py", HERE / "compile_for_gpu.py", HERE.parent / "peer.py"):
        shutil.copy(source, folder)
    images = {domain: copy_images(files, folder, domain) for domain, files in paths.items()}
    write_draws(folder / "draws.npz", data, options.images)
    examples_a, examples_b = map(np.stack, data.examples(sets))
    np.savez_compressed(folder / "examples.npz", a=examples_a, b=examples_b)
    program = {
        "config": dataclasses.asdict(config),
        "images": images,
        "check": write_check(folder),
        "steps": {
            name: facts
            for batch in options.batches
            for precision in options.precisions
            for name, facts in write_steps(folder, config, precision, batch).items()
        },
        "generator": write_generator(folder / "generator.mlir.gz", config, len(examples_a)),
    }
    write_text(folder / "program.json", json.dumps(program, indent=1) + "\n")
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if megabytes > options.max_megabytes:
        shutil.rmtree(folder)
        raise ValueError(
            f"the program would take {megabytes:.1f} MB: use fewer --batches, or a larger "
            "--max_megabytes."
        )
    print(f"{folder}: {megabytes:.1f} MB, {len(program['steps'])} training steps")
    return 0


def copy_images(paths, folder, domain):
    """Copies image files, unchanged, and returns their new paths in the folder."""
    target = folder / "images" / domain
    target.mkdir(parents=True)
    names = [f"images/{domain}/{i:05d}{Path(path).suffix}" for i, path in enumerate(paths)]
    for path, name in zip(paths, names, strict=True):
        shutil.copyfile(path, folder / name)
    return names


def write_draws(path, data, count):
    """Writes which image, crop and flip the input pipeline takes at each place of a run."""
    import numpy as np
    import tensorflow as tf

    from tf_cyclegan.data.resizing import draw_crop_and_flip

    def draw(place):
        rows = []
        for stream, images in enumerate((data.a, data.b)):
            index, seed = data.draw(images, place, stream)
            size = tf.fill([2], data.config.load_size)
            top, left, flip = draw_crop_and_flip(size, images.crop, seed)
            rows.append([tf.cast(value, tf.int32) for value in (index, top, left, flip)])
        return tf.convert_to_tensor(rows)

    table = tf.data.Dataset.range(count).map(draw).batch(1024)
    np.savez_compressed(path, draws=np.concatenate(list(table.as_numpy_iterator())))


def write_check(folder):
    """Writes five steps of a tiny training run, as TensorFlow computes them without XLA."""
    import numpy as np
    import tensorflow as tf

    from tf_cyclegan.data.image_files import to_uint8
    from tf_cyclegan.training.batches import TrainingData, load_dataset
    from tf_cyclegan.training.config import Config

    config = Config(**TINY)
    step = write_step(folder / "check.mlir.gz", config)
    data = TrainingData(load_dataset(config), config)
    model, strategy = make_model(config)
    train_step = tf.function(
        lambda *real: strategy.run(model.train_step, args=(real,)), autograph=False
    )
    variables = state_variables(model)
    arrays = {f"before/{name}": variables[name].numpy() for name in step["inputs"]}
    losses = []
    for number, real in enumerate(data.batches(0, CHECK_STEPS)):
        for domain, images in zip("ab", real, strict=True):
            arrays[f"real_{domain}/{number}"] = to_uint8(images.numpy())
        losses.append([float(value) for value in train_step(*real).values()])
    arrays |= {f"after/{name}": variables[name].numpy() for name in step["inputs"]}
    np.savez_compressed(folder / "check.npz", losses=np.array(losses, np.float32), **arrays)
    return step


def write_steps(folder, config, precision, batch):
    """Writes a training step, and returns how the runner can compute it, by name."""
    config = dataclasses.replace(config, precision=precision, batch_size=batch)
    facts = write_step(folder / f"step_{precision}_{batch}.mlir.gz", config)
    kinds = ("float32", "tf32") if precision == "float32" else (precision,)
    return {f"{kind}_{batch}": facts | {"precision": kind} for kind in kinds}


def write_step(path, config):
    """Writes a training step on uint8 images as StableHLO.

    Returns:
        A dict for `program.json`: `losses`, the names of the first outputs; `inputs`, the names of
        the inputs after both batches; `variables`, how to initialize each; `rates`, which of them
        are learning rates; and the `multiply_adds` of the convolutions.
    """
    import numpy as np
    import tensorflow as tf

    from benchmarks.multiply_adds import needed_operations
    from tf_cyclegan import cpu
    from tf_cyclegan.data.image_files import to_float
    from tf_cyclegan.export.multiply_adds import operation_multiply_adds

    model, strategy = make_model(config)
    names = model.log_names()
    # A table, since XLA may replace the division of the input pipeline by a multiplication.
    levels = to_float(np.arange(256, dtype=np.uint8))

    def step(*pixels):
        real = tuple(tf.gather(levels, tf.cast(image, tf.int32)) for image in pixels)
        report = strategy.run(model.train_step, args=(real,))
        return [report[name] for name in names]

    function = tf.function(step, jit_compile=True, autograph=False)
    pair = [tf.zeros((config.batch_size, config.crop_size, config.crop_size, 3), tf.uint8)] * 2
    # The default: TensorFlow leaves the rounding of float32 convolutions to the device.
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with cpu.disabled():  # the program is for GPUs
        concrete = function.get_concrete_function(*pair)
        write_program_text(path, function, *pair)
    variables = state_variables(model)
    by_handle = {id(variable.handle): name for name, variable in variables.items()}
    inputs = [by_handle[id(handle)] for handle in concrete.captured_inputs]
    return {
        "file": path.name,
        "batch": config.batch_size,
        "losses": names,
        "inputs": inputs,
        "variables": {name: describe(variables[name]) for name in inputs},
        "rates": [name for name in inputs if name.endswith("_optimizer/001_rate")],
        "multiply_adds": sum(map(operation_multiply_adds, needed_operations(concrete.graph))),
    }


def write_program_text(path, function, *arguments):
    """Writes the StableHLO of a `tf.function`, compressed."""
    text = function.experimental_get_compiler_ir(*arguments)(stage="stablehlo")
    path.write_bytes(gzip.compress(text.encode()))


def write_generator(path, config, count):
    """Writes a generator on float32 images; returns the names of its weights."""
    import tensorflow as tf

    from tf_cyclegan.training.factory import make_generator

    generator = make_generator(config, 3, 3)
    shape = (count, config.crop_size, config.crop_size, 3)
    function = tf.function(generator, jit_compile=True, autograph=False)
    images = tf.zeros(shape)
    inputs = function.get_concrete_function(images).captured_inputs
    write_program_text(path, function, images)
    by_handle = {id(v.handle): name for name, v in variable_names(generator).items()}
    return {
        "file": path.name,
        "inputs": [by_handle[id(handle)] for handle in inputs],
        "shape": shape,
    }


def make_model(config):
    """Returns a CycleGAN whose learning rates are variables, and its strategy."""
    from tf_cyclegan.training.factory import make_cyclegan, make_strategy

    strategy = make_strategy("one")
    shape = (config.crop_size, config.crop_size, 3)
    model = make_cyclegan(config, strategy, shape, shape, steps_per_epoch=1)
    with strategy.scope():
        model.compile()
    return model, strategy


def state_variables(model):
    """Returns all `tf.Variable`s that a step reads or changes, with stable names."""
    means = {f"mean_{name}": tracker for name, tracker in model.trackers.items()}
    parts = model.networks() | model.optimizers() | means
    named = {
        f"{part}/{name}": variable
        for part, owner in parts.items()
        for name, variable in variable_names(owner).items()
    }
    for domain, pools in (("a", model.pool_a), ("b", model.pool_b)):
        for pool in pools:
            named |= {f"pool_{domain}/images": pool.images, f"pool_{domain}/seen": pool.seen}
    return named | {"step": model.step}


def variable_names(owner):
    """Returns the `tf.Variable`s of a network, an optimizer or a metric by stable names."""
    # Keras' own names change, because it numbers layers per process and names slots after them.
    return {
        f"{i:03d}_{variable.name.rpartition('_')[2]}": variable.value
        for i, variable in enumerate(owner.variables)
    }


def describe(variable):
    """Returns the shape, dtype and initial values of a variable: all equal, or normal."""
    values = variable.numpy()
    first = values.flat[0].item()
    start = {"value": first} if (values == first).all() else {"standard_deviation": 0.02}
    if "standard_deviation" in start and values.size > 1000:
        assert abs(values.std() / 0.02 - 1) < 0.1 and abs(values.mean()) < 0.005
    return {"shape": list(values.shape), "dtype": values.dtype.name, **start}


if __name__ == "__main__":
    command.run(main, command.parse(Options, __doc__))
