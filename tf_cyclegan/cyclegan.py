"""CycleGAN: two generators and two discriminators in one training step.

    real_a --a2b--> fake_b --b2a--> cycle_a ~ real_a        d_b scores real_b and fake_b
    real_b --b2a--> fake_a --a2b--> cycle_b ~ real_b        d_a scores real_a and fake_a
    real_a --b2a--> same_a ~ real_a      real_b --a2b--> same_b ~ real_b

Zhu, Park, Isola, Efros 2017, arXiv:1703.10593. The order of the updates, what is frozen
when, and the image pools follow the authors' PyTorch code, which calls a2b `G_A`, b2a `G_B`,
d_b `D_A` and d_a `D_B`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.augmentation import augment, check_kinds
from tf_cyclegan.image_pool import ImagePool
from tf_cyclegan.input_checks import (
    ONE_DOMAIN,
    ImageShape,
    check_floats,
    check_generator,
    check_images,
    check_optimizers,
    clear_errors,
    image_shapes,
)
from tf_cyclegan.losses import (
    ADVERSARIAL,
    cycle_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    identity_loss,
    paired_loss,
    unknown_adversarial,
)
from tf_cyclegan.model_archive import reason, save
from tf_cyclegan.random_numbers import derive_seed, random_integers, to_unit_interval
from tf_cyclegan.replicas import (
    apply_gradients,
    assign_on_each,
    global_mean,
    replica_id,
    report,
    worker_number,
)

WGAN_GP = (10.0, 1.0)  # weight and center of the penalty in Gulrajani et al. 2017, section 4
JOINED_NUMBERS = 3 * 128 * 128  # up to this batch size, joining two batches is faster


@keras.saving.register_keras_serializable("tf_cyclegan")
class CycleGAN(keras.Model):
    """Two generators trained against two discriminators on unpaired images.

    `compile`, `fit`, `evaluate`, `predict`, `train_on_batch`, `save`, `save_weights`,
    `ModelCheckpoint` and `BackupAndRestore` work as for any Keras model. A saved model includes
    everything that a training step reads or changes: the networks, both optimizers, `step`, the
    image pools and the random states of dropout layers. Training that continues after loading
    gives the same numbers as training without a break. Keras does not save which layers inside of
    a subclassed network are frozen: set their `trainable` again after loading.

    Under a `tf.distribute` strategy, create and compile the model inside `strategy.scope()`, and
    call `fit` outside of it, with an image for each replica in every batch. Losses are means over
    the global batch, so N replicas with a batch size of b equal one replica with a batch size of
    N * b. What is drawn at random differs: image
    pools, `d_augment`, and a gradient penalty between real images and fakes. So does the order of
    images with `d_steps`, since each replica divides its own batch.

    Args:
        a2b, b2a: generators, any Keras models of `[n, h, w, c] -> [n, h, w, c']` in [-1, 1].
        d_a, d_b: discriminators of domain a and of domain b: `[n, h, w, c]` to logits of any shape.
            Networks that are not built yet are built for the images passed to `fit`.
        pool_size: number of earlier fakes kept for each discriminator on each replica (section 4
            of the paper). Use 0 for no pool, as images of varying size require.
        seed: random seed, an integer, of the image pools, `d_augment` and the gradient penalty.
        ema: decay of the exponential moving averages of the generators' weights, for example 0.999;
            0, as in the paper, for no averages. The decay after t steps is
            `min(ema, (1 + t) / (10 + t))`. With `ema`, everything except training uses the
            averages: see `generators`.

    Call arguments:
        inputs: `(real_a, real_b)`, each `[n, h, w, c]` float32 in [-1, 1]. `fit` and `evaluate`
            take a `tf.data.Dataset` of such batches, for example from
            `tf_cyclegan.data.unpaired`, or two arrays as `x` and `y`. `predict` takes a dataset or
            a tuple of both arrays.
        training: whether dropout and batch norm run in training mode.

    Returns:
        A dict: `fake_b`, the translation of `real_a`, and `fake_a`, that of `real_b`.

    Attributes:
        step: number of training steps done, an int64 variable.
        averages: the averages of the generators by direction; empty without `ema`.
        pool_a, pool_b: image pools of `fake_a` and of `fake_b`: lists with one pool for each
            replica of this process, empty until `fit` or `make_pools` creates them.

    Example:

    ```python
    model = tf_cyclegan.CycleGAN(
        a2b=tf_cyclegan.ResNetGenerator(),
        b2a=tf_cyclegan.ResNetGenerator(),
        d_a=tf_cyclegan.PatchDiscriminator(),
        d_b=tf_cyclegan.PatchDiscriminator(),
    )
    model.compile()
    model.fit(tf_cyclegan.data.unpaired(photos, paintings), epochs=200)
    model.save("monet.keras")
    ```
    """

    def __init__(
        self,
        a2b: keras.Model,
        b2a: keras.Model,
        d_a: keras.Model,
        d_b: keras.Model,
        pool_size: int = 50,
        seed: int = 0,
        ema: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not 0 <= ema < 1:
            raise ValueError(f"ema is {ema}: use 0 or more and less than 1.")
        for name, network in (("a2b", a2b), ("b2a", b2a), ("d_a", d_a), ("d_b", d_b)):
            if not isinstance(network, keras.Model):
                raise ValueError(f"{name} is a {type(network).__name__}: pass a Keras model.")
        if a2b is b2a or d_a is d_b:
            raise ValueError(
                "Both generators, or both discriminators, are the same object: create two."
            )
        super().__init__(**kwargs)
        self.a2b, self.b2a = a2b, b2a
        self.d_a, self.d_b = d_a, d_b
        self.pool_size = pool_size
        self.pool_a: list[ImagePool] = []
        self.pool_b: list[ImagePool] = []
        self.seed = seed
        self._saved_pools: dict[str, np.ndarray] = {}  # loaded from a file, until the pools exist
        self.ema = ema
        self.averages: dict[str, keras.Model] = {}
        self.step = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self._build_averages()

    def compile(
        self,
        generator_optimizer: keras.optimizers.Optimizer | str | None = None,
        discriminator_optimizer: keras.optimizers.Optimizer | str | None = None,
        adversarial: str = "lsgan",
        lambda_adversarial: float = 1.0,
        lambda_cycle_a: float = 10.0,
        lambda_cycle_b: float = 10.0,
        lambda_identity: float = 0.5,
        lambda_l1: float = 0.0,
        d_augment: str = "",
        gradient_penalty: float | None = None,
        gradient_center: float | None = None,
        d_steps: int = 1,
        run_eagerly: bool = False,
        jit_compile: bool = False,
    ) -> None:
        """Sets the objective (section 3.3, equation 3) and both optimizers.

        The defaults are those of the paper, which has none of `d_augment`, `gradient_penalty` and
        `d_steps`.

        Args:
            generator_optimizer: optimizer of both generators: a Keras optimizer, its name, or None
                for Adam with the paper's learning rate of 2e-4 and beta_1 of 0.5. In the paper,
                the learning rate falls to 0 in the second half of the training run: pass an
                optimizer with a `tf_cyclegan.LinearDecay` for that.
            discriminator_optimizer: optimizer of both discriminators, likewise.
            adversarial: "lsgan", "bce", "hinge" or "wgan-gp".
            lambda_adversarial: weight of the generators' adversarial terms. With 0, the
                discriminators are neither used nor trained.
            lambda_cycle_a: weight of a -> b -> a, the forward cycle.
            lambda_cycle_b: weight of b -> a -> b, the backward cycle.
            lambda_identity: weight of the identity terms, relative to the cycle weight of the same
                domain (the authors' code; 0.5 in section 5.2).
            lambda_l1: weight of the L1 distance to the ground truth, for batches of pairs. Above
                0, the discriminators see each image together with its input, `[n, h, w, c + c']`.
                Without cycles and pools this is pix2pix (Isola et al. 2017) in both directions.
            d_augment: how to augment what the discriminators see, against overfitting on few
                images: any of "translation", "color" and "cutout", separated by commas (Zhao et
                al. 2020, arXiv:2006.10738). Real images and fakes get the same random draw.
            gradient_penalty: weight of a penalty on the gradient of the discriminators, for any
                adversarial loss; see `tf_cyclegan.losses.gradient_penalty`. The default is 10 for
                "wgan-gp" and 0, no penalty, for the others.
            gradient_center: the norm that the penalty pulls the gradient to: 0 at real images
                (Mescheder et al. 2018), above 0 between real images and fakes. The default is 1 for
                "wgan-gp" and 0 for the others.
            d_steps: updates of the discriminators in a step. Each takes its own part of the batch,
                so pass batches of d_steps * n images; the generators use the first n. A schedule of
                the discriminators' optimizer counts every update.
            run_eagerly: as in `keras.Model.compile`.
            jit_compile: whether to compile training steps with XLA. With several replicas only the
                gradients are compiled: XLA cannot compile communication between devices.

        Raises:
            ValueError: a weight is negative, or all are 0; `adversarial`, `d_augment` or `d_steps`
                is invalid; `gradient_center` is given without a penalty; a penalty with batch norm
                in a discriminator; `lambda_l1` with image pools; `jit_compile` with batch norm on
                several replicas; or the optimizers cannot be used.
        """
        weights = (lambda_adversarial, lambda_cycle_a, lambda_cycle_b, lambda_l1, lambda_identity)
        if min(weights) < 0 or max(weights[:4]) == 0:
            raise ValueError(
                f"The loss weights are {weights} (adversarial, cycle a, cycle b, l1, identity): "
                "use 0 or more for each, and a value above 0 for one of the first four."
            )
        if adversarial not in ADVERSARIAL:
            raise unknown_adversarial(adversarial)
        check_kinds(d_augment)
        penalty, center = penalty_of(adversarial, gradient_penalty, gradient_center)
        if d_steps < 1:
            raise ValueError(f"d_steps is {d_steps}: use 1 or more.")
        if lambda_l1 and self.pool_size:
            raise ValueError(
                "lambda_l1 needs the input of each fake, which image pools do not keep: create the "
                "model with pool_size=0."
            )
        generator_optimizer = self._optimizer(generator_optimizer)
        discriminator_optimizer = self._optimizer(discriminator_optimizer)
        check_optimizers(generator_optimizer, discriminator_optimizer)
        replicas = self.distribute_strategy.num_replicas_in_sync
        self._check_batch_norm(penalty, jit_compile)
        # Without optimizer=None, Keras would create and save an RMSprop optimizer of all weights.
        # Its jit_compile would cover the checks of the images, which XLA drops, and the
        # communication between replicas, which XLA cannot compile.
        super().compile(optimizer=None, run_eagerly=run_eagerly, jit_compile=False)
        compiled = jit_compile and not run_eagerly
        self.compiles_step = compiled and replicas == 1
        self.compiles_gradients = compiled and replicas > 1
        self.generator_optimizer: keras.optimizers.Optimizer = generator_optimizer
        self.discriminator_optimizer: keras.optimizers.Optimizer = discriminator_optimizer
        self.adversarial = adversarial
        self.lambda_adversarial = lambda_adversarial
        self.lambda_cycle_a = lambda_cycle_a
        self.lambda_cycle_b = lambda_cycle_b
        self.lambda_identity_a = lambda_identity * lambda_cycle_a
        self.lambda_identity_b = lambda_identity * lambda_cycle_b
        self.lambda_l1 = lambda_l1
        self.d_augment = d_augment
        self.gradient_penalty, self.gradient_center = penalty, center
        self.d_steps = d_steps
        self._build_optimizers()
        self.compile_arguments = {
            "adversarial": adversarial,
            "lambda_adversarial": lambda_adversarial,
            "lambda_cycle_a": lambda_cycle_a,
            "lambda_cycle_b": lambda_cycle_b,
            "lambda_identity": lambda_identity,
            "lambda_l1": lambda_l1,
            "d_augment": d_augment,
            "gradient_penalty": gradient_penalty,
            "gradient_center": gradient_center,
            "d_steps": d_steps,
            "run_eagerly": run_eagerly,
            "jit_compile": jit_compile,
        }
        self.trackers = {name: keras.metrics.Mean(name, "float32") for name in self.log_names()}
        self.built = True

    def networks(self) -> dict[str, keras.Model]:
        """The four networks by name."""
        return {"a2b": self.a2b, "b2a": self.b2a, "d_a": self.d_a, "d_b": self.d_b}

    def generators(self) -> dict[str, keras.Model]:
        """The generators to translate with, by direction: with `ema`, the averages."""
        return {"a2b": self.a2b, "b2a": self.b2a} | self.averages

    def named_averages(self) -> dict[str, keras.Model]:
        """The averages of the generators, if there are any, by a name for each in a file."""
        return {f"{name}_average": average for name, average in self.averages.items()}

    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """Both optimizers by name, once the model is compiled."""
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def _optimizer(
        self, given: keras.optimizers.Optimizer | str | None
    ) -> keras.optimizers.Optimizer:
        if given is None:  # the authors use epsilon 1e-8; Keras' default is 1e-7
            given = keras.optimizers.Adam(2e-4, beta_1=0.5, beta_2=0.999, epsilon=1e-8)
        optimizer = keras.optimizers.get(given)
        half = any(n.dtype_policy.name == "mixed_float16" for n in (self.a2b, self.b2a))
        if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def _build_averages(self) -> None:
        """Creates the averages as copies of the generators, once those are built."""
        if self.ema and not self.averages and self.a2b.built and self.b2a.built:
            self.averages = {"a2b": copy_network(self.a2b), "b2a": copy_network(self.b2a)}

    def _build_optimizers(self) -> None:
        """Builds the optimizers once all networks are built."""
        if all(network.built for network in self.networks().values()):
            if not self.generator_optimizer.built:
                self.generator_optimizer.build(self._generator_variables())
            if not self.discriminator_optimizer.built:
                self.discriminator_optimizer.build(self._discriminator_variables())

    def _prepare(self, shapes: Sequence[ImageShape] | None, pools: bool = False) -> None:
        """Builds whatever is not built yet, for images of the given shapes.

        Args:
            shapes: `[n, h, w, c]` of real_a and of real_b, where all but c may be None; or None if
                they are unknown until the data is read.
            pools: whether the image pools are needed.
        """
        if not self.compiled:
            raise ValueError("The model is not compiled: call compile() first.")
        networks = self.networks()
        missing = [name for name, network in networks.items() if not network.built]
        pools = bool(pools and self.pool_size and self.lambda_adversarial)
        if shapes is None:
            if missing or (pools and not self.pool_a):
                raise ValueError(
                    f"{', '.join(missing) or 'The image pools'} cannot be built because the shapes "
                    "of the data are unknown: use a tf.data.Dataset or arrays, or build the "
                    "networks and call make_pools first."
                )
            return
        (*size_a, channels_a), (*size_b, channels_b) = (shape[1:] for shape in shapes)
        both = channels_a + channels_b
        channels = {
            "a2b": channels_a,
            "b2a": channels_b,
            "d_a": both if self.lambda_l1 else channels_a,
            "d_b": both if self.lambda_l1 else channels_b,
        }
        for name, network in networks.items():
            takes = getattr(network, "input_channels", None) if network.built else None
            if takes not in (None, channels[name]):
                raise ValueError(
                    f"{name} takes (n, height, width, {takes}), but would get {channels[name]} "
                    "channels: pass images with the channels last, as the network takes them; "
                    "lambda_l1 joins input and output."
                )
        if channels_a != channels_b and (self.lambda_identity_a or self.lambda_identity_b):
            raise ValueError(
                "The identity loss needs domains of the same channels, but these have "
                f"{channels_a} and {channels_b}: use compile(lambda_identity=0)."
            )
        with self.distribute_strategy.scope():
            for name in missing:
                build(networks[name], channels[name])
            self._build_averages()
            self._build_optimizers()
        self._check_batch_norm(self.gradient_penalty, self.compiles_step or self.compiles_gradients)
        if pools and self.pool_a:
            self.pool_a[0].check((*size_b, channels_a))  # a fake has the size of its input
            self.pool_b[0].check((*size_a, channels_b))
        elif pools:
            self.make_pools((*size_b, channels_a), (*size_a, channels_b))

    def _check_batch_norm(self, penalty: float, jit_compile: bool) -> None:
        """Raises a ValueError if a built network has batch norm where it cannot have it."""
        if penalty and any(map(has_batch_norm, (self.d_a, self.d_b))):
            raise ValueError(
                "A gradient penalty needs discriminators without batch norm, which mixes the "
                'images of a batch: use PatchDiscriminator(norm="instance"), or --d_norm=instance.'
            )
        replicas = self.distribute_strategy.num_replicas_in_sync
        if jit_compile and replicas > 1 and any(map(has_batch_norm, self.networks().values())):
            raise ValueError(
                f"XLA cannot compile batch norm that is synchronized over {replicas} replicas: "
                'use norm="instance", a single device, or jit_compile=False.'
            )

    def make_pools(self, shape_a: Sequence[int | None], shape_b: Sequence[int | None]) -> None:
        """Creates the image pools, as `fit` and `train_on_batch` do if there are none yet.

        Call it outside of `strategy.scope()`, which would mirror the variables: each replica keeps
        its own fakes.

        Args:
            shape_a, shape_b: (h, w, c) of `fake_a` and of `fake_b`.

        Raises:
            ValueError: it is called inside `strategy.scope()`, a size is unknown, or the loaded
                file holds pools of other sizes.
        """
        if not self.pool_size:
            return
        if tf.distribute.has_strategy():
            raise ValueError(
                "Image pools cannot be created inside strategy.scope(), which would mirror them: "
                "call fit, train_on_batch or make_pools outside of it."
            )
        strategy = self.distribute_strategy
        # The default strategy, which get_strategy returns here, has no list of devices.
        default = strategy is tf.distribute.get_strategy()
        devices = [None] if default else strategy.extended.worker_devices
        first = worker_number(strategy) * len(devices)
        pool_a, pool_b = [], []
        for replica, device in enumerate(devices, start=first):
            with tf.device(device):
                pool_a.append(
                    ImagePool(self.pool_size, shape_a, derive_seed(self.seed, replica, 2))
                )
                pool_b.append(
                    ImagePool(self.pool_size, shape_b, derive_seed(self.seed, replica, 3))
                )
        self.pool_a, self.pool_b = pool_a, pool_b
        if self._saved_pools:
            try:
                assign_all(self._pool_state(), self._saved_pools)
            except ValueError as error:
                self.pool_a, self.pool_b = [], []  # so that the next fit does not use them
                raise ValueError(
                    f"{error} Or make a new model of the networks, which starts with empty image "
                    "pools: CycleGAN(model.a2b, model.b2a, model.d_a, model.d_b)."
                ) from None
            self._saved_pools = {}

    @property
    def steps_done(self) -> int:
        """`step` as an int. Read it between steps."""
        return int(self.step.numpy())  # mirrored variables do not support int()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss trackers, without the one that Keras adds for a `loss`: this model has none."""
        return list(self.trackers.values())

    def get_config(self) -> dict[str, Any]:
        """Returns the config that Keras saves: the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        config = {name: serialize(network) for name, network in self.networks().items()}
        others = {"pool_size": self.pool_size, "seed": self.seed, "ema": self.ema}
        return super().get_config() | config | others

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "CycleGAN":
        """Creates a model from the output of `get_config`."""
        config = dict(config)
        for name in ("a2b", "b2a", "d_a", "d_b"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns the arguments of `compile` for Keras to save."""
        if not self.compiled:
            return None
        serialize = keras.saving.serialize_keras_object
        config = {name: serialize(optimizer) for name, optimizer in self.optimizers().items()}
        return config | dict(self.compile_arguments)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model with the output of `get_compile_config`."""
        config = dict(config)
        for name in ("generator_optimizer", "discriminator_optimizer"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        self.compile(**config)

    def save_own_variables(self, store: Any) -> None:
        """Saves the state outside of the networks and optimizers; called by Keras."""
        state = {name: v.numpy() for name, v in (self._own_state() | self._pool_state()).items()}
        for name, value in (state | self._saved_pools).items():
            store[name] = value

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` saved; called by Keras.

        Raises:
            ValueError: the file contains no training state, or one of other pools or networks.
        """
        saved = {name: store[name][()] for name in store.keys()}
        pools = {name: saved.pop(name) for name in list(saved) if name.startswith("pool_")}
        assign_all(self._own_state(), saved)
        if self.pool_a or not self.pool_size:
            assign_all(self._pool_state(), pools)
        else:
            self._saved_pools = pools

    def _own_state(self) -> dict[str, tf.Variable | keras.Variable]:
        """Returns the step and the random states of dropout layers by name."""
        state = {"step": self.step}
        for name, network in self.networks().items():
            seeds = [v for v in network.non_trainable_variables if is_seed(v)]
            state |= {f"{name}_seed_{number}": seed for number, seed in enumerate(seeds)}
        return state

    def _pool_state(self) -> dict[str, tf.Variable]:
        """Returns the variables of the image pools by name."""
        state = {}
        for name in ("pool_a", "pool_b"):
            for number, pool in enumerate(getattr(self, name)):
                state[f"{name}_{number}_images"] = pool.images
                state[f"{name}_{number}_seen"] = pool.seen
        return state

    save = save

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads the file of `save_weights`: networks, averages, optimizers, pools and counters.

        Raises:
            ValueError: a network is not built yet, so that its weights would have no place.
        """
        if missing := [name for name, network in self.networks().items() if not network.built]:
            raise ValueError(
                f"{', '.join(missing)} are not built: call build((None, None, None, channels)) of "
                "each before load_weights."
            )
        with self.distribute_strategy.scope():
            self._build_averages()
            if self.compiled:
                self._build_optimizers()
        super().load_weights(filepath, *args, **kwargs)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains like `keras.Model.fit` on a dataset of `(real_a, real_b)`, or both as x and y.

        Raises:
            ValueError: the data is not pairs of image batches, pixel values are outside of
                [-1, 1], or a callback needs a model with one optimizer.
        """
        self._prepare(image_shapes(x, y), pools=True)
        for callback in keras.tree.flatten(kwargs.get("callbacks")):
            if hasattr(callback, "take_images"):
                callback.take_images(x, y)
        if isinstance(x, tf.data.Dataset):  # or Keras warns that it cannot shuffle it
            kwargs.setdefault("shuffle", False)
        with clear_errors(kwargs.get("callbacks")):
            return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Returns the means of all losses like `keras.Model.evaluate`, without image pools.

        Raises:
            ValueError: as for `fit`.
        """
        self._prepare(image_shapes(x, y))
        with clear_errors(kwargs.get("callbacks")):
            return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Runs a training step like `keras.Model.train_on_batch`, with real_a as x, real_b as y.

        Raises:
            ValueError: as for `fit`.
        """
        self._prepare(image_shapes(x, y), pools=True)
        with clear_errors(None):
            return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the losses of a batch like `keras.Model.test_on_batch`.

        Raises:
            ValueError: as for `fit`.
        """
        self._prepare(image_shapes(x, y))
        with clear_errors(None):
            return super().test_on_batch(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Translates all images of a dataset of `(real_a, real_b)`, or of a tuple of two arrays.

        Raises:
            ValueError: the data is not pairs of image batches, or not in [-1, 1].
        """
        with clear_errors(kwargs.get("callbacks")):
            return super().predict(x, *args, **kwargs)

    def call(
        self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Translates in both directions, see the class."""
        if not isinstance(inputs, tuple | list) or len(inputs) != 2:
            raise ValueError(ONE_DOMAIN)
        real_a, real_b = inputs
        check_floats(real_a, real_b)
        a2b, b2a = self._generators_for(training)
        return {
            "fake_b": run_network(a2b, real_a, training),
            "fake_a": run_network(b2a, real_b, training),
        }

    def _generators_for(self, training: bool) -> list[keras.Model]:
        return [self.a2b, self.b2a] if training else list(self.generators().values())

    def predict_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        """Translates a batch in both directions."""
        if isinstance(data, tuple) and isinstance(data[0], tuple | list):
            data = tuple(data[0])  # of predict((real_a, real_b))
        return self(tuple(check_images(data)), training=False)

    def first_non_finite(self) -> str | None:
        """Returns the name of the first variable of the training state with NaN or infinity.

        A step reports the losses before its update, so they do not show an update that makes
        weights non-finite. Call this between steps, before you save.

        Returns:
            For example "a2b: sequential/conv2d/kernel", or None if every value is finite.
        """
        named = variables_of(self.networks() | self.named_averages() | self.optimizers())
        for name in ("pool_a", "pool_b"):
            for number, pool in enumerate(getattr(self, name)):
                named.append((f"{name}: images of replica {number}", pool.images))
        return first_non_finite(named)

    def log_names(self) -> list[str]:
        """Returns the names of what a step reports: losses of a weight above 0, learning_rate."""
        weights = {
            "g_adv_a2b": self.lambda_adversarial,
            "g_adv_b2a": self.lambda_adversarial,
            "cycle_a": self.lambda_cycle_a,
            "cycle_b": self.lambda_cycle_b,
            "identity_a": self.lambda_identity_a,
            "identity_b": self.lambda_identity_b,
            "l1_a2b": self.lambda_l1,
            "l1_b2a": self.lambda_l1,
            "d_a": self.lambda_adversarial,
            "d_b": self.lambda_adversarial,
        }
        return [*(name for name, weight in weights.items() if weight), "learning_rate"]

    def translate_both(
        self, real_a: tf.Tensor, real_b: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Computes every image that a term of the objective needs, by name.

        Args:
            real_a, real_b: `[n, h, w, c]` in [-1, 1].
            training: whether dropout and batch norm run in training mode.

        Returns:
            A dict of `fake_b`, `cycle_a`, `fake_a`, `cycle_b`, `same_a` and `same_b`, without those
            that only a term of weight 0 would need.
        """
        of_a2b, of_b2a = {}, {}
        fakes = self.lambda_adversarial or self.lambda_l1
        if fakes or self.lambda_cycle_a:
            of_a2b["fake_b"] = real_a
        if fakes or self.lambda_cycle_b:
            of_b2a["fake_a"] = real_b
        if self.lambda_identity_b:
            of_a2b["same_b"] = real_b
        if self.lambda_identity_a:
            of_b2a["same_a"] = real_a
        a2b, b2a = self._generators_for(training)
        images = call_jointly(a2b, of_a2b, training) | call_jointly(b2a, of_b2a, training)
        for name, real, fake, other in (
            ("a2b", real_a, images.get("fake_b"), real_b),
            ("b2a", real_b, images.get("fake_a"), real_a),
        ):
            if fake is not None:
                check_generator(name, real, fake, other.shape[-1])
        if self.lambda_cycle_a:
            images["cycle_a"] = run_network(b2a, images["fake_b"], training)
        if self.lambda_cycle_b:
            images["cycle_b"] = run_network(a2b, images["fake_a"], training)
        return images

    def generator_losses(
        self,
        real_a: tf.Tensor,
        real_b: tf.Tensor,
        images: dict[str, tf.Tensor],
        training: bool = False,
    ) -> dict[str, tf.Tensor]:
        """Computes the weighted terms of the generators by name, each `[n]`."""
        losses = {}
        if self.lambda_adversarial:
            for name, discriminator, real, fake in (
                ("g_adv_a2b", "d_b", real_a, images["fake_b"]),
                ("g_adv_b2a", "d_a", real_b, images["fake_a"]),
            ):
                seen = self.discriminator_input(discriminator, fake, real, training)
                logits = run_network(getattr(self, discriminator), seen, training)
                loss = generator_loss(self.adversarial, logits)
                losses[name] = self.lambda_adversarial * loss
        if self.lambda_cycle_a:
            losses["cycle_a"] = self.lambda_cycle_a * cycle_loss(real_a, images["cycle_a"])
        if self.lambda_cycle_b:
            losses["cycle_b"] = self.lambda_cycle_b * cycle_loss(real_b, images["cycle_b"])
        if self.lambda_identity_a:
            losses["identity_a"] = self.lambda_identity_a * identity_loss(real_a, images["same_a"])
        if self.lambda_identity_b:
            losses["identity_b"] = self.lambda_identity_b * identity_loss(real_b, images["same_b"])
        if self.lambda_l1:
            losses["l1_a2b"] = self.lambda_l1 * paired_loss(real_b, images["fake_b"])
            losses["l1_b2a"] = self.lambda_l1 * paired_loss(real_a, images["fake_a"])
        return losses

    def discriminator_input(
        self, discriminator: str, image: tf.Tensor, source: tf.Tensor, training: bool, part: int = 0
    ) -> tf.Tensor:
        """Returns what a discriminator sees of an image.

        Args:
            discriminator: "d_a" or "d_b".
            image: real images or fakes, `[n, h, w, c]`.
            source: the real images of the other domain, for pairs concatenated to the image.
            training: whether to augment both, by a random draw of this step.
            part: number of the discriminators' update in this step.
        """
        images = [source, image] if self.lambda_l1 else [image]
        if self.d_augment and training:
            seed = derive_seed(self.seed, replica_id(), 4 + (discriminator == "d_b"))
            images = [augment(x, self.d_augment, seed, self._place(part)) for x in images]
        return tf.concat(images, axis=-1)

    def _place(self, part: int) -> tf.Tensor:
        """Returns the number of an update of the discriminators, for random draws."""
        return self.step * self.d_steps + part

    def discriminator_losses(
        self,
        real_a: tf.Tensor,
        real_b: tf.Tensor,
        fake_a: tf.Tensor,
        fake_b: tf.Tensor,
        training: bool = False,
        part: int = 0,
    ) -> dict[str, tf.Tensor]:
        """Computes the terms of the discriminators, `d_b` and `d_a`, each `[n]`."""
        losses = {}
        for name, real, fake, source in (
            ("d_b", real_b, fake_b, real_a),
            ("d_a", real_a, fake_a, real_b),
        ):
            discriminator = getattr(self, name)
            real = self.discriminator_input(name, real, source, training, part)
            fake = self.discriminator_input(name, fake, source, training, part)
            logits = call_jointly(discriminator, {"real": real, "fake": fake}, training)
            losses[name] = discriminator_loss(self.adversarial, logits["real"], logits["fake"])
            if self.gradient_penalty and training:
                seed = derive_seed(self.seed, replica_id(), name == "d_b")
                mix = to_unit_interval(random_integers(tf.shape(real)[0], seed, self._place(part)))
                scale = self.discriminator_optimizer.scale_loss(1.0)
                penalty = gradient_penalty(
                    partial(run_network, discriminator),
                    real,
                    fake,
                    mix,
                    scale,
                    self.gradient_center,
                    of_mean=self.adversarial == "wgan-gp",
                )
                losses[name] += self.gradient_penalty * penalty
        return losses

    def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        """Updates the generators, then the discriminators on the fakes from before that update."""
        real_a, real_b = check_images(data, self.d_steps)
        # Counters, such as an optimizer's, do not depend on the images. Without this, a step whose
        # images cannot be read would be counted although it updates no weights.
        with tf.control_dependencies([real_a, real_b]):
            return compiled_if(self.compiles_step, self._step)(real_a, real_b)

    def _step(self, real_a: tf.Tensor, real_b: tf.Tensor) -> dict[str, tf.Tensor]:
        rate = self.generator_optimizer.learning_rate  # before the update advances its schedule
        parts = [(real_a, real_b)]
        if self.d_steps > 1:
            both = (tf.split(real, self.d_steps) for real in (real_a, real_b))
            parts = list(zip(*both, strict=True))
        real_a, real_b = parts[0]

        part = compiled_if(self.compiles_gradients, self._generator_gradients)
        gradients, losses, fake_a, fake_b = part(real_a, real_b)
        apply_gradients(self.generator_optimizer, gradients, self._generator_variables())
        if self.averages:
            self._update_averages()

        if self.lambda_adversarial:
            updates = []
            for number, (real_a, real_b) in enumerate(parts):
                if number:
                    fake_b = run_network(self.a2b, real_a, training=True)
                    fake_a = run_network(self.b2a, real_b, training=True)
                updates.append(self._train_discriminators(real_a, real_b, fake_a, fake_b, number))
            losses |= {name: tf.concat([u[name] for u in updates], 0) for name in updates[0]}

        self.step.assign_add(1)
        return report(self.trackers, losses | {"learning_rate": tf.cast(rate, tf.float32)})

    def _train_discriminators(
        self,
        real_a: tf.Tensor,
        real_b: tf.Tensor,
        fake_a: tf.Tensor,
        fake_b: tf.Tensor,
        number: int,
    ) -> dict[str, tf.Tensor]:
        """Updates the discriminators on these fakes or, from the pools, earlier ones."""
        if self.pool_b:
            fake_b = self.pool_b[replica_id() % len(self.pool_b)].query(fake_b)
            fake_a = self.pool_a[replica_id() % len(self.pool_a)].query(fake_a)
        part = compiled_if(self.compiles_gradients, self._discriminator_gradients)
        gradients, losses = part(real_a, real_b, fake_a, fake_b, number)
        apply_gradients(self.discriminator_optimizer, gradients, self._discriminator_variables())
        return losses

    def _update_averages(self) -> None:
        """Moves the averages towards the generators' weights."""
        done = tf.cast(self.step, tf.float32)
        keep = tf.minimum(self.ema, (1 + done) / (10 + done))
        means, values = [], []
        for name, average in self.averages.items():
            network = getattr(self, name)
            for mean, weight in zip(average.weights, network.weights, strict=True):
                value = tf.convert_to_tensor(weight)
                if weight.trainable:  # moving averages of batch norm are averages already
                    old = tf.convert_to_tensor(mean)
                    value = old + (1 - tf.cast(keep, old.dtype)) * (value - old)
                means.append(mean.value)
                values.append(value)
        assign_on_each(means, values)

    def _generator_gradients(
        self, real_a: tf.Tensor, real_b: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor], tf.Tensor | None, tf.Tensor | None]:
        with tf.GradientTape() as tape:
            images = self.translate_both(real_a, real_b, training=True)
            losses = self.generator_losses(real_a, real_b, images, training=True)
            objective = global_mean(sum(losses.values()))
            scaled = self.generator_optimizer.scale_loss(objective)
        # Gradients of only the generators' variables: this freezes the discriminators.
        gradients = tape.gradient(scaled, self._generator_variables())
        return gradients, losses, images.get("fake_a"), images.get("fake_b")

    def _discriminator_gradients(
        self,
        real_a: tf.Tensor,
        real_b: tf.Tensor,
        fake_a: tf.Tensor,
        fake_b: tf.Tensor,
        part: int,
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses = self.discriminator_losses(
                real_a, real_b, fake_a, fake_b, training=True, part=part
            )
            objective = global_mean(sum(losses.values()))
            scaled = self.discriminator_optimizer.scale_loss(objective)
        return tape.gradient(scaled, self._discriminator_variables()), losses

    def test_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        """Computes the losses of a training step without an update and without image pools."""
        real_a, real_b = check_images(data)
        images = self.translate_both(real_a, real_b)
        losses = self.generator_losses(real_a, real_b, images)
        if self.lambda_adversarial:
            fake_a, fake_b = images["fake_a"], images["fake_b"]
            losses |= self.discriminator_losses(real_a, real_b, fake_a, fake_b)
        rate = self.generator_optimizer.learning_rate
        report(self.trackers, losses | {"learning_rate": tf.cast(rate, tf.float32)})
        return self.get_metrics_result()

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Does nothing, since everything is built. Keras 3.15 would draw a batch for it, and fails
        in a cluster of workers, where it cannot reduce a nested value."""

    def _generator_variables(self) -> list[keras.Variable]:
        return self.a2b.trainable_variables + self.b2a.trainable_variables

    def _discriminator_variables(self) -> list[keras.Variable]:
        return self.d_a.trainable_variables + self.d_b.trainable_variables


def run_network(network: keras.Model, images: tf.Tensor, training: bool) -> tf.Tensor:
    """Calls a network. The output has the dtype of the images, whatever the network's policy."""
    return tf.cast(network(images, training=training), images.dtype)


def build(network: keras.Model, channels: int) -> None:
    """Creates the weights of a network for images of any size."""
    if type(network).build is keras.Model.build:  # a subclass without build creates them in a call
        network(keras.KerasTensor((None, None, None, channels)))
    else:
        network.build((None, None, None, channels))


def penalty_of(adversarial: str, weight: float | None, center: float | None) -> tuple[float, float]:
    """Returns weight and center of the gradient penalty, with the defaults for None.

    Raises:
        ValueError: one is negative, or there is a center without a weight.
    """
    default_weight, default_center = WGAN_GP if adversarial == "wgan-gp" else (0.0, 0.0)
    if (weight or 0) < 0 or (center or 0) < 0:
        raise ValueError(
            f"gradient_penalty is {weight}, and gradient_center {center}: use 0 or more for each."
        )
    weight = default_weight if weight is None else weight
    if center is not None and not weight:
        raise ValueError(
            f"gradient_center is {center}, but there is no penalty: set gradient_penalty, too."
        )
    return weight, default_center if center is None else center


def copy_network(network: keras.Model) -> keras.Model:
    """Returns a network of the same kind with the same weights.

    Raises:
        ValueError: Keras cannot create the network from its config.
    """
    try:
        copy = keras.models.clone_model(network)
    except Exception as error:  # Keras raises many kinds of errors
        raise ValueError(
            f"{network.name} cannot be copied for ema ({reason(error)}): give its class and its "
            "layers a get_config, or use ema=0."
        ) from None
    copy.set_weights(network.get_weights())
    return copy


def call_jointly(
    network: keras.Model, batches: dict[str, tf.Tensor], training: bool
) -> dict[str, tf.Tensor]:
    """Calls a network on several batches, jointly if that is equivalent and faster.

    A joint call is not equivalent with batch norm, which would mix the batches, and not possible
    with images of different sizes. For large images it is not faster, and takes more memory.

    Args:
        network: a generator or a discriminator. One without a `norm` attribute might mix the
            batches, and gets them one by one.
        batches: by name, each `[n, h, w, c]`.
        training: as in a call of the network.

    Returns:
        The outputs by the same names.
    """
    shapes = {batch.shape for batch in batches.values()}
    small = all(s.is_fully_defined() and s.num_elements() <= JOINED_NUMBERS for s in shapes)
    mixes = getattr(network, "norm", "batch") == "batch"
    if len(batches) < 2 or len(shapes) > 1 or not small or mixes:
        return {name: run_network(network, batch, training) for name, batch in batches.items()}
    outputs = run_network(network, tf.concat(list(batches.values()), axis=0), training)
    return dict(zip(batches, tf.split(outputs, len(batches)), strict=True))


def compiled_if(condition: bool, part: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function, compiled with XLA if the condition is true."""
    return tf.function(part, autograph=False, jit_compile=True) if condition else part


def assign_all(
    variables: Mapping[str, tf.Variable | keras.Variable], values: Mapping[str, np.ndarray]
) -> None:
    """Assigns values to the variables of the same names.

    Raises:
        ValueError: names or shapes differ.
    """
    saved = {name: tuple(value.shape) for name, value in values.items()}
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if saved != shapes:
        raise ValueError(
            f"The file holds the training state {saved}, but this model has {shapes}: build it "
            "with the same pool_size, replicas, image size and dropout."
        )
    for name, variable in variables.items():
        variable.assign(values[name])


def has_batch_norm(network: keras.Model) -> bool:
    """Returns whether a built network contains a BatchNormalization layer."""
    return any(variable.name == "moving_mean" for variable in network.non_trainable_variables)


def is_seed(variable: keras.Variable) -> bool:
    """Returns whether a variable is the random state of a layer such as Dropout."""
    return variable.path.endswith("seed_generator_state")


def variables_of(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns (name, variable) of all variables of networks and optimizers, given by name."""
    return [(f"{name}: {v.path}", v) for name, part in parts.items() for v in part.variables]


def first_non_finite(variables: Sequence[tuple[str, Any]]) -> str | None:
    """Returns the name of the first (name, variable) that holds NaN or infinity, or None."""
    named = [(name, tf.convert_to_tensor(variable)) for name, variable in variables]
    named = [(name, value) for name, value in named if value.dtype.is_floating]
    finite = are_finite([value for _, value in named]).numpy()
    return next((name for (name, _), good in zip(named, finite, strict=True) if not good), None)


@tf.function
def are_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns which of n tensors have only finite values: bool `[n]`."""
    return tf.stack([tf.reduce_all(tf.math.is_finite(x)) for x in tensors])
