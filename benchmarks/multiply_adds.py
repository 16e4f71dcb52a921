"""Counts the multiply-adds of convolutions, in networks and in TensorFlow graphs."""


def convolutions(network, shape):
    """Counts multiply-adds of each convolution in a built Keras network, in forward order.

    Transposed convolutions are counted by their input, as they are computed: each input value is
    multiplied once with each of its weights. Padding counts; norms, biases and sums do not.

    Args:
        network: a built network.
        shape: `[n, h, w, c]` of its input, fully known.
    """
    import tensorflow as tf

    # In inference mode, because training computes some convolutions in another way.
    call = tf.function(lambda x: network(x, training=False))
    graph = call.get_concrete_function(tf.TensorSpec(shape)).graph
    return [count for op in graph.get_operations() if (count := operation_multiply_adds(op))]


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


def operation_multiply_adds(op):
    """Counts multiply-adds of a graph operation: 0 unless it is a convolution or its gradient.

    A convolution, its gradient for the input, and that for the kernel all multiply every value on
    the kernel's output side with every weight of one output channel.
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
    """Counts multiply-adds of a training step from those of the networks' layers.

    The backward pass of a layer costs as much as its forward pass for the gradient of the kernel,
    and again for that of the input. Unneeded gradients are not counted: those of the kernels of
    frozen discriminators, and those of real images and stored fakes at the first layer.

    Args:
        generator, discriminator: from `convolutions`.

    Returns:
        A dict of forward, backward and total.
    """
    g, d = sum(generator), sum(discriminator)
    forward = 6 * g + 6 * d  # g: fake, cycle, identity, twice; d: 2 to judge fakes, 4 to train
    backward = 6 * g + (6 * g - 4 * generator[0])  # only the cycles need gradients of their input
    backward += 2 * d + 4 * d + (4 * d - 4 * discriminator[0])
    return {"forward": forward, "backward": backward, "total": forward + backward}
