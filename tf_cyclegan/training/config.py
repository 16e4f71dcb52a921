"""All settings of a training run with their defaults, in one frozen dataclass."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from tf_cyclegan.data.resizing import Preprocessing

SYNTHETIC = "synthetic/summer2winter"


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images to train on, and how to prepare them."""

    dataset: str | None = None
    """cycle_gan/<name> of TensorFlow Datasets, or the embedded synthetic/summer2winter (the default
    if you name no data)."""
    data_dir: str | None = None
    """Folder with trainA and trainB (and testA, testB), or the data folder of TensorFlow
    Datasets."""
    data_a: str | None = None
    """Folder of images of domain a; use it with data_b instead of data_dir."""
    data_b: str | None = None
    """Folder of images of domain b."""
    paired: bool = False
    """Images of the same name in both domains (1_A.jpg and 1_B.jpg, or 1.jpg twice) are pairs, for
    training pix2pix and as ground truth in evaluation."""
    side_by_side: bool = False
    """Each image shows a pair, domain a left and b right, as in pix2pix's datasets; data_dir has
    train, and test or val."""
    recursive: bool = False
    """Search sub-folders for images, too."""
    max_images: int | None = None
    """Maximum number of training images of each domain; the first ones are used."""
    channels_a: Literal[1, 3] = 3
    """Channels of domain a: 1 for gray, 3 for RGB."""
    channels_b: Literal[1, 3] = 3
    """Channels of domain b: 1 for gray, 3 for RGB."""
    preprocess: Literal[
        "resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"
    ] = "resize_and_crop"
    """How to prepare images. resize_and_crop: resize to a square of load_size, then crop;
    crop: only crop; scale_width: resize to that width; scale_width_and_crop: the same, then crop;
    none: keep the size."""
    load_size: int = 286
    """Side in pixels to which images are resized."""
    crop_size: int = 256
    """Side in pixels of the random crops for training."""
    flip: bool = True
    """Flip half of the images horizontally, at random."""
    flip_vertical: bool = False
    """Flip half of the images vertically, too."""
    rotate: float = 0.0
    """Rotate each image at random before the crop, by this angle in degrees at most."""
    color_jitter: float = 0.0
    """Change brightness, contrast and saturation of each image by random factors of 1 - x to 1 + x,
    for example 0.1."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where to keep resized images: in memory; on disk, in ~/.cache/tf_cyclegan or XDG_CACHE_HOME,
    for later runs; or nowhere, to decode them at each use."""
    batch_size: int = 1
    """Images per domain and replica in a batch; the paper uses 1."""


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """The generators and the discriminators."""

    generator: Literal["resnet", "unet"] = "resnet"
    """Generator network: the ResNet of the paper, or the U-Net of pix2pix."""
    filters: int = 64
    """Channels of the generators' first layer."""
    blocks: int = 9
    """Number of residual blocks of the ResNet generators; the paper uses 6 for 128x128 and 9 from
    256x256 up."""
    depth: int = 8
    """Number of downsampling layers in the U-Net; crop_size must be a multiple of 2^depth."""
    upsampling: Literal["transpose", "resize"] = "transpose"
    """Upsampling of the ResNet generators: transpose as in the paper, or resize, which avoids
    checkerboard artifacts."""
    separable: bool = False
    """Depthwise-separable 3x3 convolutions in the ResNet generators, for phones; needs
    --upsampling=resize."""
    kernel: Literal[3, 5, 7, 9] = 7
    """Side of the kernels of the ResNet generators' first and last convolution."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalization in all networks."""
    d_norm: Literal["same", "instance", "batch", "none", "spectral"] = "same"
    """Normalization in the discriminators: the same as norm, or another one; spectral divides each
    convolution by its spectral norm."""
    dropout: float = 0.0
    """Dropout rate in the generators."""
    discriminator: Literal["patch", "pixel"] = "patch"
    """Discriminator network: a PatchGAN, or one that scores each pixel separately."""
    d_filters: int = 64
    """Channels of the discriminators' first layer."""
    d_layers: int = 3
    """Strided layers of the PatchGAN, 1 to 5, for patches of 16, 34, 70, 142 or 286 pixels."""


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """The loss terms and their weights."""

    adversarial: Literal["lsgan", "bce", "hinge", "wgan-gp"] = "lsgan"
    """Adversarial loss: least squares, cross-entropy, hinge, or Wasserstein with penalty."""
    lambda_adversarial: float = 1.0
    """Weight of the adversarial terms; 0 disables the discriminators."""
    lambda_cycle_a: float = 10.0
    """Weight of the forward cycle a -> b -> a."""
    lambda_cycle_b: float = 10.0
    """Weight of the backward cycle b -> a -> b."""
    lambda_identity: float = 0.5
    """Weight of the identity terms, relative to the cycle weights; preserves colors."""
    lambda_l1: float = 0.0
    """Weight of the L1 distance to the ground truth; above 0, training needs pairs, and the
    discriminators see each image together with its input."""
    pool_size: int = 50
    """Number of earlier fakes kept for each discriminator; 0 for no image pool."""
    d_augment: str = ""
    """Augment what the discriminators see, against overfitting on few images: any of translation,
    color and cutout, separated by commas."""
    gradient_penalty: float | None = None
    """Weight of a penalty on the gradient of the discriminators, with any adversarial loss; by
    default 10 for wgan-gp, and 0 otherwise."""
    gradient_center: float | None = None
    """Norm that the penalty pulls the gradient to: 0 at real images (R1); above 0 between real
    images and fakes, such as 100 in UVCGAN. By default 1 for wgan-gp, and 0 otherwise."""


