"""Atomic writing of files, and checks of the output folder before any work is done."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


def check_output(
    folder: str | os.PathLike[str], names: Iterable[str] = (), overwrite: bool = False
) -> None:
    """Checks that files can be written into a folder, without creating or changing anything.

    Args:
        folder: the folder, which need not exist.
        names: names of the files that will be written into it.
        overwrite: whether they may replace files of the same names.

    Raises:
        ValueError: the folder cannot be created or written, or contains one of the files.
    """
    folder = Path(folder)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        reason = "" if nearest.is_dir() else f"{nearest} is not a folder"
    except OSError as error:  # for example, the name is too long
        reason = str(error.strerror)
    if not reason and not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{nearest} is read-only"
    if reason:
        raise ValueError(f"{folder} cannot be written ({reason}): use another --output.")
    for path in (folder / name for name in names):
        if path.is_dir():
            raise ValueError(f"{path} is a folder: use another --output.")
        if path.exists() and not overwrite:
            raise ValueError(
                f"{path} exists already: use another --output, or --overwrite to replace it."
            )


def write_files(folder: str | os.PathLike[str], files: dict[str, bytes]) -> None:
    """Writes files into a folder. No file appears there before all are written completely.

    Args:
        folder: the folder, created if it does not exist.
        files: name -> content, at least one. Files of the same names are replaced.

    Raises:
        ValueError: the disk is full, or the folder is not writable.
    """
    folder = Path(folder)
    part = folder / f".{next(iter(files))}.part"  # a fixed name: a rerun removes it
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        for name in files:
            os.replace(part / name, folder / name)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}): free some space, or use another "
            "--output."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path with the same suffix; its file replaces `path` after the block.

    If the block raises, `path` stays unchanged and the temporary file is removed.
    """
    path = Path(path)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically; characters that UTF-8 cannot encode become "?"."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace")


def one_line(error: Exception) -> str:
    """Returns the text of an error as one line, without the names of TensorFlow's graph nodes."""
    return " ".join(re.sub(r"\{\{.*?\}\}", "", str(error)).split())


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Yields a temporary folder; if it is full, the error says so and where it is.

    Raises:
        ValueError: there is no space left in it.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    except Exception as error:  # of Python or TensorFlow
        if not any(text in str(error) for text in ("No space left", "File too large", "quota")):
            raise
        raise ValueError(
            f"the temporary folder {tempfile.gettempdir()} is full: free some space, or set TMPDIR "
            "to another folder."
        ) from None
