"""Every setting of a training, its default and why, in one frozen dataclass."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tf_cyclegan.data.resizing import Preprocessing

SYNTHETIC = "synthetic/summer2winter"


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a CycleGAN. The defaults are the paper's; see DEMO for the embedded data set's."""

    # === Data ===
    dataset: str | None = None
    """cycle_gan/<name> of TensorFlow Datasets, or synthetic/summer2winter (embedded, the default
    where no data is named)."""
    data_dir: str | None = None
    """A folder with trainA and trainB (testA, testB), or where TensorFlow Datasets keeps its
    data."""
    data_a: str | None = None
    """A folder of images of domain a, with data_b instead of data_dir."""
    data_b: str | None = None
    """A folder of images of domain b."""
    paired: bool = False
    """Images of one name in both domains (1_A.jpg and 1_B.jpg, or 1.jpg twice) are pairs: what
    pix2pix is trained on, and evaluate.py measures against."""
    side_by_side: bool = False
    """Each image holds a pair, domain a left and b right, as in pix2pix's data sets: data_dir has
    train, and test or val."""
    recursive: bool = False
    """Search the sub-folders of the images' folders too."""
    channels_a: Literal[1, 3] = 3
    """Domain a in gray (1) or RGB (3)."""
    channels_b: Literal[1, 3] = 3
    """Domain b in gray (1) or RGB (3)."""
    preprocess: Literal[
        "resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"
    ] = "resize_and_crop"
    """resize_and_crop: to a square of load_size, crop; scale_width: to that width; none: as it
    is."""
    load_size: int = 286
    """Side in pixels that images are resized to."""
    crop_size: int = 256
    """Side in pixels of the random crop that is trained on."""
    flip: bool = True
    """Mirror half of the images."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where resized images are kept: in memory; on disk, in ~/.cache/tf_cyclegan or under
    XDG_CACHE_HOME, where later starts find them; or nowhere, and decoded at each use."""
    batch_size: int = 1
    """Images of each domain for each replica; the paper takes 1."""

    # === Networks ===
    model: Literal["cyclegan", "pix2pix"] = "cyclegan"
    """pix2pix is for pairs. It changes defaults: --paired, --lambda_l1=100, and no cycles, identity
    and pool."""
    generator: Literal["resnet", "unet"] = "resnet"
    """The paper's ResNet, or pix2pix's U-Net."""
    filters: int = 64
    """Channels of the generators' first layer."""
    blocks: int = 9
    """Residual blocks: the paper takes 6 for 128x128 and 9 from 256x256 up."""
    depth: int = 8
    """Halvings of the U-Net; crop_size is a multiple of 2^depth."""
    upsampling: Literal["transpose", "resize"] = "transpose"
    """transpose is the paper's; resize leaves no checkerboards."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalization in all networks."""
    dropout: float = 0.0
    """Dropout rate in the generators."""
    discriminator: Literal["patch", "pixel"] = "patch"
    """PatchGAN, or one that judges single pixels."""
    d_filters: int = 64
    """Channels of the discriminators' first layer."""
    d_layers: int = 3
    """Strided layers of the PatchGAN, 1 to 5: it sees patches of 16, 34, 70, 142, 286 pixels."""

    # === Objective ===
    adversarial: Literal["lsgan", "bce", "hinge", "wgan-gp"] = "lsgan"
    """Adversarial loss: least squares, cross-entropy, hinge, or Wasserstein with penalty."""
    lambda_adversarial: float = 1.0
    """Weight of the adversarial terms; 0 trains the cycles alone."""
    lambda_cycle_a: float = 10.0
    """Weight of the forward cycle a -> b -> a."""
    lambda_cycle_b: float = 10.0
    """Weight of the backward cycle b -> a -> b."""
    lambda_identity: float = 0.5
    """Weight of the identity terms, as a share of the cycle weights; keeps colours."""
    lambda_l1: float = 0.0
    """Weight of the distance to the true counterpart; above 0 the batches are pairs, and the
    discriminators see the input beside the output."""
    pool_size: int = 50
    """Earlier fakes kept for each discriminator; 0 for none."""

    # === Optimization ===
    learning_rate: float = 2e-4
    """Adam's rate at the start."""
    beta_1: float = 0.5
    """Adam's first momentum."""
    epochs: int = 100
    """Epochs at the full learning rate."""
    decay_epochs: int = 100
    """Epochs after them, in which the rate falls linearly towards 0."""
    max_steps: int | None = None
    """Stop after this many steps in all."""
    seed: int = 0
    """Of the weights, the order and cropping of the images, and the pools."""

    # === Machine ===
    strategy: Literal["auto", "one", "mirrored", "multiworker"] = "auto"
    """auto: every visible GPU, else the CPU; one: one device; multiworker: as TF_CONFIG says."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Mixed precision is faster on recent GPUs, and bfloat16 on recent CPUs."""
    jit_compile: bool = False
    """Compile the step with XLA: often faster on a GPU, slower on most CPUs."""
    recompute: bool = False
    """Keep less of the generators' forward pass in memory and compute it again for the gradients:
    1.3 times the time (docs/performance.md has what it saves). Not with dropout or batch norm."""
    deterministic: bool = False
    """Only deterministic kernels: a GPU then resumes bit for bit, as a CPU does anyway."""

    # === Run folder ===
    run_dir: str | None = None
    """Where everything goes. If not given: runs/ and the names of the data set or folders."""
    resume: bool = True
    """Continue where the run folder's last checkpoint ends; --no_resume refuses such a folder."""
    allow_other_data: bool = False
    """Continue a run on images other than those it was trained on so far."""
    sample_every: int = 500
    """Steps between sample sheets; 0 for none but the last."""
    watch_every: int = 1
    """Epochs between looks for mode collapse and saturated discriminators; 0 for none."""
    save_every: int = 1000
    """Steps between checkpoints; 0 for none but the last."""
    save_minutes: float = 10.0
    """Minutes after which a checkpoint is due in any case."""
    keep_checkpoints: int = 3
    """Checkpoints kept."""

    def __post_init__(self):
        for name in ("data_dir", "data_a", "data_b", "run_dir"):
            if path := getattr(self, name):
                object.__setattr__(self, name, os.path.expanduser(path))

    @property
    def synthetic(self) -> bool:
        """Whether the embedded data set is used."""
        folders = self.data_dir or self.data_a or self.data_b
        return self.dataset == SYNTHETIC or (self.dataset is None and not folders)

    @property
    def multiple(self) -> int:
        """What the generators need height and width to be a multiple of."""
        return 4 if self.generator == "resnet" else 2**self.depth

    @property
    def preprocessing(self) -> "Preprocessing":
        """What is done to every image before its random crop."""
        from tf_cyclegan.data.resizing import Preprocessing  # loads TensorFlow, as --help must not

        return Preprocessing(
            self.preprocess, self.load_size, self.crop_size, self.multiple, self.cache
        )

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or a name made from that of the data set or of both folders."""
        if self.run_dir:
            return Path(self.run_dir)
        if self.data_a and self.data_b:
            names = [self.data_a, self.data_b]
        else:
            names = [SYNTHETIC if self.synthetic else str(self.dataset or self.data_dir)]
        return Path("runs") / "-".join(Path(name).resolve().name for name in names)

    def check(self) -> None:
        """Raises a ValueError, in one line, where the settings cannot work together."""
        for name in ("batch_size", "load_size", "crop_size", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use 1 or more.")
        for name in (
            "pool_size epochs decay_epochs seed sample_every watch_every save_every save_minutes "
            "learning_rate lambda_adversarial lambda_cycle_a lambda_cycle_b lambda_identity "
            "lambda_l1"
        ).split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: use 0 or more.")
        if self.cache not in ("memory", "disk", "none"):
            raise ValueError(f"cache is {self.cache}: use memory, disk or none.")
        if self.epochs + self.decay_epochs == 0:
            raise ValueError("epochs and decay_epochs are both 0: there is nothing to train.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}: use 1 or more.")
        if "crop" in self.preprocess:
            if self.preprocess != "crop" and self.crop_size > self.load_size:
                raise ValueError(
                    f"crop_size {self.crop_size} is larger than load_size {self.load_size}: "
                    f"use --load_size={self.crop_size} or more."
                )
            smallest = max(8, 3 * 2**self.d_layers if self.discriminator == "patch" else 0)
            if self.crop_size < smallest:
                raise ValueError(
                    f"crop_size {self.crop_size} is too small for the networks: use "
                    f"--crop_size={smallest} or more, or a smaller --d_layers."
                )
            if self.crop_size % self.multiple:
                below = max(self.crop_size // self.multiple, 1) * self.multiple
                raise ValueError(
                    f"crop_size {self.crop_size} is no multiple of {self.multiple}, as the "
                    f"generator needs: use --crop_size={below}."
                )
        if self.lambda_identity and self.channels_a != self.channels_b:
            raise ValueError(
                "Identity needs both domains with the same channels: use --lambda_identity=0."
            )
        if self.lambda_l1 and not (self.paired or self.side_by_side or self.synthetic):
            raise ValueError("lambda_l1 needs pairs: add --paired if images of one name are.")
        if self.lambda_l1 and self.pool_size:
            raise ValueError("A pool keeps no inputs, which lambda_l1 needs: use --pool_size=0.")
        cycles = self.lambda_cycle_a or self.lambda_cycle_b
        if self.model == "pix2pix" and (cycles or not self.lambda_l1):
            raise ValueError(
                f"model is pix2pix, which has no cycles, but lambda_l1 is {self.lambda_l1}, "
                f"lambda_cycle_a {self.lambda_cycle_a} and lambda_cycle_b {self.lambda_cycle_b}: "
                "from Python use dataclasses.replace(config, **PIX2PIX), or else --model=cyclegan."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: use 0 or more and less than 1.")
        if self.recompute and (self.dropout or self.norm == "batch"):
            raise ValueError(
                "recompute would draw dropout, and count batch norm's moving averages, twice: use "
                "--no_recompute."
            )

    def to_json(self) -> str:
        """All settings as a JSON object, one line each."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "Config":
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is no JSON object, or has a setting that this version has not.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it holds no JSON object.")
        known = {field.name for field in dataclasses.fields(Config)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}: another version wrote them.")
        if isinstance(values.get("cache"), bool):  # as it was before --cache=disk
            values["cache"] = "memory" if values["cache"] else "none"
        return Config(**values)


# For the embedded data set: small enough for a few minutes of a laptop's CPU.
DEMO = Config(
    load_size=72,
    crop_size=64,
    filters=16,
    blocks=3,
    d_filters=24,
    d_layers=2,
    upsampling="resize",
    lambda_cycle_a=5.0,
    lambda_cycle_b=5.0,
    epochs=7,
    decay_epochs=4,
    sample_every=400,
    save_every=400,
)

# What --model=pix2pix changes: Isola et al. 2017, arXiv:1611.07004, and the authors' code.
PIX2PIX: dict[str, Any] = {
    "paired": True,
    "lambda_l1": 100.0,
    "lambda_cycle_a": 0.0,
    "lambda_cycle_b": 0.0,
    "lambda_identity": 0.0,
    "pool_size": 0,
}
