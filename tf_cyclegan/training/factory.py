"""Creates networks, optimizers and image pools from a `Config`."""

import json
import os
import shutil

import keras
import tensorflow as tf

from tf_cyclegan.cyclegan import CycleGAN
from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.schedules import LinearDecay
from tf_cyclegan.training.config import Config


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy for a name in `Config.strategy`.

    "auto" uses all visible GPUs, or the CPU; "one" the first GPU, or the CPU; "mirrored" all GPUs,
    or all logical CPUs; "multiworker" the cluster that TF_CONFIG describes.

    Raises:
        ValueError: TF_CONFIG is missing or does not describe a cluster of workers.
    """
    if name == "multiworker":
        check_cluster(os.environ.get("TF_CONFIG"))
        # Before anything else initializes the devices.
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = len(tf.config.list_logical_devices("GPU"))
    if name == "mirrored" or (name == "auto" and gpus > 1):
        kind = "GPU" if gpus else "CPU"
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices(kind)]
        )
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """Names what a strategy trains on, with advice where a graphics card is left out."""
    gpus = len(tf.config.list_logical_devices("GPU"))
    if gpus:
        return f"{gpus} GPU(s)" if strategy.num_replicas_in_sync > 1 else "one GPU"
    if shutil.which("nvidia-smi"):
        return (
            "the CPU, since TensorFlow does not find the NVIDIA GPU of this machine: install "
            '"tf_cyclegan[gpu]" with pip on Linux or WSL'
        )
    return "the CPU"


def check_cluster(tf_config: str | None) -> None:
    """Raises a ValueError that says what is wrong if TF_CONFIG is invalid.

    TensorFlow would silently train without a cluster, or fail with an unclear message.
    """
    try:
        if tf_config is None:
            raise ValueError("it is not set")
        description = json.loads(tf_config)
        workers = description["cluster"]["worker"]
        kind, index = description["task"]["type"], description["task"]["index"]
        if kind != "worker":
            raise ValueError(f'its task is of type "{kind}" where only "worker" is supported')
        if not isinstance(workers, list) or not 0 <= int(index) < len(workers):
            raise ValueError(f"its task has index {index}, which is not one of its workers")
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"--strategy=multiworker needs the environment variable TF_CONFIG ({reason}): set it "
            'to {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
            ", or use tf-cyclegan workers, which sets it."
        ) from None


def make_generator(config: Config, channels_in: int, channels_out: int) -> keras.Model:
    """Returns a built generator in the precision of the config."""
    if config.generator == "unet":
        network = UNetGenerator(
            config.filters,
            config.depth,
            channels_out,
            config.norm,
            config.dropout,
            dtype=config.precision,
        )
    else:
        network = ResNetGenerator(
            config.filters,
            config.blocks,
            channels_out,
            config.upsampling,
            config.norm,
            config.dropout,
            config.separable,
            config.kernel,
            dtype=config.precision,
        )
    network.build((None, None, None, channels_in))
    network.recompute = config.recompute
    return network


def make_discriminator(config: Config, channels: int, channels_of_input: int) -> keras.Model:
    """Returns a built discriminator in the precision of the config; for pairs it sees both."""
    if config.lambda_l1:
        channels += channels_of_input
    norm = config.norm if config.d_norm == "same" else config.d_norm
    if config.discriminator == "pixel":
        network = PixelDiscriminator(config.d_filters, norm, dtype=config.precision)
    else:
        network = PatchDiscriminator(
            config.d_filters, config.d_layers, norm, dtype=config.precision
        )
    network.build((None, None, None, channels))
    return network


def make_adam(
    config: Config, learning_rate: float, updates_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Returns Adam with the schedule of the config, and with loss scaling in mixed_float16."""
    rate = LinearDecay(learning_rate, config.epochs, config.decay_epochs, updates_per_epoch)
    # The authors use epsilon 1e-8; Keras' default is 1e-7.
    adam = keras.optimizers.Adam(rate, beta_1=config.beta_1, beta_2=0.999, epsilon=1e-8)
    half = config.precision == "mixed_float16"
    return keras.optimizers.LossScaleOptimizer(adam) if half else adam


def make_cyclegan(
    config: Config, strategy: tf.distribute.Strategy, shape_a, shape_b, steps_per_epoch: int
) -> CycleGAN:
    """Returns a compiled CycleGAN with weights initialized by the seed of the config.

    Args:
        config: a `Config`.
        strategy: the strategy for training.
        shape_a, shape_b: (h, w, c) of the training images, all known if there is an image pool.
        steps_per_epoch: number of steps in an epoch, for the learning rate schedule.
    """

    d_learning_rate = config.d_learning_rate
    if d_learning_rate is None:
        d_learning_rate = config.learning_rate
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = CycleGAN(
            a2b=make_generator(config, config.channels_a, config.channels_b),
            b2a=make_generator(config, config.channels_b, config.channels_a),
            d_a=make_discriminator(config, config.channels_a, config.channels_b),
            d_b=make_discriminator(config, config.channels_b, config.channels_a),
            pool_size=config.pool_size,
            seed=config.seed,
            ema=config.ema,
        )
        model.compile(
            make_adam(config, config.learning_rate, steps_per_epoch),
            # A schedule counts the updates of its optimizer.
            make_adam(config, d_learning_rate, config.d_steps * steps_per_epoch),
            adversarial=config.adversarial,
            lambda_adversarial=config.lambda_adversarial,
            lambda_cycle_a=config.lambda_cycle_a,
            lambda_cycle_b=config.lambda_cycle_b,
            lambda_identity=config.lambda_identity,
            lambda_l1=config.lambda_l1,
            d_augment=config.d_augment,
            gradient_penalty=config.gradient_penalty,
            gradient_center=config.gradient_center,
            d_steps=config.d_steps,
            jit_compile=config.jit_compile,
        )
    (*size_a, channels_a), (*size_b, channels_b) = shape_a, shape_b
    model.make_pools((*size_b, channels_a), (*size_a, channels_b))  # a fake has its input's size
    return model
