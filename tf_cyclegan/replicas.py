"""What a training step computes over several replicas and workers."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf


def global_mean(per_example: tf.Tensor) -> tf.Tensor:
    """Returns what the values `[n]` of one replica add to the mean over the global batch.

    Optimizers sum gradients over replicas. Dividing here, and nowhere else, makes that a mean.
    """
    return tf.reduce_mean(per_example) / tf.distribute.get_strategy().num_replicas_in_sync


def share_overflow(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Makes all gradients NaN if any replica has a gradient that is not finite.

    Keras' LossScaleOptimizer checks only the first replica, before it sums the gradients: an
    overflow on another replica would go unnoticed and end up in the weights.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
    bad = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(finite, 0.0, 1.0))
    return [tf.where(bad > 0, tf.constant(float("nan"), g.dtype), g) for g in gradients]


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    variables: list[keras.Variable],
) -> None:
    """Updates variables with the gradients of all replicas, unless one of those overflowed."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        gradients = share_overflow(gradients)
    optimizer.apply(gradients, variables)


def report(
    trackers: Mapping[str, keras.metrics.Metric], values: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Updates the trackers, and returns the means over the batch in their order."""
    # Without this, a step that finds no more data would be counted: counting needs no data.
    with tf.control_dependencies(list(values.values())):
        for name, tracker in trackers.items():
            tracker.update_state(values[name])
    means = {name: tf.reduce_mean(values[name]) for name in trackers}
    if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        # Here, Keras takes the mean over the first axis of what each worker returns.
        means = {name: value[tf.newaxis] for name, value in means.items()}
    return means


def assign_on_each(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    """Assigns values that are equal on all replicas; no replica communicates with another."""

    def assign(strategy: tf.distribute.Strategy, values: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda mine, new: mine.assign(new), args=(value,), group=False
            )

    tf.distribute.get_replica_context().merge_call(assign, args=(values,))


def replica_id() -> int:
    """Returns the number of this replica as an int: each replica is traced separately."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of this process in its cluster, 0 for the chief or without a cluster."""
    cluster = strategy.cluster_resolver
    return cluster.task_id or 0 if cluster else 0


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes in the cluster, 1 without a cluster."""
    cluster = strategy.cluster_resolver
    return max(cluster.cluster_spec().num_tasks("worker"), 1) if cluster else 1