@dataclasses.dataclass(frozen=True)
class OptimizationSettings:
    """The optimizers, and how long to train."""

    learning_rate: float = 2e-4
    """Initial learning rate of Adam."""
    d_learning_rate: float | None = None
    """Initial learning rate of the discriminators, if it differs from learning_rate."""
    d_steps: int = 1
    """Updates of the discriminators for each update of the generators, each on other images."""
    beta_1: float = 0.5
    """beta_1 of Adam."""
    epochs: int = 100
    """Number of epochs at the initial learning rate."""
    decay_epochs: int = 100
    """Number of epochs in which the learning rate falls linearly towards 0, after `epochs`."""
    max_steps: int | None = None
    """Stop after this total number of steps."""
    seed: int = 0
    """Random seed for weights, data order, crops and image pools."""
    ema: float = 0.0
    """Decay of moving averages of the generators' weights, for example 0.999, which are then used
    for samples, evaluation and exports; 0 for none."""
    init_from: str | None = None
    """Start from the weights of another run folder, of imported weights, or of a .keras or .pth
    file: both generators or one, and the discriminators if it has them. The networks must be the
    same."""


@dataclasses.dataclass(frozen=True)
class ValidationSettings:
    """Measuring the generators during training, and keeping the best ones."""

    evaluate_every: int = 0
    """Epochs between measurements of KID on validation images; the best generator of each direction
    is kept in best/ in the run folder. 0 for none."""
    val_dir: str | None = None
    """Folder with valA and valB, images for validation; without it, a part of the training images
    is held out."""
    val_share: float = 0.1
    """Share of the training images to hold out for validation if there is no val_dir."""
    val_features: str = "pixels"
    """Features for KID, as in `tf-cyclegan evaluate --features`."""
    patience: int = 0
    """Number of epochs without an improvement in either direction after which training stops; 0 to
    never stop early."""


@dataclasses.dataclass(frozen=True)
class MachineSettings:
    """Devices, precision and memory."""

    strategy: Literal["auto", "one", "mirrored", "multiworker"] = "auto"
    """auto: all visible GPUs or the CPU; one: one device; mirrored: all GPUs, or all logical CPUs;
    multiworker: the cluster in TF_CONFIG."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy: bfloat16 is faster on CPUs that support it; not measured on a GPU yet."""
    jit_compile: bool = False
    """Compile training steps with XLA: far slower on a CPU; not measured on a GPU yet."""
    recompute: bool = False
    """Save memory by computing parts of the generators again for the gradients; takes about 1.2
    times as long (see docs/performance.md). Not with dropout or batch norm."""
    deterministic: bool = False
    """Use only deterministic kernels: a GPU then resumes bit for bit, as a CPU always does."""


