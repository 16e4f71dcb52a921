"""Counts the multiply-adds of convolutions, in networks and in TensorFlow graphs."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def convolutions(network: keras.Model, shape: Sequence[int]) -> list[int]:
    """Counts multiply-adds of each convolution in a built Keras network, in forward order.

    Transposed convolutions are counted by their input, as they are computed: each input value is
    multiplied once with each of its weights. Padding counts; norms, biases and sums do not.

    Args:
        network: a built network.
        shape: `[n, h, w, c]` of its input, fully known.
    """
    # In inference mode, because training computes some convolutions in another way.
    call = tf.function(lambda x: network(x, training=False))
    graph = call.get_concrete_function(tf.TensorSpec(shape)).graph
    return [count for op in graph.get_operations() if (count := operation_multiply_adds(op))]


def operation_multiply_adds(op: tf.Operation) -> int:
    """Counts multiply-adds of a graph operation: 0 unless it is a convolution or its gradient.

    A convolution, its gradient for the input, and that for the kernel all multiply every value on
    the kernel's output side with every weight of one output channel.
    """
    kinds = {
        "Conv2D": lambda op: (op.inputs[1], op.outputs[0]),
        # also what computes a transposed convolution
        "Conv2DBackpropInput": lambda op: (op.inputs[1], op.inputs[2]),
        "Conv2DBackpropFilter": lambda op: (op.outputs[0], op.inputs[2]),
        "DepthwiseConv2dNative": lambda op: (op.inputs[1], op.outputs[0]),
        "DepthwiseConv2dNativeBackpropInput": lambda op: (op.inputs[1], op.inputs[2]),
        "DepthwiseConv2dNativeBackpropFilter": lambda op: (op.outputs[0], op.inputs[2]),
    }
    if op.type not in kinds:
        return 0
    kernel, outputs = kinds[op.type](op)
    height, width, channels, _ = kernel.shape
    weights = height * width * (1 if op.type.startswith("Depthwise") else channels)
    return outputs.shape.num_elements() * weights
