"""Translates any number of images with Apache Beam on any of its runners.

    list of paths -> read, translate and write, one image at a time in each worker -> failed.jsonl

A worker does all of this in one step. No images are passed between steps of the pipeline, since
some runners keep whole partitions in memory; and every step has one output, since Beam's Dask
runner mixes up several outputs.

All paths go through Beam's FileSystems: local ones, gs://, s3:// and others that your installation
of Beam supports. This needs: pip install "tf_cyclegan[beam]"
"""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from operator import add
from pathlib import Path, PurePosixPath

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner
from apache_beam.utils.shared import Shared

from tf_cyclegan.data.image_files import (
    SUFFIXES,
    ImageError,
    check_size,
    decode_image,
    encode_image,
)
from tf_cyclegan.data.resizing import resize_longer_side
from tf_cyclegan.files import one_line
from tf_cyclegan.inference.translator import load_translator

# In the output folder: the folder of unfinished files, and the list of images that failed.
UNFINISHED = ".unfinished"
FAILED = "failed.jsonl"


def translate_many(
    run_dir: str,
    direction: str,
    input: str,
    output: str,
    resize: int | None = None,
    options: PipelineOptions | None = None,
) -> dict[str, int]:
    """Translates all images of a folder or glob, except those that are translated already.

    Translations get the names of their images, including sub-folders that a glob matches, and the
    same bytes as from `tf-cyclegan translate`. Files are written atomically, so that you can
    continue after a kill. Only one process at a time may use an output folder. Images that
    fail are listed with name and reason in `failed.jsonl` there, and are tried again the next
    time.

    Args:
        run_dir: a run folder or the file of a generator, as for `load_translator`; may be remote.
        direction: "a2b" or "b2a".
        input: a folder, without its sub-folders; an image; or a glob, in which `*` matches within a
            folder and `**` across folders. Local paths that exist are never treated as globs.
        output: the output folder.
        resize: number of pixels to which the longer side is resized first.
        options: options of the pipeline, including its runner; by default those of Beam.

    Returns:
        The numbers of images that were "translated", were "there already" and "failed".

    Raises:
        ValueError: the generator, the images or the runner cannot be found, the output cannot be
            written, or the pipeline failed.
    """
    if resize is not None and resize < 1:
        raise ValueError(f"resize is {resize}: use 1 or more.")
    run_dir, output = _whole_path(run_dir), _whole_path(output)
    collection = find_collection(input, output)
    pipeline = beam.Pipeline(options=options)
    step = Translate(run_dir, direction, output, resize)
    step.load()  # Finds errors early: each worker process loads its own.
    entries = collection.entries()
    if not entries:
        raise ValueError(
            f"{input} matches no images ({' '.join(SUFFIXES)}): name a folder that holds some, "
            "or a glob such as 'photos/**/*.jpg'."
        )
    try:
        _discard_unfinished(output)
        _write_whole(output, f"{UNFINISHED}/probe", b"")
        if FileSystems.exists(FileSystems.join(output, FAILED)):
            FileSystems.delete([_literal(FileSystems.join(output, FAILED))])
    except OSError as error:
        reason = one_line(error)
        raise ValueError(f"{output} cannot be written ({reason}): use another --output.") from None
    try:
        there = _names(output)
        todo = [entry for entry in entries if entry.name not in there]
        if todo:
            _ = (
                pipeline
                | "list" >> beam.Create(todo)
                | "translate" >> beam.ParDo(step)
                | "gather what failed" >> beam.GroupByKey()
                | f"write {FAILED}" >> beam.Map(write_failed, output)
            )
            _run(pipeline)
        failed = read_failed(output)
        # Some runners lose elements without raising an error.
        there = _names(output) | failed.keys()
        lost = [
            entry.name
            for entry in todo
            if entry.name not in there
            and not FileSystems.exists(
                FileSystems.join(output, entry.name)
            )  # in a symlinked folder
        ]
    finally:
        _discard_unfinished(output)
    if lost:
        raise ValueError(
            f"{len(lost)} images, including {lost[0]}, are neither translated nor in {FAILED}: the "
            "runner lost them. Run the same command again to translate them."
        )
    return {
        "translated": len(todo) - len(failed),
        "there already": len(entries) - len(todo),
        "failed": len(failed),
    }


