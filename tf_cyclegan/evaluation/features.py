"""Images to feature vectors, by a network that was trained on other images.

Two kinds: Inception, whose distances may stand beside published ones, and any Keras network, whose
distances are relative: they say better or worse between two runs that used the same file.
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

from tf_cyclegan.data.image_files import to_channels
from tf_cyclegan.data.resizing import resize
from tf_cyclegan.evaluation.squeezenet import load_squeezenet
from tf_cyclegan.model_archive import count_weights, load_model, reason

BATCH = 32
# Caffe preprocessing: the mean colour of ImageNet in the order blue, green, red.
CAFFE_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
INCEPTION_FILE = "inception-2015-12-05.pt"
# TorchScript is a program: only the one that clean-fid means is run.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


@dataclass(frozen=True)
class Features:
    """A function of images to feature vectors, and what a report must say about it.

    Attributes:
        name: the network.
        sha256: of its weights file, in hexadecimal.
        resizing: how images come to the size that the network takes, in words.
        one_size: whether images must all be of one size, because none are resized.
        prepare: uint8 `[h, w, 3]` -> one image as the network takes it.
        network: a batch of such images -> float32 `[n, d]`.
    """

    name: str
    sha256: str
    resizing: str
    one_size: bool
    prepare: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    network: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    def __call__(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Feature vectors, in the order of the images.

        Args:
            images: uint8 `[h, w, 1 or 3]`, read one batch at a time; gray becomes RGB.

        Returns:
            float32 `[n, d]`.

        Raises:
            ValueError: no images, images of another kind, or of several sizes where the
                network takes them as they are.
        """
        rows: list[np.ndarray] = []
        prepared = (self.prepare(_rgb(image)) for image in images)
        for shape, group in groupby(prepared, np.shape):
            if self.one_size and rows:
                raise ValueError(
                    f"{self.name} takes images as they are, and one of {shape[:2]} follows "
                    "others: resize them all to one size first."
                )
            while batch := list(islice(group, BATCH)):
                rows.append(self.network(np.stack(batch)).astype(np.float32))
        if not rows:
            raise ValueError("there are no images to take features of: name a folder with some.")
        return np.concatenate(rows)


def load_features(spec: str) -> Features:
    """A feature network by name or file.

    "inception-clean", short "inception": Inception v3 of Heusel et al. 2017 by the library
    clean-fid; images of any size are resized to 299 x 299 by Pillow's antialiased bicubic
    (Parmar et al. 2022). "inception-legacy": the same, but resized inside the network by bilinear
    interpolation without antialiasing, as in the first FID code and most published numbers.
    The two differ by several points: never compare one with the other. Weights are fetched once.

    `FILE.keras` or `FILE.h5`: a whole Keras network (architecture and weights) of one RGB image
    in, a map or a vector out; a map is averaged over its pixels. It gets Caffe preprocessing: blue,
    green, red, 0 to 255, minus `CAFFE_MEAN`. Files with code inside (Lambda layers) are refused.
    Weights without an architecture are too, but for those of SqueezeNet (`squeezenet.py`).

    Args:
        spec: one of these names, or a path.

    Raises:
        ValueError: the name is unknown, the file is no such network, or the Inception weights or
            the packages for them cannot be had.
    """
    if spec in ("inception", "inception-clean"):
        return _inception("clean")
    if spec == "inception-legacy":
        return _inception("legacy")
    if Path(spec).suffix.lower() not in (".keras", ".h5"):
        raise ValueError(
            f"{spec} names no features: use inception-clean, inception-legacy, or the path of a "
            "Keras network that ends in .keras or .h5."
        )
    return _keras(Path(spec))


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"features are of images, uint8 [h, w, 1 or 3], not of {image.dtype} "
            f"{list(image.shape)}: read them by read_image."
        )
    return to_channels(image, 3)


# === Keras ===


def _keras(path: Path) -> Features:
    if not path.is_file():
        raise ValueError(f"{path} is not there: name a Keras network by its file.")
    try:
        network = _network(path)
    except Exception as error:  # Keras raises nearly anything on files of other kinds
        raise ValueError(
            f"{path} cannot be loaded ({reason(error)}): use a whole network saved by model.save."
        ) from None
    # Lists of shapes where there are several; subclassed models have none.
    shape, output = (getattr(network, f"{side}_shape", None) for side in ("input", "output"))
    if (
        not (isinstance(shape, tuple) and isinstance(output, tuple))
        or not (shape[3:] == (3,) and shape.count(None) in (1, 3))
        or len(output) not in (2, 4)
    ):
        raise ValueError(
            f"{path} maps {shape} to {output}: use a network of [n, h, w, 3] to [n, d] or "
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
            f'Inception needs another package ({error}): pip install -e ".[metrics]"'
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
    """The weights file, fetched by clean-fid where it is not there yet, and checked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tf_cyclegan"
    path = cache / INCEPTION_FILE
    if not path.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as part:
                os.replace(downloads_helper.check_download_inception(part), path)
        except OSError as error:
            raise ValueError(
                f"the Inception weights cannot be fetched ({error}): "
                f"put {downloads_helper.inception_url} at {path}"
            ) from None
    if _sha256(path) != INCEPTION_SHA256:
        raise ValueError(
            f"{path} is not the file that clean-fid means, by its SHA-256: remove it, and put "
            f"{downloads_helper.inception_url} there."
        )
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
