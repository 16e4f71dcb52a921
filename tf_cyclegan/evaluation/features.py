"""Computes feature vectors of images with a pretrained network.

There are two kinds: Inception, whose distances you can compare with published ones, and any Keras
network, whose distances only compare training runs that were measured with the same file.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import h5py
import keras
import numpy as np

from tf_cyclegan.data.cache import cache_folder
from tf_cyclegan.data.image_files import to_channels
from tf_cyclegan.data.resizing import resize
from tf_cyclegan.evaluation.squeezenet import load_squeezenet
from tf_cyclegan.model_archive import count_weights, load_model, reason

BATCH = 32
# Caffe preprocessing: the mean color of ImageNet in the order blue, green, red.
CAFFE_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
INCEPTION_FILE = "inception-2015-12-05.pt"
# TorchScript is executable code: only the file that clean-fid expects is run.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


@dataclass(frozen=True)
class Features:
    """A function from images to feature vectors, with a description for reports.

    Attributes:
        name: the network's name.
        sha256: SHA-256 of its weights file, in hexadecimal.
        resizing: how images are resized to the network's input size, in words.
        one_size: whether all images must have the same size, because they are not resized.
        prepare: uint8 `[h, w, 3]` -> one preprocessed image.
        network: a batch of such images -> float32 `[n, d]`.
    """

    name: str
    sha256: str
    resizing: str
    one_size: bool
    prepare: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    network: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    def __call__(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Computes feature vectors in the order of the images.

        Args:
            images: uint8 `[h, w, 1 or 3]`, read one batch at a time; gray becomes RGB.

        Returns:
            float32 `[n, d]`.

        Raises:
            ValueError: there are no images, they have another shape or dtype, or they differ in
                size and the network does not resize them.
        """
        rows: list[np.ndarray] = []
        prepared = (self.prepare(_rgb(image)) for image in images)
        for shape, group in groupby(prepared, np.shape):
            if self.one_size and rows:
                raise ValueError(
                    f"{self.name} does not resize images, and one of {shape[:2]} follows "
                    "others: resize them all to one size first."
                )
            while batch := list(islice(group, BATCH)):
                rows.append(self.network(np.stack(batch)).astype(np.float32))
        if not rows:
            raise ValueError("there are no images to compute features of: give a folder with some.")
        return np.concatenate(rows)


def load_features(spec: str) -> Features:
    """Loads a feature network by name or file.

    "inception-clean", or "inception" for short: Inception v3 of Heusel et al. 2017 from the library
    clean-fid; images of any size are resized to 299 x 299 with Pillow's antialiased bicubic filter
    (Parmar et al. 2022). "inception-legacy": the same, but resized inside the network with bilinear
    interpolation without antialiasing, as in the first FID code and most published numbers. The two
    differ by several points: never compare one with the other. Weights are downloaded once.

    `FILE.keras` or `FILE.h5`: a Keras network (architecture and weights) that maps one RGB image to
    a feature map or a vector; a map is averaged over its pixels. It gets Caffe preprocessing: blue,
    green, red, 0 to 255, minus `CAFFE_MEAN`. Files that contain code (Lambda layers) are rejected.
    So are weights without an architecture, except those of SqueezeNet (`squeezenet.py`).

    Args:
        spec: one of these names, or a path.

    Raises:
        ValueError: the name is unknown, the file is not such a network, or the Inception weights or
            their packages are not available.
    """
    if spec in ("inception", "inception-clean"):
        return _inception("clean")
    if spec == "inception-legacy":
        return _inception("legacy")
    if Path(spec).suffix.lower() not in (".keras", ".h5"):
        raise ValueError(
            f"{spec} is not a feature network: use inception-clean, inception-legacy, or the path "
            "of a Keras network that ends in .keras or .h5."
        )
    return _keras(Path(spec))


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"features need images, uint8 [h, w, 1 or 3], not {image.dtype} "
            f"{list(image.shape)}: read them with read_image."
        )
    return to_channels(image, 3)


# === Keras ===


def _keras(path: Path) -> Features:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the file of a Keras network.")
    try:
        network = _network(path)
    except Exception as error:  # Keras raises many kinds of exceptions on invalid files
        raise ValueError(
            f"{path} cannot be loaded ({reason(error)}): use a network saved with model.save."
        ) from None
    # Models with several inputs have a list of shapes; subclassed models have none.
    shape, output = (getattr(network, f"{side}_shape", None) for side in ("input", "output"))
    if (
        not (isinstance(shape, tuple) and isinstance(output, tuple))
        or not (shape[3:] == (3,) and shape.count(None) in (1, 3))
        or len(output) not in (2, 4)
    ):
        raise ValueError(
            f"{path} maps {shape} to {output}: use a network from [n, h, w, 3] to [n, d] or "
            "[n, h, w, d]."
        )
    size = None if shape[1] is None else shape[1:3]

    def prepare(image):
        return (resize(image, size) if size else image)[:, :, ::-1] - CAFFE_MEAN

    def features(batch):
        maps = np.asarray(network.predict_on_batch(batch), np.float32)
        return maps.mean(axis=(1, 2)) if maps.ndim == 4 else maps

    return Features(
        name=path.name,
        sha256=_sha256(path),
        resizing=f"Pillow's antialiased bicubic to {size[0]} x {size[1]}" if size else "none",
        one_size=size is None,
        prepare=prepare,
        network=features,
    )


def _network(path: Path) -> keras.Model:
    if path.suffix.lower() == ".h5":
        with h5py.File(path) as file:
            count_weights(file, path.stat().st_size)
            if "model_config" not in file.attrs and "fire9" in file:
                return load_squeezenet(file)
    return load_model(path)


# === Inception ===


def _inception(resizing: str) -> Features:
    try:
        import torch
        from cleanfid import downloads_helper
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer
    except ImportError as error:
        raise ValueError(
            f'Inception needs another package ({error}): pip install "tf_cyclegan[metrics]"'
        ) from None
    path = _inception_weights(downloads_helper)
    clean = resizing == "clean"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = InceptionV3W(str(path.parent), download=False, resize_inside=not clean).to(device)

    def features(batch):
        with torch.no_grad():
            channels_first = torch.from_numpy(batch.transpose(0, 3, 1, 2).astype(np.float32))
            return network(channels_first.to(device)).cpu().numpy()

    return Features(
        name=f"inception-{resizing}",
        sha256=INCEPTION_SHA256,
        resizing="Pillow's antialiased bicubic to 299 x 299, unrounded"
        if clean
        else "bilinear without antialiasing to 299 x 299, inside the network",
        one_size=False,
        prepare=build_resizer("clean" if clean else "legacy_tensorflow"),
        network=features,
    )


def _inception_weights(downloads_helper) -> Path:
    """Returns the weights file, which clean-fid downloads if needed, and checks its hash."""
    cache = cache_folder().parent
    path = cache / INCEPTION_FILE
    if not path.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as part:
                os.replace(downloads_helper.check_download_inception(part), path)
        except OSError as error:
            raise ValueError(
                f"the Inception weights cannot be downloaded ({error}): "
                f"save {downloads_helper.inception_url} as {path}"
            ) from None
    if _sha256(path) != INCEPTION_SHA256:
        raise ValueError(
            f"{path} does not have the SHA-256 that clean-fid expects: remove it, and save "
            f"{downloads_helper.inception_url} there."
        )
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