def pipeline_options(flags: list[str]) -> PipelineOptions:
    """Parses Beam's flags, which may choose any of its runners, to options.

    Raises:
        ValueError: a flag is unknown (Beam would ignore it) or has an invalid value, or the runner
            is unknown.
    """
    logging.basicConfig()  # or Beam does below, and keeps the redirected stderr
    flags = ["--default_sdk_harness_log_level=WARNING", *flags]
    unknown: list[str] = []
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = PipelineOptions(flags)
            if runner := options.view_as(StandardOptions).runner:
                _load_runner(runner)  # Its module may define more flags.
            options.get_all_options(
                retain_unknown_options=True,
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1]),
            )
    except SystemExit:  # argparse, with a hundred lines of usage
        raise ValueError(complaint.getvalue().strip().rpartition("error: ")[2]) from None
    if unknown:
        raise ValueError(f"{unknown[0]} is not a flag of this script or of Beam: see --help.")
    return options


def _load_runner(name: str) -> None:
    try:
        create_runner(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"The runner {name} cannot be loaded ({error}): check its name, or install its extra, "
            'such as pip install "tf_cyclegan[dask]".'
        ) from None


def _run(pipeline: beam.Pipeline) -> None:
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # Runners raise any kind, with long remote tracebacks.
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise ValueError(
            f"The pipeline stopped ({type(error).__name__}: {reason}): fix this, then run the same "
            "command to translate the rest."
        ) from error


# === Finding the images ===


@dataclass(frozen=True)
class Entry:
    """An image of a collection.

    Attributes:
        name: its path relative to the collection, and of its translation relative to the output.
        path: its full path.
        size: size of its file in bytes.
    """

    name: str
    path: str
    size: int


@dataclass(frozen=True)
class Collection:
    """The images of a folder or glob.

    Attributes:
        base: the folder to which names are relative.
        patterns: the equivalent globs of Beam.
        without: a folder to exclude, which holds earlier translations.
    """

    base: str
    patterns: tuple[str, ...]
    without: str

    def entries(self) -> list[Entry]:
        """Lists the images, each once and in no particular order, without hidden ones."""
        found = FileSystems.match(list(self.patterns))
        files = {file.path: file.size_in_bytes for part in found for file in part.metadata_list}
        entries = []
        for path, size in files.items():
            name = path.removeprefix(self.base).lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            is_image = PurePosixPath(name).suffix.lower() in SUFFIXES
            if is_image and not hidden and not path.startswith(self.without):
                entries.append(Entry(name, path, size))
        return entries


def find_collection(input: str, output: str) -> Collection:
    """Returns the collection for `translate_many` without listing its images.

    Raises:
        ValueError: the output folder holds the originals.
    """
    is_local = FileSystems.get_scheme(input) is None
    input = os.path.abspath(os.path.expanduser(input)) if is_local else input.rstrip("/")
    if FileSystems.exists(input) and not (is_local and os.path.isdir(input)):
        folder, _, name = input.rpartition("/")
        globs = [_literal(name)]
    else:
        folder = input
        while not os.path.isdir(folder) if is_local else re.search(r"[*?[]", folder):
            folder = folder.rpartition("/")[0] or "/"
        # In photos/**/x.jpg, ** matches one or more folders in Beam, but zero or more elsewhere.
        rest = input[len(folder) :].lstrip("/") or "*"
        first, *others = re.split(r"(?<![^/])\*\*/", rest)
        globs = [
            first + "".join(map(add, stars, others))
            for stars in product(("**/", ""), repeat=len(others))
        ]
    base = _whole_path(folder).rstrip("/")
    if f"{base}/".startswith(f"{output}/"):
        raise ValueError(f"{output} holds the originals: use another --output.")
    return Collection(base, tuple(f"{_literal(base)}/{glob}" for glob in globs), f"{output}/")


def _whole_path(path: str) -> str:
    """Makes paths comparable: local ones absolute without ~ and links, and no final slash."""
    if FileSystems.get_scheme(path) is None:
        return os.path.realpath(os.path.expanduser(path))
    return path.rstrip("/")


def _literal(path: str) -> str:
    """Returns a glob that matches exactly this path; the backslash avoids "[[" in a regex."""
    return re.sub(r"[*?[]", r"[\\\g<0>]", path)


