"""Folders of picture files as training domains."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tf_cyclegan.data.pictures import (
    SUFFIXES,
    DatasetError,
    PictureSet,
    read_picture,
)

Folder = str | os.PathLike[str]


def list_pictures(folder: Folder) -> list[Path]:
    """The picture files right inside a folder, sorted by name; hidden ones are skipped.

    Raises:
        DatasetError: if the folder is missing, is no folder, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        cause = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {cause}: name a folder that holds pictures")
    try:
        paths = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be read ({error.strerror}): check its rights"
        ) from error
    if not paths:
        raise DatasetError(
            f"{folder} holds no pictures ({' '.join(SUFFIXES)}): put some right into it, "
            "not into subfolders, or name another folder"
        )
    return sorted(paths, key=lambda path: path.name)


def folder_pictures(folder: Folder) -> PictureSet:
    """The pictures of one folder in RGB, read from disk at each access.

    Raises:
        DatasetError: as `list_pictures`.
    """
    paths = list_pictures(folder)
    return PictureSet(
        names=tuple(path.name for path in paths),
        read=lambda index: read_picture(paths[index]),
        paths=tuple(paths),
    )


def load_folders(
    data_dir: Folder | None = None,
    data_a: Folder | None = None,
    data_b: Folder | None = None,
    paired: bool = False,
) -> dict[str, PictureSet]:
    """Two domains from disk, either way of naming them.

    Args:
        data_dir: holds the folders trainA and trainB, perhaps testA and testB.
        data_a: the training pictures of domain a, given instead of `data_dir` and with `data_b`.
        data_b: the same of domain b.
        paired: whether pictures of one name are pairs; see `pair_up`.

    Returns:
        "trainA", "trainB" and, where there, "testA", "testB" -> pictures; of pairs also "truthA"
        and "truthB", the counterparts of the test pictures of that letter.

    Raises:
        DatasetError: if the arguments do not fit together, or a folder is missing or empty.
    """
    if data_dir is None:
        if data_a is None or data_b is None:
            raise DatasetError(
                "no pictures named: give data_a and data_b, or data_dir with trainA and trainB"
            )
        sets = {"trainA": folder_pictures(data_a), "trainB": folder_pictures(data_b)}
        return pair_up(sets) if paired else sets
    if data_a is not None or data_b is not None:
        raise DatasetError("data_dir excludes data_a and data_b: give the one or the other two")

    root = Path(data_dir)
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder: name one that holds trainA and trainB")
    found = sorted(path.name for path in root.iterdir() if path.is_dir())
    missing = [split for split in ("trainA", "trainB") if split not in found]
    if missing:
        raise DatasetError(
            f"{root} has no folder {' and no '.join(missing)} (its folders: "
            f"{', '.join(found[:10]) or 'none'}): rename them, or give data_a and data_b"
        )
    splits = [split for split in ("trainA", "trainB", "testA", "testB") if split in found]
    sets = {split: folder_pictures(root / split) for split in splits}
    return pair_up(sets) if paired else sets


def pair_up(sets: dict[str, PictureSet]) -> dict[str, PictureSet]:
    """The same sets, domain b in the order of domain a's counterparts, and the tests' truths.

    Names are compared without their suffix and without a last "_A" or "_B", as in the paper's
    data sets: 1_A.jpg belongs to 1_B.jpg, and 1.jpg to 1.png.

    Raises:
        DatasetError: a picture has no counterpart, or two.
    """
    result = dict(sets)
    for split in ("train", "test"):
        a, b = sets.get(f"{split}A"), sets.get(f"{split}B")
        if a and b:
            stems_a, stems_b = _stems(a, f"{split}A"), _stems(b, f"{split}B")
            if alone := sorted(stems_a.keys() ^ stems_b.keys()):
                shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
                raise DatasetError(
                    f"{len(alone)} pictures of {split}A and {split}B have no counterpart "
                    f"({shown}): give pairs one name, or leave --paired out"
                )
            result[f"{split}B"] = _reordered(b, [stems_b[stem] for stem in stems_a])
    if {"testA", "testB"} <= result.keys():
        result |= {"truthA": result["testB"], "truthB": result["testA"]}
    return result


def _stems(pictures: PictureSet, folder: str) -> dict[str, int]:
    """The part of each name that its counterpart shares -> the picture's place."""
    stems = {re.sub(r"_[AB]$", "", Path(name).stem): i for i, name in enumerate(pictures.names)}
    if len(stems) < len(pictures):
        raise DatasetError(f"{folder} holds two pictures of one name: pairs need different ones")
    return stems


def _reordered(pictures: PictureSet, order: Sequence[int]) -> PictureSet:
    names = tuple(pictures.names[i] for i in order)
    paths = tuple(pictures.paths[i] for i in order) if pictures.paths else None
    return PictureSet(names, lambda index: pictures.read(order[index]), paths)
