"""Parses flags and reports errors for every command of this project."""

import atexit
import dataclasses
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import tyro

from tf_cyclegan.files import one_line

Options = TypeVar("Options")


def parse(
    options: type[Options],
    description: str | None,
    default: Options | None = None,
    arguments: list[str] | None = None,
) -> Options:
    """Reads the flags of a command line, which are the fields of a dataclass.

    A field that is a dataclass itself is a group of flags. `~` is expanded at the start of every
    value, since shells do not expand `--run_dir=~/mine`.

    Args:
        options: the dataclass.
        description: text for --help.
        default: an instance with the defaults, if they are not those of the class.
        arguments: the flags; by default, those of this process.
    """
    settings: dict[str, Any] = {} if default is None else {"default": default}
    parsed = tyro.cli(
        options,
        description=description,
        use_underscores=True,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        **settings,
    )
    return at_home(parsed)


def run(
    main: Callable[[Options], int], options: Options, needs: str = "", at_once: bool = False
) -> NoReturn:
    """Calls `main(options)` and ends the process with its exit code.

    An error that you can fix prints one line and gives exit code 1. Ctrl-C gives exit code 130. If
    a pipe or terminal is closed, further output is dropped: a failed print never stops the work.

    Args:
        main: does the work, and returns the exit code.
        options: from `parse`.
        needs: what to install if a package is missing; if empty, an ImportError is raised.
        at_once: end the process without destroying its objects, once `main` has returned. After
            training, TensorFlow can take up to a minute to destroy the iterators that a strategy
            makes for its devices: each waits for its tf.data tuner, and the options of a dataset
            cannot switch that one off. Workers of a cluster still do it, to leave it in order.
    """
    returned: list[int] = []
    if at_once and "TF_CONFIG" not in os.environ:
        atexit.register(_leave, returned)  # before TensorFlow's handlers, so it runs after them
    # Programs started from a notebook inherit its Matplotlib backend. If that is not installed,
    # `import matplotlib`, and so `import keras`, fails. Commands only draw into files.
    os.environ["MPLBACKEND"] = "agg"
    # TensorFlow logs that it finds no GPU as an error. Its real errors are raised as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("stdout", "stderr"):
        setattr(sys, name, Output(getattr(sys, name)))
    try:
        code = main(options)
        returned.append(code)
    except KeyboardInterrupt:
        code = _fail("stopped by Ctrl-C.", 130)
    except ImportError as error:
        if not needs:
            raise
        code = _fail(f"{error}: pip install {needs}", 1)
    except (ValueError, FloatingPointError, OSError, MemoryError) as error:
        code = _fail(one_line(error) or type(error).__name__, 1)
    sys.exit(code)


class Output(io.TextIOWrapper):
    """A standard stream that drops what it cannot write, and that accepts any file name.

    Args:
        stream: the stream to replace, sys.stdout or sys.stderr.
    """

    def __init__(self, stream):
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",  # file names may hold characters outside the encoding
            line_buffering=True,
        )

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._drop()

    def _drop(self):
        # Redirects the buffer and all further output to the null device.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def at_home(value: Any) -> Any:
    """Expands `~` at the start of a string, or of all strings in a tuple or dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{k: at_home(v) for k, v in vars(value).items()})
    if isinstance(value, tuple):
        return tuple(map(at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def counted(number: int, noun: str) -> str:
    """Returns a number and a noun, such as "1 image" or "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _leave(returned):
    if returned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(returned[0])


def _fail(message, code):
    print(f"error: {message}", file=sys.stderr)
    return code
