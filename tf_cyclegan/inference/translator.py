"""Translates images of any size to images of the same size."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tf_cyclegan.cyclegan import CycleGAN
from tf_cyclegan.data.color import to_srgb
from tf_cyclegan.data.folders import list_images, printable
from tf_cyclegan.data.image_files import (
    MAX_PIXELS,
    ImageError,
    ImageSet,
    on_white,
    read_image,
    to_channels,
    to_float,
    to_uint8,
)
from tf_cyclegan.generators import as_generator
from tf_cyclegan.interop import AUTHORS, load_generator

SMALLEST = 8  # side in pixels that reflection padding in the residual blocks needs


def load_translator(
    run_dir_or_file: str | os.PathLike[str], direction: str = "a2b", multiple: int = 32
) -> Callable[[Any], np.ndarray]:
    """Loads a trained generator as a function of one image of any size.

    Args:
        run_dir_or_file: a run folder, a folder of imported weights, a `.keras` or a `.pth` file.
        direction: "a2b" or "b2a", the generator to load from a folder or a saved `CycleGAN`.
        multiple: for networks of your own, what height and width must be a multiple of: images are
            padded to it.

    Returns:
        A function that takes an image (a PIL image, or uint8 `[h, w]`, `[h, w, 1]`, `[h, w, 3]` or
        `[h, w, 4]`) and returns its translation, uint8 `[h, w, c]`; see `translator`.

    Raises:
        ValueError: the file does not exist, contains no generator, or is named after the other
            direction.

    Example:

    >>> translate = tf_cyclegan.load_translator("monet.keras", "a2b")
    >>> painting = translate(tf_cyclegan.read_image("holiday.jpg"))
    """
    return translator(find_generator(run_dir_or_file, direction, multiple))


def find_generator(
    run_dir_or_file: str | os.PathLike[str], direction: str, multiple: int = 32
) -> keras.Model:
    """Loads a generator from a run folder, a saved `CycleGAN`, or a file of its own.

    Args:
        run_dir_or_file: a run folder, a folder of imported weights, a `.keras` or a `.pth` file.
        direction: "a2b" or "b2a", the generator to load from a folder or a `CycleGAN`.
        multiple: for networks of your own, what height and width must be a multiple of.

    Returns:
        A built generator, as from `tf_cyclegan.generators.as_generator`.

    Raises:
        ValueError: the file does not exist, contains no generator, or is named after the other
            direction.
    """
    if direction not in ("a2b", "b2a"):
        raise ValueError(f'direction is {direction!r}: use "a2b" or "b2a".')
    path = Path(run_dir_or_file)
    if path.is_dir():
        if direction not in directions_in(path):
            [other] = directions_in(path)
            raise ValueError(f"{path} has only {other}.keras: use --direction={other}.")
        path = path / f"{direction}.keras"
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: name a run folder with a checkpoint, one written by "
            "tf-cyclegan import-weights, or a .keras or .pth file."
        )
    generator = load_generator(path)
    if isinstance(generator, CycleGAN):
        generator = generator.generators()[direction]
    elif (named := direction_of(path)) not in (None, direction):
        raise ValueError(
            f"{path} is named after {named}: use the direction {named} (--direction={named}), or "
            "rename the file."
        )
    try:
        return as_generator(generator, multiple)
    except ValueError as error:
        raise ValueError(f"{path} contains no generator: {error}") from None


def direction_of(path: Path) -> str | None:
    """Returns the direction in the name of a generator's file, ours or the authors'."""
    names = [name for name in ("a2b", "b2a") if name in path.stem or AUTHORS[name] in path.stem]
    return names[0] if len(names) == 1 else None


def is_single_generator(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file holds one generator, and not a saved `CycleGAN`; False for folders."""
    return Path(path).is_file() and not isinstance(load_generator(path), CycleGAN)


def directions_in(run_dir_or_file: str | os.PathLike[str]) -> list[Literal["a2b", "b2a"]]:
    """Returns the directions of the generators in a folder, or both for anything else."""
    both: list[Literal["a2b", "b2a"]] = ["a2b", "b2a"]
    return [d for d in both if (Path(run_dir_or_file) / f"{d}.keras").exists()] or both


