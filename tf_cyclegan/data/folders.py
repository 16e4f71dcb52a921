"""Reads folders of image files as training domains."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from tf_cyclegan.data.image_files import (
    SUFFIXES,
    DatasetError,
    ImageError,
    ImageSet,
    read_image,
)

Folder = str | os.PathLike[str]


def list_images(
    folder: Folder, recursive: bool = False, without: Folder | None = None
) -> list[Path]:
    """Lists the image files in a folder, sorted by their path relative to it.

    One line on stderr counts and names what was skipped: other suffixes, hidden files, broken
    links, and sub-folders that are not searched.

    Args:
        folder: the folder.
        recursive: whether to search sub-folders too, and follow links to folders; hidden
            sub-folders, run folders and those already visited are skipped.
        without: a sub-folder to skip, such as one for translations.

    Raises:
        DatasetError: if the folder does not exist, is not a folder, or contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        cause = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{printable(folder)} {cause}: give a folder that holds images")
    found: list[Path] = []
    others: list[str] = []
    seen = {Path(without).resolve()} if without else set()
    waiting = [folder]
    try:
        while waiting:
            inside = waiting.pop()
            seen.add(inside.resolve())
            for path in inside.iterdir():
                name = path.relative_to(folder).as_posix()
                hidden = path.name.startswith(".")
                if path.is_dir():
                    searched = recursive and not hidden and not is_run_folder(path)
                    if searched and path.resolve() not in seen:
                        seen.add(path.resolve())
                        waiting.append(path)
                    else:
                        others.append(f"{name}/")
                elif path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
                    found.append(path)
                else:
                    others.append(name)
    except OSError as error:
        raise DatasetError(
            f"{printable(folder)} cannot be read ({error.strerror}): check its permissions"
        ) from error
    folders = any(name.endswith("/") for name in others) and not recursive
    remedy = "use --recursive for sub-folders" if folders else "check that no image is missing"
    if not found:
        raise DatasetError(
            f"{printable(folder)} contains no images ({' '.join(SUFFIXES)}): add some or give "
            f"another folder{', or ' + remedy if folders else ''}"
        )
    if others:
        print(
            f"{printable(folder)}: skipped what is not an image, {len(others)} in all "
            f"({_some(others)}): {remedy}",
            file=sys.stderr,
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def is_run_folder(path: Path) -> bool:
    """Returns whether a folder is that of a training run, whose images are its own results."""
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def printable(name: object) -> str:
    """Returns a file name as one printable line, with "?" for other characters."""
    text = str(name).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "?" for c in text)


def _some(names: Sequence[str]) -> str:
    """Returns the first few names, for a message."""
    shown = ", ".join(map(printable, sorted(names)[:3]))
    return shown + (", ..." if len(names) > 3 else "")


def folder_images(folder: Folder, recursive: bool = False) -> ImageSet:
    """Returns the images of a folder in RGB, read from disk at each access.

    Their names are paths relative to the folder: "a.jpg" or, with `recursive`, "day/a.jpg".

    Raises:
        DatasetError: as in `list_images`.
    """
    paths = list_images(folder, recursive)
    return ImageSet(
        names=tuple(path.relative_to(folder).as_posix() for path in paths),
        read=lambda index: read_image(paths[index]),
        paths=tuple(paths),
    )


def file_images(paths: Sequence[Folder]) -> ImageSet:
    """Returns the images of a list of files in RGB, read from disk at each access.

    Raises:
        DatasetError: the list is empty.
    """
    files = tuple(Path(path) for path in paths)
    if not files:
        raise DatasetError("the list of images is empty: give some files, or a folder")
    names = tuple(path.as_posix() for path in files)
    return ImageSet(names, lambda index: read_image(files[index]), files)


def load_folders(
    data_dir: Folder | None = None,
    data_a: Folder | None = None,
    data_b: Folder | None = None,
    paired: bool = False,
    recursive: bool = False,
    side_by_side: bool = False,
    only_test: bool = False,
) -> dict[str, ImageSet]:
    """Loads two domains from one folder of splits, or from one folder for each domain.

    Args:
        data_dir: folder that holds trainA and trainB, and optionally testA and testB.
        data_a: folder of the training images of domain a, instead of `data_dir`.
        data_b: the same for domain b.
        paired: whether images with the same name are pairs; see `pair_up`.
        recursive: whether to search sub-folders too.
        side_by_side: whether each image holds a pair, a on the left and b on the right, as in the
            pix2pix datasets: `data_dir` then holds train, and optionally test or val.
        only_test: whether training images may be missing in `data_dir` if it holds test images.

    Returns:
        A dict from "trainA", "trainB" and, if they exist, "testA", "testB" to images; for pairs
        also "truthA" and "truthB", the ground truth for the test images of that domain.

    Raises:
        DatasetError: if the arguments do not fit together, or a folder is missing or empty.
    """
    if side_by_side:
        if data_dir is None or data_a is not None or data_b is not None:
            raise DatasetError("side_by_side takes one folder: give data_dir alone")
        return _load_side_by_side(Path(data_dir), recursive, only_test)
    if data_dir is None:
        if data_a is None or data_b is None:
            missing = [
                name for name, value in (("data_a", data_a), ("data_b", data_b)) if not value
            ]
            raise DatasetError(
                f"no folder for {' and '.join(missing)}: give data_a and data_b, or data_dir with "
                "trainA and trainB"
            )
        sets = {
            "trainA": folder_images(data_a, recursive),
            "trainB": folder_images(data_b, recursive),
        }
        return pair_up(sets) if paired else sets
    if data_a is not None or data_b is not None:
        raise DatasetError("data_dir excludes data_a and data_b: give either data_dir or those two")

    root = Path(data_dir)
    needed, other_way = ("trainA", "trainB"), ", or give data_a and data_b"
    if only_test:
        other_way = ""
        if not all((root / split).is_dir() for split in needed):
            needed = ("testA", "testB")
    found = _folders(root, needed, other_way)
    splits = [split for split in ("trainA", "trainB", "testA", "testB") if split in found]
    sets = {split: folder_images(root / split, recursive) for split in splits}
    return pair_up(sets) if paired else sets


