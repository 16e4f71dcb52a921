"""What is measured: our steps and generators, the peer's, and how many multiply-adds they take.

Functions that make callables are for `measure.Process`: they run in a child, which alone loads
TensorFlow or PyTorch. Images are random, float32 in [-1, 1].
"""

import itertools
import os

from measure import has_bfloat16

MATRIX = 2048  # rows and columns of the matrices whose product is the machine's floor
RECOMPUTED = ", recomputed"  # after a precision: the step with --recompute
# What convolutions compute in. A precision's floor is a matrix product in this.
COMPUTE = {"float32": "float32", "mixed_bfloat16": "bfloat16"}


def tensorflow_steps(networks, batch, precisions, threads, floor=True, recompute=False):
    """Our whole training step as `fit` runs it, one callable for each precision, and the floor.

    Args:
        networks: size of the images; filters of generators and discriminators; blocks.
        batch: images of each domain.
        precisions: as in `Config.precision`.
        threads: 0 leaves their number to TensorFlow.
        floor: whether to add matrix products, named "matrix float32" and so on.
        recompute: as in `Config`; the callables are named "float32, recomputed" and so on.
    """
    tf = _tensorflow(threads)
    from tf_cyclegan.training.config import Config
    from tf_cyclegan.training.factory import make_cyclegan, make_strategy

    size, filters, blocks = networks
    shape = (size, size, 3)
    strategy = make_strategy("one")

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
        model = make_cyclegan(config, strategy, shape, shape, steps_per_epoch=1000)
        model.make_train_function()
        pair = tuple(tf.constant(image) for image in images(2, batch, size))
        data = tf.data.Dataset.from_tensors(pair).repeat()
        iterator = iter(strategy.experimental_distribute_dataset(data))
        return model, lambda: sum(float(loss) for loss in model.train_function(iterator).values())

    steps = {precision: step(precision) for precision in precisions}
    model = next(iter(steps.values()))[0]
    counts = step_multiply_adds(
        convolutions(model.a2b, (batch, *shape)), convolutions(model.d_a, (batch, *shape))
    )
    suffix = RECOMPUTED if recompute else ""
    calls = {precision + suffix: call for precision, (_, call) in steps.items()}
    calls |= matrix_products(tf, precisions) if floor else {}
    return calls, _facts(tf, multiply_adds=counts)


def tensorflow_generators(networks, batch, precisions, threads):
    """One generator's forward pass in a `tf.function`, for each precision, and the floor."""
    tf = _tensorflow(threads)
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
    """Batches from JPEG files, resized images cached and not, and the step that they would feed.

    Args:
        folder: holds trainA and trainB.
        count: batches that a call draws, going on where the last call ended.
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
    """The peer's whole training step in float32."""
    torch = _torch(threads)
    import peer

    size, filters, blocks = networks
    model = peer.CycleGAN(filters, blocks, d_filters=filters)
    real_a, real_b = (_nchw(torch, image) for image in images(2, batch, size))
    calls = {"peer": lambda: sum(model.train_step(real_a, real_b).values())}
    return calls, {"threads": {"torch": torch.get_num_threads()}}


def torch_generator(networks, batch, threads):
    """The peer's generator in float32, without gradients."""
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
    """`count` batches, float32 `[batch, size, size, 3]` in [-1, 1], always the same."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (count, batch, size, size, 3)).astype("float32")


def matrix_products(tf, precisions):
    """The floor: a large matrix product, in each precision's compute type where the CPU has it."""

    def product(dtype):
        left, right = (tf.random.stateless_normal([MATRIX, MATRIX], [s, 0]) for s in (0, 1))
        left, right = tf.cast(left, dtype), tf.cast(right, dtype)
        return lambda: float(tf.matmul(left, right)[0, 0])  # eager: nothing can be left out of it

    dtypes = {COMPUTE[precision] for precision in precisions} | {"float32"}
    if not has_bfloat16():
        dtypes -= {"bfloat16"}
    return {f"matrix {dtype}": product(dtype) for dtype in sorted(dtypes)}


def convolutions(network, shape):
    """Multiply-adds of each convolution of a built Keras network, in the order of the forward pass.

    Transposed ones are counted by their input, as they are computed: each of its numbers meets each
    weight that it can meet once. Padding counts as numbers do; norms, biases and sums do not count.

    Args:
        network: built.
        shape: `[n, h, w, c]` of its input, all known.
    """
    import tensorflow as tf

    # Not as in training, where some are computed in another way.
    call = tf.function(lambda x: network(x, training=False))
    graph = call.get_concrete_function(tf.TensorSpec(shape)).graph
    return [count for op in graph.get_operations() if (count := operation_multiply_adds(op))]


def operation_multiply_adds(op):
    """Multiply-adds of one operation of a graph: 0 if it is no convolution, nor a gradient of one.

    A convolution, its gradient by the input, and that by the kernel, all pair every number on the
    kernel's output side with every weight of one output channel.
    """
    if op.type == "Conv2D":
        kernel, outputs = op.inputs[1], op.outputs[0]
    elif op.type == "Conv2DBackpropInput":  # also what computes a transposed convolution
        kernel, outputs = op.inputs[1], op.inputs[2]
    elif op.type == "Conv2DBackpropFilter":
        kernel, outputs = op.outputs[0], op.inputs[2]
    else:
        return 0
    return outputs.shape.num_elements() * kernel.shape.num_elements() // kernel.shape[-1]


def step_multiply_adds(generator, discriminator):
    """Multiply-adds of a training step, from those of the networks' layers.

    A pass backward through a layer costs its forward pass again for the gradient by the kernel, and
    again for that by the input. What is not needed is not counted: the kernels' gradients of
    discriminators that are frozen, and gradients by real images and stored fakes, which end at
    the first layer.

    Args:
        generator, discriminator: from `convolutions`.

    Returns:
        A dict of forward, backward and total.
    """
    g, d = sum(generator), sum(discriminator)
    forward = 6 * g + 6 * d  # fake, cycle and same of both domains; 2 judge fakes, 4 are trained
    backward = 6 * g + (6 * g - 4 * generator[0])  # only the cycles need gradients by their input
    backward += 2 * d + 4 * d + (4 * d - 4 * discriminator[0])
    return {"forward": forward, "backward": backward, "total": forward + backward}


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
    # 0 is TensorFlow's name for as many as there are cores.
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    return {"threads": {"tensorflow": threads}, **more}
