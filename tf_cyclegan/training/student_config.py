"""All settings of a training run of a student with their defaults."""

import dataclasses
import os
from typing import ClassVar, Literal

from tf_cyclegan.training.config import Config


@dataclasses.dataclass(frozen=True)
class StudentSettings:
    """The student, and how it learns from its teacher."""

    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the teacher to copy."""
    filters: int = 16
    """Channels of the student's first layer."""
    blocks: int = 6
    """Number of residual blocks."""
    kernel: Literal[3, 5, 7, 9] = 5
    """Side of the kernels of the first and the last convolution."""
    separable: bool = True
    """Depthwise-separable 3x3 convolutions, which need about a ninth of the multiplications."""
    upsampling: Literal["transpose", "resize"] = "resize"
    """resize, or transpose as in the paper, which needs --no_separable."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalization."""
    both_domains: bool = True
    """Learn what the teacher does to images of its target domain, too."""
    lambda_teacher: float = 1.0
    """Weight of the L1 distance to the teacher's image."""
    lambda_ssim: float = 1.0
    """Weight of 1 - SSIM between the images of student and teacher."""
    lambda_features: float | None = None
    """Weight of the L1 distance between the features of both images in the teacher's
    discriminator; by default 1, and 0 for a teacher without one."""
    lambda_adversarial: float = 0.0
    """Weight of an adversarial loss, whose discriminator starts from the teacher's and is trained
    with the student."""
    learning_rate: float = 1e-3
    """Initial learning rate of Adam."""
    beta_1: float = 0.9
    """beta_1 of Adam."""
    epochs: int = 20
    """Number of epochs at the initial learning rate."""
    decay_epochs: int = 20
    """Number of epochs in which the learning rate falls linearly towards 0, after `epochs`."""
    max_steps: int | None = None
    """Stop after this total number of steps."""
    seed: int = 0
    """Random seed for weights, data order and crops."""


@dataclasses.dataclass(frozen=True)
class StudentConfig(StudentSettings, Config):
    """All settings of a training run of a student.

    Of the settings of a `Config`, it uses those in `StudentSettings`, those for data, machine and
    saving, and `adversarial`.
    """

    folder_flag: ClassVar[str] = "--output"

    teacher: str = ""
    """A run folder, a folder of imported weights, or a generator file: .keras or .pth."""
    lambda_identity: float = 0.0  # terms of a CycleGAN, which a student does not have
    pool_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "teacher", os.path.expanduser(self.teacher))

    @property
    def smallest_crop(self) -> int:
        """The smallest side of images that the student can be trained on."""
        return 8

    def check(self) -> None:
        """Raises a one-line ValueError if the settings are invalid."""
        if self.separable and self.upsampling != "resize":
            raise ValueError("upsampling=transpose needs --no_separable.")
        super().check()
        if self.lambda_ssim and "crop" in self.preprocess and self.crop_size < 12:
            raise ValueError("SSIM compares windows of 11 pixels: use --crop_size=12 or more.")
        for name in ("lambda_teacher", "lambda_ssim", "lambda_features"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 or more.")
        source, target = ("a", "b") if self.direction == "a2b" else ("b", "a")
        if self.data_a and self.data_a == self.data_b:
            if self.both_domains or self.lambda_adversarial:
                raise ValueError(
                    f"Images of domain {target} are missing: add --data_{target}, or use "
                    "--no_both_domains and --lambda_adversarial=0."
                )
