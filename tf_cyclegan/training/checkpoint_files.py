"""Numbered checkpoints in a folder: `ckpt-<step>.index` and its data files.

Paths are taken literally. TensorFlow's `CheckpointManager`, `latest_checkpoint` and `RestoreV2`
treat a path as a pattern (tensorflow#34290, #32614): in a folder named `run[1]` they would find no
checkpoint, and if there is also a folder `run1`, they would remove its checkpoints.

The list of checkpoints comes from the files themselves. TensorFlow's state file `checkpoint`, which
can be lost or out of date, is neither read nor written.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from tf_cyclegan.files import one_line


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of all checkpoints in a folder in order, including damaged ones."""
    found = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in Path(folder).glob("ckpt-*"))
    return sorted(int(match[1]) for match in found if match)


def write_checkpoint(checkpoint: tf.train.Checkpoint, folder: Path, step: int) -> None:
    """Writes a checkpoint. If the process is killed meanwhile, the others stay intact.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    prefix = folder / f"ckpt-{step}"
    try:
        checkpoint.write(str(prefix))
    except tf.errors.OpError as error:
        shutil.rmtree(f"{prefix}_temp", ignore_errors=True)
        raise OSError(
            f"{prefix} cannot be written ({one_line(error)[:200]}): check disk space and "
            "permissions; earlier checkpoints are intact."
        ) from None


def read_checkpoint(checkpoint: tf.train.Checkpoint, folder: Path, step: int) -> None:
    """Restores everything in `checkpoint`.

    Raises:
        ValueError: the file lacks a part of it, or has it in another shape.
    """
    try:
        with _plain_path(folder, step) as prefix:
            # Partial, since workers read only the shared state from the chief's checkpoint.
            status = checkpoint.read(prefix)
            status.expect_partial()  # before a failure, whose warnings would hide the message
            status.assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise ValueError(one_line(error)[:200]) from None


def find_damage(folder: Path, step: int) -> str | None:
    """Returns why a checkpoint cannot be read, or None if it is intact.

    Every value is read once, so that TensorFlow verifies its checksum.
    """
    try:
        with _plain_path(folder, step) as prefix:
            reader = tf.train.load_checkpoint(prefix)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
    except Exception as error:  # the reader raises a different kind for each damage
        return one_line(error)[:200] or type(error).__name__
    return None


def remove_old(folder: Path, keep: int, newest: int) -> None:
    """Removes all checkpoints but the last `keep` of those up to step `newest`.

    Checkpoints of later steps are removed, too: the run has continued from an earlier one.
    """
    steps = saved_steps(folder)
    kept = [step for step in steps if step <= newest][-keep:]
    for step in set(steps).difference(kept):
        (folder / f"ckpt-{step}.index").unlink()  # first: without it, the rest is no checkpoint
        for file in folder.glob(f"ckpt-{step}.*"):
            file.unlink()


def remove_unfinished(folder: Path) -> None:
    """Removes unfinished files of killed processes, and the state file of earlier versions."""
    for part in folder.glob("ckpt-*_temp"):
        shutil.rmtree(part, ignore_errors=True)
    (folder / "checkpoint").unlink(missing_ok=True)


@contextlib.contextmanager
def _plain_path(folder: Path, step: int) -> Iterator[str]:
    """Yields a path to a checkpoint without characters that TensorFlow treats as a pattern."""
    with tempfile.TemporaryDirectory() as plain:
        for file in folder.glob(f"ckpt-{step}.*"):
            try:
                os.symlink(file.resolve(), Path(plain) / file.name)
            except OSError:  # Windows lets only some users create links
                shutil.copyfile(file, Path(plain) / file.name)
        yield str(Path(plain) / f"ckpt-{step}")
