"""Resized images in a file on disk: made once, and shared by all later starts and processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from tf_cyclegan.data.image_files import DatasetError, ImageError

FORMAT = 1  # of the files below; to be raised where images are decoded or resized differently
REMEDY = "use --cache=none, or another folder by the environment variable XDG_CACHE_HOME"


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/tf_cyclegan/images, or ~/.cache/tf_cyclegan/images: safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tf_cyclegan" / "images"


def data_key(paths: Sequence[Path], settings: tuple) -> str:
    """A name for these files, as they are now, under these settings.

    It is another one once a file is added, removed, renamed, or has another size or time of change.

    Raises:
        ImageError: a file is gone or cannot be looked at.
    """
    digest = hashlib.sha256(repr((FORMAT, Image.__version__, settings)).encode())
    for path in paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror}): check it") from None
        digest.update(os.fsencode(os.path.abspath(path)))
        digest.update(f"\0{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


class CachedImages:
    """Images in a file that `write_cache` has made, mapped into memory and read on access.

    The file holds the pixels of all images, one after the other, and then their sizes, int32
    `[n, 2]`. What is read of it is page cache, which the system takes back when it needs memory.

    Args:
        path: the file.
        channels: of every image.
        count: of images.

    Attributes:
        sizes: (h, w) of each image, `[n, 2]`.

    Raises:
        OSError: it is not there.
        ValueError: it holds something else.
    """

    def __init__(self, path: Path, count: int, channels: int):
        self.pixels = np.memmap(path, np.uint8, "r")
        self.channels = channels
        sizes = self.pixels[-8 * count :]
        self.sizes = sizes.view(np.int32).reshape(count, 2).astype(np.int64)
        self.ends = np.cumsum(self.sizes.prod(axis=1) * channels)
        if self.ends[-1] + sizes.size != self.pixels.size:
            raise ValueError(f"{path} holds other images.")

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.sizes[index]
        end = self.ends[index]
        pixels = self.pixels[end - height * width * self.channels : end]
        return pixels.reshape(height, width, self.channels)


def cached_images(
    key: str, count: int, channels: int, expected_bytes: int, images: Iterable[np.ndarray]
) -> CachedImages:
    """The cache of this key, made now if it is not there yet.

    Processes that start together make it once: the others wait. One that is killed meanwhile leaves
    a part that the next one writes anew.

    Args:
        key: from `data_key`.
        count, channels: of the images.
        expected_bytes: about what the images take, uncompressed.
        images: uint8 `[h, w, channels]`, decoded as they are asked for.

    Raises:
        DatasetError: the folder cannot be written, or the disk has too little room.
    """
    folder = cache_folder()
    path, part = folder / f"{key}.pixels", folder / f"{key}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{key}.lock"):
            with contextlib.suppress(OSError, ValueError):
                return CachedImages(path, count, channels)
            free = shutil.disk_usage(folder).free
            if expected_bytes > free:
                raise DatasetError(
                    f"the resized images take {expected_bytes / 1e9:.1f} GB, and {folder} has "
                    f"{free / 1e9:.1f} GB free: {REMEDY}"
                )
            try:
                _write(part, images)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            return CachedImages(path, count, channels)
    except OSError as error:
        raise DatasetError(
            f"images cannot be kept in {folder} ({error.strerror or error}): {REMEDY}"
        ) from None


def _write(path: Path, images: Iterable[np.ndarray]) -> None:
    # Not through a memory map, where a full disk would kill the process.
    sizes = []
    with open(path, "wb") as file:
        for image in images:
            file.write(np.ascontiguousarray(image).data)
            sizes.append(image.shape[:2])
        file.write(np.array(sizes, np.int32).data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _lock(path: Path):
    lock = FileLock(path)  # of the system, which frees it when a process is killed
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another process is reading these images into the cache: waiting ...", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cached_sizes(key: str, count: int, sizes: Iterable[tuple[int, int]]) -> np.ndarray:
    """(h, w) of each image, `[n, 2]`, kept under this key if the cache folder can be written.

    Args:
        key: from `data_key`.
        count: of the images.
        sizes: read from the files as they are asked for.
    """
    path = cache_folder() / f"{key}.sizes.npy"
    with contextlib.suppress(OSError, ValueError):
        kept = np.load(path, allow_pickle=False)
        if kept.shape == (count, 2):
            return kept
    found = np.array(list(sizes), np.int64).reshape(count, 2)
    part = path.with_name(f"{key}.{os.getpid()}.npy")
    with contextlib.suppress(OSError):  # it only saves time
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, found)
        os.replace(part, path)
    return found
