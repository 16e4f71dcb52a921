"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