@dataclasses.dataclass(frozen=True)
class RunFolderSettings:
    """Where to write."""

    run_dir: str | None = None
    """Folder for all output; by default runs/ and the name of the dataset or folders."""


@dataclasses.dataclass(frozen=True)
class SavingSettings:
    """What to write, and how often."""

    resume: bool = True
    """Continue from the last checkpoint of the run folder; --no_resume gives an error instead."""
    allow_other_data: bool = False
    """Continue a training run on other images than before."""
    sample_every: int = 500
    """Number of steps between contact sheets; 0 for only the last one."""
    watch_every: int = 1
    """Epochs between checks for mode collapse and saturated discriminators; 0 for none."""
    save_every: int = 1000
    """Number of steps between checkpoints; 0 for only the last one."""
    save_minutes: float = 10.0
    """Maximum number of minutes between checkpoints; 0 for no limit."""
    keep_checkpoints: int = 3
    """Number of checkpoints to keep."""


@dataclasses.dataclass(frozen=True)
class Config(
    SavingSettings,  # the fields of the last base class come first
    RunFolderSettings,
    MachineSettings,
    ValidationSettings,
    OptimizationSettings,
    ObjectiveSettings,
    NetworkSettings,
    DataSettings,
):
    """All settings of a training run. The defaults are those of the paper."""

    folder_flag: ClassVar[str] = "--run_dir"  # the flag that names the run folder, for messages

    def __post_init__(self) -> None:
        for name in ("data_dir", "data_a", "data_b", "run_dir", "init_from", "val_dir"):
            if path := getattr(self, name):
                object.__setattr__(self, name, os.path.expanduser(path))

    @property
    def synthetic(self) -> bool:
        """Whether training uses the embedded dataset."""
        folders = self.data_dir or self.data_a or self.data_b
        return self.dataset == SYNTHETIC or (self.dataset is None and not folders)

    @property
    def multiple(self) -> int:
        """What the generators need height and width to be a multiple of."""
        return 4 if self.generator == "resnet" else 2**self.depth

    @property
    def smallest_crop(self) -> int:
        """The smallest side of images that the networks can be trained on."""
        return max(8, 3 * 2**self.d_layers if self.discriminator == "patch" else 0)

    @property
    def preprocessing(self) -> "Preprocessing":
        """How images are prepared before their random crop."""
        from tf_cyclegan.data.resizing import (
            Preprocessing,
        )  # here, so that --help need not load TensorFlow

        return Preprocessing(
            self.preprocess,
            self.load_size,
            self.crop_size,
            self.multiple,
            self.cache,
            self.smallest_crop,
        )

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or a folder named after the dataset or both folders."""
        if self.run_dir:
            return Path(self.run_dir)
        if self.data_a and self.data_b:
            names = [self.data_a, self.data_b]
        else:
            names = [SYNTHETIC if self.synthetic else str(self.dataset or self.data_dir)]
        return Path("runs") / "-".join(Path(name).resolve().name for name in names)

    def check(self) -> None:
        """Raises a one-line ValueError if the settings are invalid."""
        for name in ("batch_size", "load_size", "crop_size", "keep_checkpoints", "d_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use 1 or more.")
        for name in (
            "pool_size epochs decay_epochs seed sample_every watch_every save_every save_minutes "
            "learning_rate d_learning_rate lambda_adversarial lambda_cycle_a lambda_cycle_b "
            "lambda_identity lambda_l1 gradient_penalty gradient_center rotate evaluate_every "
            "patience"
        ).split():
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 or more.")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}: use a finite number.")
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}: use less than {2**32}.")
        try:
            str(self.run_folder).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the name of {os.fsencode(self.run_folder)!r} is not valid UTF-8: use another "
                f"{self.folder_flag}."
            ) from None
        if self.cache not in ("memory", "disk", "none"):
            raise ValueError(f"cache is {self.cache}: use memory, disk or none.")
        if self.epochs + self.decay_epochs == 0:
            raise ValueError("epochs and decay_epochs are both 0: there is nothing to train.")
        for name in ("max_steps", "max_images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}: use 1 or more.")
        if self.discriminator == "patch" and not 1 <= self.d_layers <= 5:
            raise ValueError(f"d_layers is {self.d_layers}: use 1 to 5.")
        if "crop" in self.preprocess:
            if self.preprocess != "crop" and self.crop_size > self.load_size:
                raise ValueError(
                    f"crop_size {self.crop_size} is larger than load_size {self.load_size}: "
                    f"use --load_size={self.crop_size} or more."
                )
            if self.crop_size < self.smallest_crop:
                raise ValueError(
                    f"crop_size {self.crop_size} is too small for the networks: use "
                    f"--crop_size={self.smallest_crop} or more."
                )
            if self.crop_size % self.multiple:
                below = max(self.crop_size // self.multiple, 1) * self.multiple
                raise ValueError(
                    f"crop_size {self.crop_size} is not a multiple of {self.multiple}, as the "
                    f"generator needs: use --crop_size={below}"
                    + (", or a smaller --depth." if self.generator == "unet" else ".")
                )
        if self.lambda_identity and self.channels_a != self.channels_b:
            raise ValueError(
                "The identity loss needs domains of the same channels: use --lambda_identity=0."
            )
        if self.lambda_l1 and not (self.paired or self.side_by_side or self.synthetic):
            raise ValueError("lambda_l1 needs pairs: add --paired if images of one name are pairs.")
        if self.lambda_l1 and self.pool_size:
            raise ValueError("lambda_l1 cannot be used with an image pool: use --pool_size=0.")
        for name in ("dropout", "ema", "color_jitter", "beta_1"):
            if not 0 <= getattr(self, name) < 1:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}: use 0 or more and less than 1.")
        from tf_cyclegan.augmentation import check_kinds  # here, since it loads TensorFlow

        check_kinds(self.d_augment)
        if self.separable and (self.generator != "resnet" or self.upsampling != "resize"):
            raise ValueError("separable needs --generator=resnet and --upsampling=resize.")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share is {self.val_share}: use more than 0 and less than 1.")
        chosen = self.val_dir or self.patience or self.val_features != "pixels"
        if chosen and not self.evaluate_every:
            raise ValueError("val_dir, val_features and patience need --evaluate_every=1 or more.")
        if self.patience and self.strategy == "multiworker":
            raise ValueError("patience cannot stop a cluster of workers: use --patience=0.")
        if self.recompute and (self.dropout or self.norm == "batch"):
            raise ValueError(
                "recompute would apply dropout, and update batch norm's moving averages, twice: "
                "use --no_recompute."
            )

    def to_json(self) -> str:
        """Returns all settings as a JSON object, with one line for each."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Creates settings from the output of `to_json`.

        Raises:
            ValueError: the text is not a JSON object, or has a setting unknown to this version.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object.")
        values.pop("model", None)  # from versions before --preset; the settings have its effect
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}: another version wrote them.")
        if isinstance(values.get("cache"), bool):  # from versions before --cache=disk
            values["cache"] = "memory" if values["cache"] else "none"
        hints = get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[name]):
                raise ValueError(
                    f"{name} is {value!r}, which is not a valid value: restore the file."
                )
        return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value from a JSON file has the type of a setting."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    types = get_args(hint) or (hint,)  # of a union, or the type itself
    return type(value) in types or (type(value) is int and float in types)


# Preset -> the settings that it changes.
PRESETS: dict[str, dict[str, Any]] = {
    # Zhu et al. 2017, as in the authors' code.
    "paper": {},
    # Small networks for the embedded dataset, which train in minutes on the CPU of a laptop.
    "demo": {
        "load_size": 72,
        "crop_size": 64,
        "filters": 16,
        "blocks": 3,
        "d_filters": 24,
        "d_layers": 2,
        "upsampling": "resize",
        "lambda_cycle_a": 5.0,
        "lambda_cycle_b": 5.0,
        "epochs": 7,
        "decay_epochs": 4,
        "sample_every": 400,
        "save_every": 400,
    },
    # Isola et al. 2017, arXiv:1611.07004: pairs, and no cycles, identity terms or image pools.
    "pix2pix": {
        "paired": True,
        "lambda_l1": 100.0,
        "lambda_cycle_a": 0.0,
        "lambda_cycle_b": 0.0,
        "lambda_identity": 0.0,
        "pool_size": 0,
    },
}