def translator(generator: keras.Model) -> Callable[[Any], np.ndarray]:
    """Returns a function that translates an image of any size into one of the same size.

    The image is padded by mirroring, at its right and lower border, to the next size that the
    generator supports, and the translation is cropped to the original size.

    Args:
        generator: a Keras model of `[n, h, w, c]` to `[n, h, w, c']` in [-1, 1].

    Returns:
        A function of anything that `to_image` takes to uint8 `[h, w, c']`. Images are converted
        between gray and RGB if the generator needs it. It raises a ValueError for other arguments,
        and an `ImageError` if memory runs out.
    """
    if isinstance(generator, CycleGAN):
        raise ValueError('a CycleGAN has two generators: pass model.generators()["a2b"] or "b2a".')
    generator = as_generator(generator)
    multiple, channels = generator.multiple, generator.input_channels
    run = tf.function(
        lambda image: tf.cast(generator(image, training=False), tf.float32),
        input_signature=[tf.TensorSpec([1, None, None, channels])],
    )

    def translate(pixels: Any) -> np.ndarray:
        pixels = to_image(pixels)
        height, width = pixels.shape[:2]
        pixels = to_channels(pixels, channels)
        pad = [(0, padded(side, multiple) - side) for side in (height, width)]
        image = np.pad(to_float(pixels), [*pad, (0, 0)], mode="symmetric")
        try:
            fake = run(image[np.newaxis])
        except tf.errors.ResourceExhaustedError:
            raise ImageError(
                f"{width} x {height} pixels need more memory than is available: use --resize"
            ) from None
        return to_uint8(fake.numpy()[0, :height, :width])

    return translate


def to_image(image: Any) -> np.ndarray:
    """Converts an image in any of the usual forms to uint8 `[h, w, 1 or 3]`.

    Args:
        image: a PIL image; or uint8 `[h, w]`, `[h, w, 1]`, `[h, w, 3]` or `[h, w, 4]`, as an array
            or anything that NumPy converts to one. Transparent images are composited on white, as
            in `read_image`, and PIL images are rotated by their EXIF orientation and converted from
            their color profile to sRGB.

    Raises:
        ValueError: the image is anything else, such as a batch or floats.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"a PIL image of mode {image.mode} has no defined black and white: save it as a "
                "file and use read_image, or convert it to L or RGB."
            )
        pil = ImageOps.exif_transpose(image)
        if profile := image.info.get("icc_profile"):
            pil = to_srgb(pil, profile)
        if pil.mode == "1":
            pil = pil.convert("L")
        return np.atleast_3d(np.asarray(on_white(pil)))
    if isinstance(image, str | os.PathLike):
        raise ValueError(f"{image} is a path: use tf_cyclegan.read_image to read the file.")
    array = np.asarray(image)
    shape = array.shape
    if len(shape) == 2:
        array = array[..., np.newaxis]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in shape:
        remedy = {4: "translate a batch one image at a time"}.get(
            len(shape), "scale a float image x from [-1, 1] with np.rint((x + 1) * 127.5)"
        )
        raise ValueError(
            "an image to translate must be a PIL image or uint8 [h, w], [h, w, 1], [h, w, 3] or "
            f"[h, w, 4], not {array.dtype} {list(shape)}: {remedy}."
        )
    return np.asarray(on_white(Image.fromarray(array))) if array.shape[2] == 4 else array


def padded(side: int, multiple: int) -> int:
    """Returns the next multiple, at least SMALLEST, to which a side is padded."""
    return -(-max(side, SMALLEST) // multiple) * multiple


def find_images(
    inputs: Iterable[str | os.PathLike[str]],
    direction: str,
    output: str | os.PathLike[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    recursive: bool = False,
) -> ImageSet:
    """Finds the images to translate in one direction.

    Args:
        inputs: paths of images and of folders of images. In a folder with testA and testB, the
            source domain of the direction is used.
        direction: "a2b" or "b2a".
        output: the folder for the translations, if any; it is not searched.
        max_pixels: reading a larger image in `inputs` is an error.
        recursive: whether to search the sub-folders of inputs, too.

    Returns:
        An `ImageSet` whose names are file names, or paths in their input folder, all different.

    Raises:
        ValueError: there are no images, two have the same name, or a translation would replace
            its original.
    """
    split = "testA" if direction == "a2b" else "testB"
    seen: dict[str, Path] = {}
    for path in map(Path, inputs):
        folder = path / split if (path / split).is_dir() else path
        if path.is_file():
            found = {path.name: path}
        else:
            paths = list_images(folder, recursive, output)
            found = {file.relative_to(folder).as_posix(): file for file in paths}
        for name, file in found.items():
            if name in seen and seen[name].resolve() == file.resolve():
                continue
            if name in seen:
                raise ValueError(
                    f"{printable(seen[name])} and {printable(file)} would both become "
                    f"{printable(name)}: translate them into different folders."
                )
            if output and file.resolve() == (Path(output) / name).resolve():
                raise ValueError(
                    f"{printable(file)} would be replaced by its translation: use another --output."
                )
            seen[name] = file
    files = list(seen.values())
    return ImageSet(tuple(seen), lambda i: read_image(files[i], max_pixels=max_pixels))
