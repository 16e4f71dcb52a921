"""The losses of CycleGAN: pure functions, float tensors in, one value per example out.

Logits are `[n, h, w, 1]` or any other shape that begins with n; images are `[n, h, w, c]` in
[-1, 1]. Every function returns `[n]`: the mean over batch and replicas is taken in one place,
`CycleGAN.train_step`.
"""

import tensorflow as tf

ADVERSARIAL = ("lsgan", "bce", "hinge", "wgan-gp")


def per_example_mean(values):
    """`[n, ...] -> [n]`, the mean over all axes but the first."""
    return tf.reduce_mean(values, axis=list(range(1, len(values.shape))))


def generator_loss(adversarial, fake_logits):
    """What a generator pays where its fakes do not pass for real.

    With d the logits of the fakes and m(.) the mean over the patches of an example:

    - "lsgan": `m((d - 1)^2)`. Mao et al. 2017; section 3.3 of the CycleGAN paper. Not halved, as
      in the authors' code.
    - "bce": `m(softplus(-d)) = m(-log sigmoid(d))`. Goodfellow et al. 2014, section 3, in the form
      that does not saturate; equation 1 of the CycleGAN paper.
    - "hinge" and "wgan-gp": `-m(d)`. Lim and Ye 2017, equation 8; Gulrajani et al. 2017,
      equation 3.

    Args:
        adversarial: one of `ADVERSARIAL`.
        fake_logits: the discriminator's `[n, ...]` for the fakes.

    Returns:
        `[n]`.

    Raises:
        ValueError: another name.
    """
    if adversarial == "lsgan":
        return per_example_mean(tf.square(fake_logits - 1.0))
    if adversarial == "bce":
        return per_example_mean(tf.nn.softplus(-fake_logits))
    if adversarial in ("hinge", "wgan-gp"):
        return -per_example_mean(fake_logits)
    raise unknown_adversarial(adversarial)


def discriminator_loss(adversarial, real_logits, fake_logits):
    """What a discriminator pays for taking real for fake and fake for real.

    With r and d the logits of real images and of fakes:

    - "lsgan": `(m((r - 1)^2) + m(d^2)) / 2`.
    - "bce": `(m(softplus(-r)) + m(softplus(d))) / 2`. Both are halved as the authors halve them,
      to slow the discriminators against the generators (section 7.1).
    - "hinge": `m(relu(1 - r)) + m(relu(1 + d))`.
    - "wgan-gp": `m(d) - m(r)`, to which `gradient_penalty` belongs.

    Args:
        adversarial: one of `ADVERSARIAL`.
        real_logits, fake_logits: `[n, ...]`.

    Returns:
        `[n]`.

    Raises:
        ValueError: another name.
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


def gradient_penalty(discriminator, real, fake, mix, scale=1.0):
    """`(|grad_x m(D(x))|_2 - 1)^2` at `x = mix * real + (1 - mix) * fake`, one mix per example.

    Gulrajani et al. 2017, arXiv:1704.00028, equation 3, without the factor of 10. The gradient is
    that of the mean over the patches, taken by example and over all pixels. The authors' `wgangp`
    option lacks the penalty. Batch norm in the discriminator would mix the examples: use instance
    norm or none.

    Args:
        discriminator: a model of images to logits.
        real, fake: `[n, h, w, c]`.
        mix: `[n]` in [0, 1].
        scale: the gradient is taken of `scale * D(x)` and divided by it: in a discriminator that
            computes in float16 it would otherwise vanish. Use the scale of the loss there.

    Returns:
        `[n]`.
    """
    mix = tf.reshape(mix, [-1, 1, 1, 1])
    x = mix * real + (1.0 - mix) * fake
    with tf.GradientTape() as tape:
        tape.watch(x)
        critic = scale * per_example_mean(discriminator(x, training=True))
    gradient = tape.gradient(critic, x) / scale
    # The small number keeps the root's own gradient finite where the gradient is all zero.
    norm = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]) + 1e-12)
    return tf.square(norm - 1.0)


def cycle_loss(real, cycled):
    """`|cycled - real|_1` as a mean over pixels and channels: section 3.2, equation 2.

    Args:
        real: images of one domain, `[n, h, w, c]`.
        cycled: the same images after both generators.

    Returns:
        `[n]`.
    """
    return per_example_mean(tf.abs(cycled - real))


def identity_loss(real, same):
    """`|G(real) - real|_1` for images that already are of G's output domain: section 5.2.

    Args:
        real: images of one domain, `[n, h, w, c]`.
        same: what the generator into that domain makes of them.

    Returns:
        `[n]`.
    """
    return per_example_mean(tf.abs(same - real))


def paired_loss(truth, fake):
    """`|fake - truth|_1`, where the truth is known: pix2pix (Isola et al. 2017, equation 3).

    Args:
        truth: the true counterparts of a batch, `[n, h, w, c]`.
        fake: what a generator makes of that batch.

    Returns:
        `[n]`.
    """
    return per_example_mean(tf.abs(fake - truth))


def unknown_adversarial(adversarial):
    """The error for a name that is none of `ADVERSARIAL`."""
    return ValueError(f"adversarial={adversarial!r} is not known: use one of {ADVERSARIAL}.")
