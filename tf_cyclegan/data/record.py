"""Records a training run's images, so that it does not continue on other images by mistake."""

import hashlib
import os
from typing import Any

import numpy as np

from tf_cyclegan.data.image_files import ImageSet

SAMPLES = 16  # number of images whose size and mean level are recorded
MEAN_TOLERANCE = 3.0  # gray levels by which two decoders may differ on the same image


def describe_images(images: ImageSet) -> dict[str, Any]:
    """Returns the number of images, hashes of names and sizes, and the content of a few.

    Returns:
        A dict for JSON: `count`, `first` (the first name), `names` (SHA-256 of all names), `bytes`
        (SHA-256 of the sizes of all files, or None without files) and `samples` (`[height, width,
        mean level]` of up to `SAMPLES` evenly spaced images).
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, SAMPLES).astype(int))
    samples = []
    for image in map(images.read, chosen.tolist()):
        samples.append([*image.shape[:2], round(float(image.mean()), 1)])
    names = "\n".join(images.names).encode("utf-8", "backslashreplace")
    sizes = "\n".join(str(os.stat(path).st_size) for path in images.paths or ())
    return {
        "count": len(images),
        "first": images.names[0],
        "names": hashlib.sha256(names).hexdigest(),
        "bytes": hashlib.sha256(sizes.encode()).hexdigest() if images.paths else None,
        "samples": samples,
    }


def find_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Returns in words how two results of `describe_images` differ, or None if they do not."""
    if before["count"] != now["count"]:
        return f"{now['count']} images instead of {before['count']}"
    if before["names"] != now["names"]:
        return f"images with other names, such as {now['first']} instead of {before['first']}"
    for (*size_before, mean_before), (*size, mean) in zip(
        before["samples"], now["samples"], strict=True
    ):
        if size != size_before:
            (height, width), (old_height, old_width) = size, size_before
            return (
                f"images with other sizes, such as {width} x {height} instead of "
                f"{old_width} x {old_height}"
            )
        if abs(mean - mean_before) > MEAN_TOLERANCE:
            return "other images under the same names"
    if before.get("bytes", now["bytes"]) != now["bytes"]:  # earlier versions did not record it
        return "other files under the same names"
    return None
