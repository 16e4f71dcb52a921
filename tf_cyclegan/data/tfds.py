"""Loads the CycleGAN datasets of TensorFlow Datasets (TFDS)."""

from __future__ import annotations

import os
from typing import Any

from tf_cyclegan.data.folders import load_folders
from tf_cyclegan.data.image_files import DatasetError, ImageSet, decode_image

_SPLITS = ("trainA", "trainB", "testA", "testB")
PAIRED = ("cycle_gan/facades", "cycle_gan/maps")  # datasets with matching file names


def config_of(name: str) -> str:
    """Returns the TFDS config in a name "cycle_gan/<config>", without network access.

    Raises:
        DatasetError: if the name has another form or TFDS does not know the config.
    """
    family, _, config = name.partition("/")
    if family != "cycle_gan":
        raise DatasetError(
            f"unknown dataset '{name}': use synthetic/summer2winter, cycle_gan/<config>, "
            "or folders with --data_dir or with --data_a and --data_b"
        )
    import tensorflow_datasets as tfds  # imported late: it takes seconds

    known = tfds.builder_cls("cycle_gan").builder_configs
    if config not in known:
        raise DatasetError(f"TFDS has no '{name}': use cycle_gan/ and one of {', '.join(known)}")
    return config


def load_tfds(
    name: str, data_dir: str | os.PathLike[str] | None = None, paired: bool = False
) -> dict[str, ImageSet]:
    """Loads a dataset of the CycleGAN paper, which TFDS downloads on first use.

    The encoded images stay in memory (35 MB for facades, 1.5 GB for maps) and are decoded at
    each access. Their order is fixed by TFDS, which does not keep the file names.

    Args:
        name: "cycle_gan/<config>", such as "cycle_gan/summer2winter_yosemite".
        data_dir: where TFDS keeps its data; by default ~/tensorflow_datasets.
        paired: whether images with the same name are pairs, as in `PAIRED`. They are then read
            from the files of the zip, since TFDS does not keep the names.

    Returns:
        A dict from "trainA", "trainB", "testA" and "testB" to images; for pairs also "truthA" and
        "truthB".

    Raises:
        DatasetError: if the name is unknown, its images are not pairs, or the download or
            preparation fails.
    """
    config = config_of(name)
    if paired and name not in PAIRED:
        raise DatasetError(f"{name} has no paired images: use one of {', '.join(PAIRED)}")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    # Without a network, the default of ten retries takes three and a half minutes.
    downloader.MAX_RETRIES = 3
    builder = tfds.builder(name, data_dir=data_dir)
    url = next(url for url in builder.url_infos if url.endswith(f"/{config}.zip"))
    downloads = builder.data_dir_root / "downloads"
    try:
        if paired:
            manager = tfds.download.DownloadManager(
                download_dir=downloads,
                manual_dir=downloads / "manual",
                url_infos=builder.url_infos,
                dataset_name=builder.name,
            )
            files = manager.download_and_extract(url)
        else:
            builder.download_and_prepare()
    except Exception as error:  # requests, zipfile, gfile and TFDS each have their own exceptions
        cause = (str(error).splitlines() or [""])[0]
        raise DatasetError(
            f"{name} could not be downloaded or prepared ({type(error).__name__}: {cause}): "
            f"check the network, or download {url} by other means, put it into "
            f"{downloads / 'manual'} and try again"
        ) from error
    if paired:
        return load_folders(files / config, paired=True)
    return {split: _images(builder, split) for split in _SPLITS}


def _images(builder: Any, split: str) -> ImageSet:
    import tensorflow_datasets as tfds

    examples = builder.as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False
    )
    encoded, labels = [], set()
    for example in tfds.as_numpy(examples):
        encoded.append(example["image"])
        labels.add(int(example["label"]))
    label = "AB".index(split[-1])
    if labels != {label}:
        raise DatasetError(
            f"{split} in {builder.data_dir} has labels {sorted(labels)} instead of {label}: "
            "delete that folder, and it is prepared again"
        )
    names = tuple(f"{split}_{index:05d}" for index in range(len(encoded)))
    return ImageSet(
        names=names,
        read=lambda index: decode_image(encoded[index], names[index]),
    )