# === Translating an image ===


class Translate(beam.DoFn):
    """Reads, translates and writes one image at a time.

    Beam's RunInference would need more steps than this one, and its batches lose images on Beam's
    Dask runner (apache-beam 2.77).

    Args:
        run_dir, direction: as for `load_translator`; run_dir may be remote.
        output: a writable folder.
        resize: number of pixels of the longer side, or None.
    """

    def __init__(self, run_dir: str, direction: str, output: str, resize: int | None):
        self.run_dir, self.direction = run_dir, direction
        self.output, self.resize = output, resize
        self.shared = Shared()  # One generator for all threads of a process.

    def setup(self):
        """Loads the generator unless another thread of this process has loaded it."""
        self.translate = self.shared.acquire(self.load)

    def load(self) -> Callable:
        """Loads the generator; see `load_translator`."""
        # Several processes may share a GPU, whose memory TensorFlow would otherwise claim whole.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        if FileSystems.get_scheme(self.run_dir) is None:
            return load_translator(self.run_dir, self.direction)
        is_file = self.run_dir.lower().endswith((".keras", ".pth", ".pt"))
        path = self.run_dir if is_file else f"{self.run_dir}/{self.direction}.keras"
        if not FileSystems.exists(path):
            raise ValueError(
                f"{path} does not exist: name a run folder with a checkpoint, or a .keras or .pth "
                "file."
            )
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.rpartition("/")[2]
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                copy.write_bytes(file.read())
            return load_translator(copy, self.direction)

    def process(self, entry: Entry) -> Iterator[tuple[int, dict[str, str]]]:
        """Translates one image; if that fails, yields (0, name and reason)."""
        try:
            # The file may exist, since runners retry the elements of a worker that died.
            if not FileSystems.exists(FileSystems.join(self.output, entry.name)):
                self._translate(entry)
        except Exception as error:
            kind = "" if isinstance(error, ImageError) else f"{type(error).__name__}: "
            # The key is a number, since hashes of strings differ between processes.
            yield 0, {"name": entry.name, "reason": kind + one_line(error)}

    def _translate(self, entry):
        check_size(entry.size, entry.path)
        with FileSystems.open(entry.path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            image = decode_image(file.read(), entry.path)
        if self.resize:
            image = resize_longer_side(image, self.resize)
        fake = self.translate(image)
        _write_whole(self.output, entry.name, encode_image(fake, entry.name))


# === The output folder ===


def write_failed(gathered: tuple[int, Iterable[dict[str, str]]], output: str) -> None:
    """Writes the records of all images that failed, one per line."""
    lines = sorted(f"{json.dumps(record)}\n" for record in gathered[1])
    _write_whole(output, FAILED, "".join(lines).encode())


def read_failed(output: str) -> dict[str, str]:
    """Returns the names of the images that failed, with reasons."""
    path = FileSystems.join(output, FAILED)
    if not FileSystems.exists(path):
        return {}
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        records = map(json.loads, file.read().splitlines())
        return {record["name"]: record["reason"] for record in records}


def _names(output: str) -> set[str]:
    """Lists the paths of all files in the output at once: single look-ups are slow on stores."""
    (found,) = FileSystems.match([FileSystems.join(_literal(output), "**")])
    return {file.path.removeprefix(output).lstrip("/") for file in found.metadata_list}


def _write_whole(output: str, name: str, data: bytes) -> None:
    """Writes a file under a temporary name, then renames it (on object stores, copies it)."""
    unfinished = FileSystems.join(output, UNFINISHED, uuid.uuid4().hex)
    target = FileSystems.join(output, name)
    kind = CompressionTypes.UNCOMPRESSED
    with FileSystems.create(unfinished, compression_type=kind) as file:
        file.write(data)
    with contextlib.suppress(OSError):  # it may exist, which is an error in Beam
        FileSystems.mkdirs(target.rpartition("/")[0])
    FileSystems.rename([unfinished], [target])


def _discard_unfinished(output: str) -> None:
    folder = FileSystems.join(output, UNFINISHED)
    if FileSystems.get_scheme(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # there are none
            FileSystems.delete([f"{_literal(folder)}/"])
