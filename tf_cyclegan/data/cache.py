"""Caches resized images in a file on disk, which later runs and other processes share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from tf_cyclegan.data.image_files import DatasetError, ImageError

FORMAT = 1  # version of the files below; raise it when decoding or resizing changes
REMEDY = "use --cache=none, or set the environment variable XDG_CACHE_HOME to another folder"


def cache_folder() -> Path:
    """Returns $XDG_CACHE_HOME/tf_cyclegan/images or ~/.cache/tf_cyclegan/images.

    You can delete this folder at any time.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tf_cyclegan" / "images"


def data_key(paths: Sequence[Path], settings: tuple) -> str:
    """Returns a cache key for files in their current state and for settings.

    The key changes when a file is added, removed or renamed, or its size or modification time
    changes.

    Raises:
        ImageError: a file does not exist or cannot be accessed.
    """
    digest = hashlib.sha256(repr((FORMAT, Image.__version__, settings)).encode())
    for path in paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror}): check the file") from None
        digest.update(os.fsencode(os.path.abspath(path)))
        digest.update(f"\0{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


class CachedImages:
    """The images of a cache file, mapped into memory and read on access.

    The file holds the pixels of all images, one after the other, and then their sizes, int32
    `[n, 2]`. The pages that are read are page cache, which the system frees when memory is short.

    Args:
        path: the file.
        channels: number of channels of every image.
        count: number of images.

    Attributes:
        sizes: (h, w) of each image, `[n, 2]`.

    Raises:
        OSError: the file does not exist.
        ValueError: the file holds something else.
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
    """Returns the cache for a key, and writes it first if it does not exist.

    If several processes start together, one writes the cache and the others wait. If that process
    is killed, the next one discards the partial file and writes it again.

    Args:
        key: from `data_key`.
        count, channels: number of images, and of their channels.
        expected_bytes: estimated size of the uncompressed images.
        images: uint8 `[h, w, channels]`, decoded lazily.

    Raises:
        DatasetError: the folder is not writable, or the disk does not have enough space.
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
            f"images cannot be cached in {folder} ({error.strerror or error}): {REMEDY}"
        ) from None


def _write(path: Path, images: Iterable[np.ndarray]) -> None:
    # No memory map: writing to one on a full disk kills the process.
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
    lock = FileLock(path)  # the system releases it when the process is killed
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
    """Returns (h, w) of each image, `[n, 2]`, and caches them if the cache folder is writable.

    Args:
        key: from `data_key`.
        count: number of images.
        sizes: the sizes, read from the files lazily.
    """
    path = cache_folder() / f"{key}.sizes.npy"
    with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile):
        kept = np.load(path, allow_pickle=False)
        if kept.shape == (count, 2):
            return kept
    found = np.array(list(sizes), np.int64).reshape(count, 2)
    part = path.with_name(f"{key}.{os.getpid()}.npy")
    with contextlib.suppress(OSError):  # the cache is optional: it only saves time
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.save(part, found)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return found
