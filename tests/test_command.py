"""Tests what all commands share: errors, closed pipes, file names in any script, and ~."""

import errno
import io
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A path."""
    input: tuple[str, ...] = ()
    """Paths."""
    size: int = 3
    """A number."""


def in_process(body, *, stdout=subprocess.PIPE, run="command.run(main, None)", **environment):
    """Runs `body` as the main function of a command in a new process."""
    program = (
        "import sys\nfrom tf_cyclegan.cli import command\ndef main(options):\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + f"\n    return 0\n{run}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[1])} | environment,
    )


def test_home_is_expanded_in_every_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(sys, "argv", ["x", "--run_dir=~/x", "--input", "~/y", "z~"])
    assert command.parse(Options, "") == Options("/home/me/x", ("/home/me/y", "z~"))


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ValueError("no\nluck"), "error: no luck\n", 1),
        (MemoryError(), "error: MemoryError\n", 1),
        (
            OSError(errno.ENOSPC, "No space left"),
            f"error: [Errno {errno.ENOSPC}] No space left\n",
            1,
        ),
        (KeyboardInterrupt(), "error: stopped by Ctrl-C.\n", 130),
        (ImportError("no such package"), "error: no such package: pip install x\n", 1),
    ],
)
def test_what_you_can_mend_is_one_line_and_an_exit_code(monkeypatch, error, line, code):
    def main(options):
        raise error

    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as stopped:
        command.run(main, None, needs="x")
    assert stopped.value.code == code
    assert sys.stderr.buffer.getvalue().decode() == line


@pytest.mark.parametrize(
    ("ending", "environment", "code", "destroyed"),
    [
        ("return 3", {}, 3, False),
        ("return 3", {"TF_CONFIG": "{}"}, 3, True),
        ("raise ValueError('no')", {}, 1, True),
        ("raise TypeError('a bug')", {}, 1, True),
    ],
)
def test_only_a_main_that_returned_is_ended_at_once(ending, environment, code, destroyed):
    body = f"""
    import atexit, os
    class Iterator:
        def __del__(self, write=os.write):
            write(1, b"destroyed\\n")
    sys.modules[__name__].iterator = Iterator()
    atexit.register(print, "handler")
    print("unfinished line", end="")
    {ending}
    """
    process = in_process(body, run="command.run(main, None, at_once=True)", **environment)
    output = process.communicate()[0].decode()
    assert process.returncode == code
    assert output == "unfinished linehandler\n" + "destroyed\n" * destroyed


def test_a_closed_pipe_does_not_end_the_work(tmp_path):
    process = in_process(
        f"""
        for i in range(20000):
            print("a line of progress", i)
        print("to a closed stream as well", file=sys.stderr)
        open({str(tmp_path / "saved")!r}, "w").close()
        """
    )
    process.stdout.close()
    assert process.wait(60) == 0, process.stderr.read()
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_full_disk_under_the_log_does_not_end_the_work(tmp_path):
    with open("/dev/full", "w") as full:
        process = in_process(
            f"print('progress', flush=True); open({str(tmp_path / 'saved')!r}, 'w').close()",
            stdout=full,
        )
    assert process.wait(60) == 0, process.stderr.read()
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_any_file_name_can_be_printed(locale):
    process = in_process(
        r"print('\u00e9\u8d70', '\udce9')", LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert rb"\udce9" in out


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras_gets_the_backends_that_work(backend):
    """Also sets MPLBACKEND: processes inherit it from a notebook, and Keras imports matplotlib."""
    process = in_process(
        "import keras; print(keras.config.backend())",
        KERAS_BACKEND=backend,
        MPLBACKEND="module://no_such.backend",
    )
    out, errors = process.communicate()
    assert out == b"tensorflow\n", errors
    assert f"KERAS_BACKEND={backend} is overridden".encode() in errors


def test_another_backend_that_keras_has_already_is_refused():
    program = (
        "import sys, types\n"
        "keras = types.ModuleType('keras')\n"
        "keras.config = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "sys.modules['keras'] = keras\n"
        "import tf_cyclegan\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stderr.splitlines()[-1].startswith(
        "ImportError: tf_cyclegan needs Keras' TensorFlow backend, and Keras was imported with jax:"
    )
