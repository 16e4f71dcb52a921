"""Tests that output folders are checked before any work, and that files are written whole."""

import errno
import os
from pathlib import Path

import pytest

from tf_cyclegan.files import check_output, one_line, temporary_folder, write_files


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path):
    check_output(tmp_path / "new" / "deeper", ["a"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/deeper", "n" * 300])
def test_what_cannot_be_a_folder_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written .*use another --output"):
        check_output(tmp_path / name)


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root could write anywhere
    with pytest.raises(ValueError, match="is read-only.*use another --output"):
        check_output(tmp_path / "new")


def test_files_are_replaced_only_where_that_was_asked_for(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    check_output(tmp_path, ["c"])
    check_output(tmp_path, ["a"], overwrite=True)
    with pytest.raises(ValueError, match="a exists already: use another --output, or --overwrite"):
        check_output(tmp_path, ["c", "a"])
    with pytest.raises(ValueError, match="b is a folder: use another --output"):
        check_output(tmp_path, ["b"], overwrite=True)


def test_all_files_are_written(tmp_path):
    write_files(tmp_path / "new", {"a": b"1", "b": b"2"})
    write_files(tmp_path / "new", {"b": b"3"})
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == {"a": b"1", "b": b"3"}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part" / "b").write_text("half")
    write_files(tmp_path, {"a": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_files_and_no_others(tmp_path, monkeypatch, failure):
    (tmp_path / "a").write_text("old")
    write = Path.write_bytes

    def fail_on_b(path, content):
        if path.name == "b":
            raise failure
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail_on_b)
    with pytest.raises((ValueError, KeyboardInterrupt)) as error:
        write_files(tmp_path, {"a": b"new", "b": b"2"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
    if isinstance(failure, OSError):
        assert "cannot be written (No space left): free some space" in str(error.value)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("SaveV2: File too large")],
)
def test_a_full_temporary_folder_is_named(error):
    with pytest.raises(ValueError, match="temporary folder .* is full: .* or set TMPDIR"):
        with temporary_folder() as folder:
            raise error
    assert not Path(folder).exists()
    with pytest.raises(OSError, match="another reason"), temporary_folder():
        raise OSError("another reason")


def test_errors_of_tensorflow_become_one_line():
    error = RuntimeError("{{function_node __wrapped__SaveV2}} no space\n  left [Op:SaveV2]")
    assert one_line(error) == "no space left [Op:SaveV2]"
