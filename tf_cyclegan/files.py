"""Files are written whole or not at all, and what stands in their way is found before the work."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path


def check_output(folder, names: Iterable[str] = (), overwrite: bool = False) -> None:
    """Checks, without a trace, that files can be written into a folder, whether it exists or not.

    Args:
        folder: the folder.
        names: of files that will be written into it.
        overwrite: whether they may replace files of the same names.

    Raises:
        ValueError: the folder cannot be made or written, or holds one of the files.
    """
    folder = Path(folder)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        reason = "" if nearest.is_dir() else f"{nearest} is not a folder"
    except OSError as error:  # such as a name too long
        reason = str(error.strerror)
    if not reason and not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{nearest} is read-only"
    if reason:
        raise ValueError(f"{folder} cannot be made or written ({reason}): use another --output.")
    for path in (folder / name for name in names):
        if path.is_dir():
            raise ValueError(f"{path} is a folder: use another --output.")
        if path.exists() and not overwrite:
            raise ValueError(
                f"{path} exists already: use another --output, or --overwrite to replace it."
            )


def write_files(folder, files: dict[str, bytes]) -> None:
    """Writes files into a folder: each appears whole, and none before all could be written.

    Args:
        folder: the folder, made if it is not there.
        files: name -> content, at least one; a file of the same name is replaced.

    Raises:
        ValueError: there is no room, or no right to write.
    """
    folder = Path(folder)
    part = folder / f".{next(iter(files))}.part"  # the next run finds what a killed one left
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
    """Gives a temporary path with the same suffix, which replaces `path` once the block has ended.

    If the block raises, `path` is left as it was and the temporary file is removed.
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
    """Writes a UTF-8 text file whole or not at all; what UTF-8 cannot hold becomes "?"."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace")
