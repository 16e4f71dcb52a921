"""Counts the multiply-adds of training steps."""


def needed_operations(graph):
    """Returns the operations that a graph's results and updates depend on.

    TensorFlow also builds gradients that no result needs. It does not compute those.
    """
    todo, needed = [*(t.op for t in graph.outputs), *graph.control_outputs], set()
    while todo:
        op = todo.pop()
        if op not in needed:
            needed.add(op)
            todo += [*(t.op for t in op.inputs), *op.control_inputs]
    return needed


def step_multiply_adds(generator, discriminator):
    """Counts multiply-adds of a training step from those of the networks' layers.

    The backward pass of a layer costs as much as its forward pass for the gradient of the kernel,
    and again for that of the input. Unneeded gradients are not counted: those of the kernels of
    frozen discriminators, and those of real images and stored fakes at the first layer.

    Args:
        generator, discriminator: from `tf_cyclegan.export.multiply_adds.convolutions`.

    Returns:
        A dict of forward, backward and total.
    """
    g, d = sum(generator), sum(discriminator)
    forward = 6 * g + 6 * d  # g: fake, cycle, identity, twice; d: 2 to judge fakes, 4 to train
    backward = 6 * g + (6 * g - 4 * generator[0])  # only the cycles need gradients of their input
    backward += 2 * d + 4 * d + (4 * d - 4 * discriminator[0])
    return {"forward": forward, "backward": backward, "total": forward + backward}
