"""What a training run remembers of its images, so that it never continues on others unnoticed."""

import hashlib
from typing import Any

import numpy as np

from tf_cyclegan.data.image_files import ImageSet

SAMPLES = 16  # images of which size and mean level are recorded
MEAN_TOLERANCE = 3.0  # grey levels by which two decoders may read the same image differently


def describe_images(images: ImageSet) -> dict[str, Any]:
    """The number of images, their names as a hash, and the size and mean level of a few of them.

    Returns:
        A dict that JSON can hold: `count`, `first` (the first name), `names` (SHA-256 of all names)
        and `samples` (`[height, width, mean level]` of up to `SAMPLES` images, evenly taken).
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, SAMPLES).astype(int))
    samples = []
    for image in map(images.read, chosen.tolist()):
        samples.append([*image.shape[:2], round(float(image.mean()), 1)])
    names = "\n".join(images.names).encode("utf-8", "backslashreplace")
    return {
        "count": len(images),
        "first": images.names[0],
        "names": hashlib.sha256(names).hexdigest(),
        "samples": samples,
    }


def find_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """How two descriptions of `describe_images` differ, in words, or None where they do not."""
    if before["count"] != now["count"]:
        return f"{now['count']} images instead of {before['count']}"
    if before["names"] != now["names"]:
        return f"images of other names, such as {now['first']} instead of {before['first']}"
    for (*size_before, mean_before), (*size, mean) in zip(
        before["samples"], now["samples"], strict=True
    ):
        if size != size_before:
            (height, width), (old_height, old_width) = size, size_before
            return (
                f"images of other sizes, such as {width} x {height} instead of "
                f"{old_width} x {old_height}"
            )
        if abs(mean - mean_before) > MEAN_TOLERANCE:
            return "other images under the same names"
    return None
