"""A picture of any size in, its translation of the same size out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_cyclegan.checkpoints import read_config
from tf_cyclegan.data import load_dataset
from tf_cyclegan.data.folders import list_pictures, printable
from tf_cyclegan.data.pictures import (
    MAX_PIXELS,
    SUFFIXES,
    PictureError,
    PictureSet,
    read_picture,
    to_channels,
    to_float,
    to_uint8,
)
from tf_cyclegan.interop import load_generator

SMALLEST = 8  # pixels a side, below which the ResNet's deepest map cannot be mirrored


def load_translator(run_dir_or_file, direction: str) -> Callable[[np.ndarray], np.ndarray]:
    """`find_generator`, for use on pictures: see `translator`."""
    return translator(find_generator(run_dir_or_file, direction))


def find_generator(run_dir_or_file, direction: str):
    """Loads one direction of a run folder, or a generator's own file.

    Args:
        run_dir_or_file: a run folder, a folder of imported weights, a `.keras` or a `.pth` file.
        direction: "a2b" or "b2a"; which file of a folder is meant.

    Returns:
        A generator of `tf_cyclegan.generators`, built.

    Raises:
        ValueError: nothing is there, or it is no generator.
    """
    path = Path(run_dir_or_file)
    if path.is_dir():
        path = path / f"{direction}.keras"
    if not path.is_file():
        raise ValueError(
            f"{path} is not there: name a run folder that has saved once, one written by "
            "import_weights.py, or a .keras or .pth file."
        )
    generator = load_generator(path)
    if not hasattr(generator, "input_channels"):
        raise ValueError(f"{path} holds a {type(generator).__name__}: use a generator's file.")
    return generator


def translator(generator) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps a generator so that it takes a picture of any size and gives one of the same size.

    The picture is mirrored outwards at its right and lower border up to the next multiple that the
    generator needs, and the translation is cropped back.

    Args:
        generator: `[n, h, w, c]` to `[n, h, w, c']` in [-1, 1], one of this package.

    Returns:
        A function of uint8 `[h, w, 1 or 3]` to uint8 `[h, w, c']`; gray and RGB are exchanged
        where the generator takes the other. It raises a `PictureError` where memory runs out.
    """
    multiple, channels = generator.multiple, generator.input_channels
    run = tf.function(
        lambda image: generator(image, training=False),
        input_signature=[tf.TensorSpec([1, None, None, channels])],
    )

    def translate(picture):
        height, width = picture.shape[:2]
        picture = to_channels(picture, channels)
        pad = [(0, padded(side, multiple) - side) for side in (height, width)]
        image = np.pad(to_float(picture), [*pad, (0, 0)], mode="symmetric")
        try:
            fake = run(image[np.newaxis])
        except tf.errors.ResourceExhaustedError:
            raise PictureError(
                f"{width} x {height} pixels need more memory than there is: use --resize"
            ) from None
        return to_uint8(fake.numpy()[0, :height, :width])

    return translate


def padded(side: int, multiple: int) -> int:
    """The next multiple, at least SMALLEST, that a side is padded to."""
    return -(-max(side, SMALLEST) // multiple) * multiple


def find_pictures(
    inputs,
    run_dir,
    direction: str,
    output=None,
    max_pixels: int = MAX_PIXELS,
    recursive: bool = False,
) -> PictureSet:
    """The pictures to translate in one direction.

    Args:
        inputs: paths of pictures and of folders of pictures. Of a folder that holds testA and
            testB, the one of the direction's own domain is taken. Empty for the test pictures of
            the run's data set.
        run_dir: the run folder, for the latter.
        direction: "a2b" or "b2a".
        output: the folder that translations will go to, if any; it is not searched.
        max_pixels: larger pictures are refused as they are read; of inputs alone.
        recursive: whether to search the sub-folders of inputs too.

    Returns:
        A `PictureSet` whose names are file names, or paths in their input folder, no two alike.

    Raises:
        ValueError: nothing is there, two pictures have one name, or a translation would replace
            its own original.
    """
    split = "testA" if direction == "a2b" else "testB"
    if not inputs:
        try:
            config = read_config(run_dir)
        except ValueError as error:
            raise ValueError(f"{error} Name pictures by --input.") from None
        if config.data_dir and output:
            for name in ("test", "val") if config.side_by_side else (split,):
                originals = Path(config.data_dir) / name
                if originals.resolve() == Path(output).resolve():
                    raise ValueError(f"{output} holds the originals: use another --output.")
        sets = load_dataset(config)
        if split not in sets:
            raise ValueError(f"{run_dir} was trained without {split}: name pictures by --input.")
        pictures = sets[split]
        names = [n if Path(n).suffix.lower() in SUFFIXES else f"{n}.png" for n in pictures.names]
        return PictureSet(tuple(names), pictures.read)
    seen: dict[str, Path] = {}
    for path in map(Path, inputs):
        folder = path / split if (path / split).is_dir() else path
        if path.is_file():
            found = {path.name: path}
        else:
            paths = list_pictures(folder, recursive, output)
            found = {file.relative_to(folder).as_posix(): file for file in paths}
        for name, file in found.items():
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
    return PictureSet(tuple(seen), lambda i: read_picture(files[i], max_pixels=max_pixels))
