"""Folders of picture files as training domains."""

from __future__ import annotations

import os
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
    )


def load_folders(
    data_dir: Folder | None = None,
    data_a: Folder | None = None,
    data_b: Folder | None = None,
) -> dict[str, PictureSet]:
    """Two domains from disk, either way of naming them.

    Args:
        data_dir: holds the folders trainA and trainB, perhaps testA and testB.
        data_a: the training pictures of domain a, given instead of `data_dir` and with `data_b`.
        data_b: the same of domain b.

    Returns:
        "trainA", "trainB" and, where there, "testA", "testB" -> pictures.

    Raises:
        DatasetError: if the arguments do not fit together, or a folder is missing or empty.
    """
    if data_dir is None:
        if data_a is None or data_b is None:
            raise DatasetError(
                "no pictures named: give data_a and data_b, or data_dir with trainA and trainB"
            )
        return {
            "trainA": folder_pictures(data_a),
            "trainB": folder_pictures(data_b),
        }
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
    return {split: folder_pictures(root / split) for split in splits}
