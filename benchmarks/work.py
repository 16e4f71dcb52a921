"""Creates the measured callables, our own and the peer's, and counts their multiply-adds.

Functions that return callables are for `measure.Process`: they run in a child process, and only
there import TensorFlow or PyTorch. Images are random, float32 in [-1, 1].
"""

import itertools
import os

from measure import has_bfloat16
from multiply_adds import step_multiply_adds

MATRIX = 2048  # rows and columns of the matrices whose product gives the machine's floor
RECOMPUTED = ", recomputed"  # suffix of a precision for the step with --recompute
# Precision -> dtype of its convolutions and of the matrix product that is its floor.
COMPUTE = {"float32": "float32", "mixed_bfloat16": "bfloat16"}


def tensorflow_steps(networks, batch, precisions, threads, floor=True, recompute=False):
    """Returns our training step as `fit` runs it, for each precision, and the floor.

    Args:
        networks: size of the images; filters of generators and discriminators; blocks.
        batch: images of each domain.
        precisions: as in `Config.precision`.
        threads: number of threads; 0 lets TensorFlow choose.
        floor: whether to add matrix products, named "matrix float32" and so on.
        recompute: as in `Config`; the callables are named "float32, recomputed" and so on.
    """
    tf = _tensorflow(threads)
    from tf_cyclegan.cpu.allocator import keep_freed_memory
    from tf_cyclegan.export.multiply_adds import convolutions
    from tf_cyclegan.training.config import Config

    keep_freed_memory()  # as tf-cyclegan train does
    size, filters, blocks = networks
    shape = (size, size, 3)

    def step(precision):
        config = Config(
            crop_size=size,
            filters=filters,
            blocks=blocks,
            d_filters=filters,
            batch_size=batch,
            precision=precision,
            recompute=recompute,
        )
        return _step(tf, config)

    steps = {precision: step(precision) for precision in precisions}
    model = next(iter(steps.values()))[0]
    counts = step_multiply_adds(
        convolutions(model.a2b, (batch, *shape)), convolutions(model.d_a, (batch, *shape))
    )
    suffix = RECOMPUTED if recompute else ""
    calls = {precision + suffix: call for precision, (_, call) in steps.items()}
    calls |= matrix_products(tf, precisions) if floor else {}
    return calls, _facts(tf, multiply_adds=counts)


def configured_steps(configs, threads):
    """Returns our training step as `fit` runs it, for each `Config` by name."""
    tf = _tensorflow(threads)
    from tf_cyclegan.cpu.allocator import keep_freed_memory

    keep_freed_memory()
    return {name: _step(tf, config)[1] for name, config in configs.items()}, _facts(tf)


def _step(tf, config):
    """Returns the model of a `Config`, and a function that trains it for a step."""
    from tf_cyclegan.training.factory import make_cyclegan, make_strategy

    strategy, size = make_strategy("one"), config.crop_size
    model = make_cyclegan(config, strategy, (size, size, 3), (size, size, 3), steps_per_epoch=1000)
    model.make_train_function()
    batch = images(2, config.batch_size * config.d_steps, size)
    data = tf.data.Dataset.from_tensors(tuple(tf.constant(image) for image in batch)).repeat()
    iterator = iter(strategy.experimental_distribute_dataset(data))
    return model, lambda: sum(float(loss) for loss in model.train_function(iterator).values())


def tensorflow_generators(networks, batch, precisions, threads):
    """Returns a generator's forward pass in a `tf.function`, for each precision, and the floor."""
    tf = _tensorflow(threads)
    from tf_cyclegan.export.multiply_adds import convolutions
    from tf_cyclegan.training.config import Config
    from tf_cyclegan.training.factory import make_generator

    size, filters, blocks = networks
    (image,) = (tf.constant(image) for image in images(1, batch, size))
    counts = {}

    def forward(precision):
        config = Config(filters=filters, blocks=blocks, precision=precision)
        network = make_generator(config, 3, 3)
        counts["total"] = sum(convolutions(network, image.shape))
        call = tf.function(lambda x: network(x, training=False))
        return lambda: float(call(image)[0, 0, 0, 0])

    calls = {precision: forward(precision) for precision in precisions}
    return calls | matrix_products(tf, precisions), _facts(tf, multiply_adds=counts)


def input_pipelines(folder, count, networks, batch, threads, with_step):
    """Returns pipelines for JPEG files, with and without cache, and optionally a training step.

    Args:
        folder: holds trainA and trainB.
        count: batches that each call reads, starting where the last call ended.
        networks, batch, threads: as in `tensorflow_steps`; size is that of the crops.
        with_step: whether to add our float32 step.
    """
    tf = _tensorflow(threads)
    from tf_cyclegan.training.batches import TrainingData, load_dataset
    from tf_cyclegan.training.config import Config

    def pipeline(cache):
        size = networks[0]
        config = Config(
            data_dir=folder,
            load_size=round(size * 286 / 256),
            crop_size=size,
            batch_size=batch,
            cache=cache,
        )
        data = TrainingData(load_dataset(config), config)
        starts = itertools.count(0, count)

        def draw():
            start = next(starts)
            total = 0.0
            for real_a, real_b in data.batches(start, start + count):
                total += float(real_a[0, 0, 0, 0]) + float(real_b[0, 0, 0, 0])
            return total

        return draw

    calls = {"cached": pipeline("memory"), "not_cached": pipeline("none")}
    if with_step:
        steps, _ = tensorflow_steps(networks, batch, ("float32",), threads, floor=False)
        calls["step"] = steps["float32"]
    return calls, _facts(tf)


def torch_step(networks, batch, threads):
    """Returns the peer's whole training step in float32."""
    torch = _torch(threads)
    import peer

    size, filters, blocks = networks
    model = peer.CycleGAN(filters, blocks, d_filters=filters)
    real_a, real_b = (_nchw(torch, image) for image in images(2, batch, size))
    calls = {"peer": lambda: sum(model.train_step(real_a, real_b).values())}
    return calls, {"threads": {"torch": torch.get_num_threads()}}


def torch_generator(networks, batch, threads):
    """Returns the peer's generator in float32, without gradients."""
    torch = _torch(threads)
    import peer

    size, filters, blocks = networks
    network = peer.ResNetGenerator(filters, blocks).eval()
    (image,) = (_nchw(torch, image) for image in images(1, batch, size))

    def forward():
        with torch.inference_mode():
            return float(network(image)[0, 0, 0, 0])

    return {"peer": forward}, {"threads": {"torch": torch.get_num_threads()}}


def images(count, batch, size):
    """Returns `count` fixed batches, float32 `[batch, size, size, 3]` in [-1, 1]."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (count, batch, size, size, 3)).astype("float32")


def matrix_products(tf, precisions):
    """Returns the floor: a large matrix product in each compute dtype that the CPU supports."""

    def product(dtype):
        left, right = (tf.random.stateless_normal([MATRIX, MATRIX], [s, 0]) for s in (0, 1))
        left, right = tf.cast(left, dtype), tf.cast(right, dtype)
        return lambda: float(tf.matmul(left, right)[0, 0])  # eager, so nothing is optimized away

    dtypes = {COMPUTE[precision] for precision in precisions} | {"float32"}
    if not has_bfloat16():
        dtypes -= {"bfloat16"}
    return {f"matrix {dtype}": product(dtype) for dtype in sorted(dtypes)}


def _tensorflow(threads):
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def _torch(threads):
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    return torch


def _nchw(torch, image):
    return torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()


def _facts(tf, **more):
    # For TensorFlow, 0 means the number of cores.
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    return {"threads": {"tensorflow": threads}, **more}
