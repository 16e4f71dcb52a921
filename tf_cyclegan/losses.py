"""The losses of CycleGAN: pure functions of float tensors that return one value per example.

Logits are `[n, h, w, 1]` or of any other shape that begins with n; images are `[n, h, w, c]` in
[-1, 1]. Every function returns `[n]`: `CycleGAN.train_step` takes the mean over batch and replicas.
"""

from collections.abc import Callable

import tensorflow as tf

ADVERSARIAL = ("lsgan", "bce", "hinge", "wgan-gp")


def per_example_mean(values: tf.Tensor) -> tf.Tensor:
    """Computes the mean over all axes but the first: `[n, ...] -> [n]`."""
    return tf.reduce_mean(values, axis=list(range(1, len(values.shape))))


def generator_loss(adversarial: str, fake_logits: tf.Tensor) -> tf.Tensor:
    """Computes the adversarial loss of a generator.

    With d the logits of the fakes, and m(.) the mean over the patches of an example:

    - "lsgan": `m((d - 1)^2)`. Mao et al. 2017; section 3.3 of the CycleGAN paper. Not halved, as
      in the authors' code.
    - "bce": `m(softplus(-d)) = m(-log sigmoid(d))`. Goodfellow et al. 2014, section 3, in the
      non-saturating form; equation 1 of the CycleGAN paper.
    - "hinge" and "wgan-gp": `-m(d)`. Lim and Ye 2017, equation 8; Gulrajani et al. 2017,
      equation 3.

    Args:
        adversarial: one of `ADVERSARIAL`.
        fake_logits: logits `[n, ...]` of the fakes.

    Returns:
        `[n]`.

    Raises:
        ValueError: the name is unknown.
    """
    if adversarial == "lsgan":
        return per_example_mean(tf.square(fake_logits - 1.0))
    if adversarial == "bce":
        return per_example_mean(tf.nn.softplus(-fake_logits))
    if adversarial in ("hinge", "wgan-gp"):
        return -per_example_mean(fake_logits)
    raise unknown_adversarial(adversarial)


def discriminator_loss(
    adversarial: str, real_logits: tf.Tensor, fake_logits: tf.Tensor
) -> tf.Tensor:
    """Computes the loss of a discriminator for real images and fakes.

    With r and d the logits of real images and of fakes:

    - "lsgan": `(m((r - 1)^2) + m(d^2)) / 2`.
    - "bce": `(m(softplus(-r)) + m(softplus(d))) / 2`. Both are halved, as in the authors' code, to
      slow down the discriminators relative to the generators (section 7.1).
    - "hinge": `m(relu(1 - r)) + m(relu(1 + d))`.
    - "wgan-gp": `m(d) - m(r)`, to be used with `gradient_penalty`.

    Args:
        adversarial: one of `ADVERSARIAL`.
        real_logits, fake_logits: `[n, ...]`.

    Returns:
        `[n]`.

    Raises:
        ValueError: the name is unknown.
    """
    if adversarial == "lsgan":
        real, fake = tf.square(real_logits - 1.0), tf.square(fake_logits)
        return 0.5 * (per_example_mean(real) + per_example_mean(fake))
    if adversarial == "bce":
        real, fake = tf.nn.softplus(-real_logits), tf.nn.softplus(fake_logits)
        return 0.5 * (per_example_mean(real) + per_example_mean(fake))
    if adversarial == "hinge":
        real, fake = tf.nn.relu(1.0 - real_logits), tf.nn.relu(1.0 + fake_logits)
        return per_example_mean(real) + per_example_mean(fake)
    if adversarial == "wgan-gp":
        return per_example_mean(fake_logits) - per_example_mean(real_logits)
    raise unknown_adversarial(adversarial)


def gradient_penalty(
    discriminator: Callable[..., tf.Tensor],
    real: tf.Tensor,
    fake: tf.Tensor,
    mix: tf.Tensor,
    scale: float | tf.Tensor = 1.0,
    center: float = 1.0,
    of_mean: bool = True,
) -> tf.Tensor:
    """Computes a penalty on the gradient of a discriminator D by its input, without a weight.

    - `center` = 0: `|grad_x D(x)|^2 / 2` at the real images: R1 of Mescheder et al. 2018,
      arXiv:1801.04406, equation 9.
    - `center` > 0: `(|grad_x D(x)|_2 / center - 1)^2` at `x = mix * real + (1 - mix) * fake`. A
      center of 1 is Gulrajani et al. 2017, arXiv:1704.00028, equation 3, of wgan-gp. UVCGAN
      (Torbunov et al. 2022, arXiv:2203.02557) uses 100 with a weight of 0.1.

    The norm is taken over all pixels of an example. Batch norm in the discriminator would mix the
    examples: use another norm. The authors' `wgangp` option lacks the penalty.

    Args:
        discriminator: a model of images to logits.
        real, fake: `[n, h, w, c]`.
        mix: `[n]` in [0, 1], one weight per example.
        scale: factor for `D(x)`, by which the gradient is divided again. For a discriminator in
            float16, use the loss scale: without it, the gradient would underflow.
        center: the norm at which the penalty is 0.
        of_mean: whether D(x) is the mean of the logits of an example, as in the loss of wgan-gp, or
            their sum, as in UVCGAN and in the authors' `cal_gradient_penalty`.

    Returns:
        `[n]`.
    """
    mix = tf.reshape(mix, [-1, 1, 1, 1])
    x = mix * real + (1.0 - mix) * fake if center else real
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = discriminator(x, training=True)
        critic = scale * per_example_mean(logits)
    gradient = tape.gradient(critic, x) / scale
    if not of_mean:  # not the sum itself, whose scaled gradient would overflow in float16
        gradient *= tf.cast(tf.size(logits) / tf.shape(logits)[0], gradient.dtype)
    squared = tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3])
    if not center:
        return squared / 2
    # 1e-12 keeps the gradient of the square root finite at 0.
    return tf.square(tf.sqrt(squared + 1e-12) / center - 1.0)


def cycle_loss(real: tf.Tensor, cycled: tf.Tensor) -> tf.Tensor:
    """Computes `|cycled - real|_1` as a mean over pixels and channels: section 3.2, equation 2.

    Args:
        real: images of one domain, `[n, h, w, c]`.
        cycled: the same images after both generators.

    Returns:
        `[n]`.
    """
    return per_example_mean(tf.abs(cycled - real))


def identity_loss(real: tf.Tensor, same: tf.Tensor) -> tf.Tensor:
    """Computes `|G(real) - real|_1` for images of the output domain of G: section 5.2.

    Args:
        real: images of one domain, `[n, h, w, c]`.
        same: the output of the generator into that domain for these images.

    Returns:
        `[n]`.
    """
    return per_example_mean(tf.abs(same - real))


def paired_loss(truth: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Computes `|fake - truth|_1` for paired images: pix2pix (Isola et al. 2017, equation 3).

    Args:
        truth: ground truth of a batch, `[n, h, w, c]`.
        fake: translations of that batch.

    Returns:
        `[n]`.
    """
    return per_example_mean(tf.abs(fake - truth))


def unknown_adversarial(adversarial: str) -> ValueError:
    """Returns the error for a name that is not in `ADVERSARIAL`."""
    return ValueError(f"adversarial={adversarial!r} is not known: use one of {ADVERSARIAL}.")