def _folders(root: Path, needed: Sequence[str], other_way: str) -> list[str]:
    """Returns the names of the folders in a dataset's folder, which must hold the needed ones."""
    if not root.is_dir():
        raise DatasetError(
            f"{printable(root)} is not a folder: give one that holds {' and '.join(needed)}"
        )
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
    missing = [split for split in needed if split not in found]
    if missing:
        raise DatasetError(
            f"{printable(root)} has no folder {' and no '.join(missing)} (its folders: "
            f"{', '.join(map(printable, found[:10])) or 'none'}): rename them{other_way}"
        )
    return found


def _load_side_by_side(root: Path, recursive: bool, only_test: bool) -> dict[str, ImageSet]:
    has_test = any((root / split).is_dir() for split in ("test", "val"))
    needed = () if only_test and has_test else ("train",)
    found = _folders(root, needed, ", or leave --side_by_side out")
    test = next((split for split in ("test", "val") if split in found), None)
    sets = {}
    for split, folder in {"train": "train", "test": test}.items():
        if folder in found:
            both = folder_images(root / folder, recursive)
            sets[f"{split}A"], sets[f"{split}B"] = _half(both, 0), _half(both, 1)
    if test:
        sets |= {"truthA": sets["testB"], "truthB": sets["testA"]}
    return sets


def _half(images: ImageSet, side: int) -> ImageSet:
    """Returns the left (0) or right (1) halves of images."""

    def read(index: int) -> np.ndarray:
        image = images.read(index)
        height, width = image.shape[:2]
        if width % 2 or width < height:
            raise ImageError(
                f"{printable(images.names[index])}: {width} x {height} pixels are not two images "
                "side by side, since "
                f"{'its width is odd' if width % 2 else 'it is taller than wide'}: leave "
                "--side_by_side out, or remove it"
            )
        # Copied, because a view would keep the whole image in memory.
        return image[:, side * width // 2 : (side + 1) * width // 2].copy()

    return ImageSet(images.names, read)


def pair_up(sets: dict[str, ImageSet]) -> dict[str, ImageSet]:
    """Sorts domain b like its counterparts in domain a, and adds the ground truth of test images.

    Names are compared without their suffix and without a final "_A" or "_B", as in the paper's
    datasets: 1_A.jpg belongs to 1_B.jpg, and 1.jpg to 1.png. Composed and decomposed Unicode forms
    of a letter are equal (macOS writes the latter). Sub-folders are part of the name.

    Raises:
        DatasetError: an image has no counterpart, or more than one.
    """
    result = dict(sets)
    for split in ("train", "test"):
        a, b = sets.get(f"{split}A"), sets.get(f"{split}B")
        if a and b:
            stems_a, stems_b = _stems(a, f"{split}A"), _stems(b, f"{split}B")
            if alone := sorted(stems_a.keys() ^ stems_b.keys()):
                raise DatasetError(
                    f"{len(alone)} images of {split}A and {split}B have no counterpart "
                    f"({_some(alone)}): give both images of a pair the same name, or leave "
                    "--paired out"
                )
            result[f"{split}B"] = _reordered(b, [stems_b[stem] for stem in stems_a])
    if {"testA", "testB"} <= result.keys():
        result |= {"truthA": result["testB"], "truthB": result["testA"]}
    return result


def _stems(images: ImageSet, folder: str) -> dict[str, int]:
    """Returns a dict from the part of each name that its counterpart shares to its index."""
    stems: dict[str, int] = {}
    for place, name in enumerate(images.names):
        stem = re.sub(r"_[AB]$", "", PurePath(name).with_suffix("").as_posix())
        first = stems.setdefault(unicodedata.normalize("NFC", stem), place)
        if first != place:
            raise DatasetError(
                f"{folder} holds two images with the same name ({printable(images.names[first])}, "
                f"{printable(name)}): rename or remove one"
            )
    return stems


def _reordered(images: ImageSet, order: Sequence[int]) -> ImageSet:
    names = tuple(images.names[i] for i in order)
    paths = tuple(images.paths[i] for i in order) if images.paths else None
    return ImageSet(names, lambda index: images.read(order[index]), paths)
