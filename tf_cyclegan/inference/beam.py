"""Collections of images of any number, translated by Apache Beam on any of its runners.

    listed here -> read, translated and written by the workers, one by one -> failed.jsonl

A worker does all three steps of an image at once. No image travels between the steps of the
pipeline, where some runners keep whole partitions in memory; and every step has one output, since
Beam's Dask runner mixes several outputs up.

All paths go through Beam's FileSystems: local ones, and gs://, s3:// or others that Beam has been
installed for. It needs: pip install "tf_cyclegan[beam]"
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
from tf_cyclegan.inference.translator import load_translator

# Of the output: where files are written until they are whole, and the images that failed.
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
    """Translates all images that a folder or glob holds, and leaves out those done already.

    Translations come out under the images' own names, with the same bytes as by
    scripts/translate.py; the subfolders that a glob reaches into are kept. Each appears whole or
    not at all, so that a killed translation continues where it was. One at a time may work on an
    output. Images that fail are listed in `failed.jsonl` there, with name and reason, and
    are tried again the next time.

    Args:
        run_dir: a run folder, or a generator's file, as for `load_translator`; may be remote.
        direction: "a2b" or "b2a".
        input: a folder, whose own images are meant; an image; or a glob, in which `*` stays
            within a folder and `**` does not. Local paths that exist are never read as globs.
        output: a folder.
        resize: pixels that the longer side is scaled to first.
        options: of the pipeline, the runner among them; if None, Beam's defaults.

    Returns:
        How many images were "translated", were "there already" and "failed".

    Raises:
        ValueError: there is no generator, no image or no such runner, the output cannot be
            written, or the pipeline stopped before its end.
    """
    if resize is not None and resize < 1:
        raise ValueError(f"resize is {resize}: use 1 or more.")
    run_dir, output = _whole_path(run_dir), _whole_path(output)
    collection = find_collection(input, output)
    pipeline = beam.Pipeline(options=options)
    step = Translate(run_dir, direction, output, resize)
    step.load()  # Each process loads its own: this one is for the message.
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
        reason = " ".join(str(error).split())
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
        # Some runners lose elements without an error.
        there = _names(output) | failed.keys()
        lost = [
            entry.name
            for entry in todo
            if entry.name not in there
            and not FileSystems.exists(FileSystems.join(output, entry.name))  # behind a link
        ]
    finally:
        _discard_unfinished(output)
    if lost:
        raise ValueError(
            f"{len(lost)} images, {lost[0]} among them, are neither translated nor in "
            f"{FAILED}: the runner lost them. The same command translates the rest."
        )
    return {
        "translated": len(todo) - len(failed),
        "there already": len(entries) - len(todo),
        "failed": len(failed),
    }


def pipeline_options(flags: list[str]) -> PipelineOptions:
    """Beam's options from its flags, which may choose any of its runners.

    Raises:
        ValueError: Beam knows no such flag (it would drop it), none with such a value, or no such
            runner.
    """
    logging.basicConfig()  # Beam would, inside, and then log to what is no longer stderr
    flags = ["--default_sdk_harness_log_level=WARNING", *flags]
    unknown: list[str] = []
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = PipelineOptions(flags)
            if runner := options.view_as(StandardOptions).runner:
                _load_runner(runner)  # Its module may add flags of its own.
            options.get_all_options(
                retain_unknown_options=True,
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1]),
            )
    except SystemExit:  # argparse, after a hundred lines of usage
        raise ValueError(complaint.getvalue().strip().rpartition("error: ")[2]) from None
    if unknown:
        raise ValueError(f"{unknown[0]} is no flag of this script or of Beam: see --help.")
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
    except Exception as error:  # Runners raise what they like, with pages of remote traceback.
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise ValueError(
            f"The pipeline stopped ({type(error).__name__}: {reason}): once that is mended, the "
            "same command translates the rest."
        ) from error


# === Which images ===


@dataclass(frozen=True)
class Entry:
    """An image of a collection.

    Attributes:
        name: its path within the collection, and that of its translation within the output.
        path: where it is.
        size: of its file, in bytes.
    """

    name: str
    path: str
    size: int


@dataclass(frozen=True)
class Collection:
    """What a folder or glob means.

    Attributes:
        base: the folder that names are relative to.
        patterns: Beam's globs of everything.
        without: a folder in it that is left out, since earlier translations are there.
    """

    base: str
    patterns: tuple[str, ...]
    without: str

    def entries(self) -> list[Entry]:
        """Lists the images, in no particular order, each once; hidden ones are left out."""
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
    """What `translate_many` is to translate, without looking at any of it.

    Raises:
        ValueError: translations would go among the originals.
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
        # To Beam, the ** of photos/**/x.jpg is a folder or more; to everyone else, or none.
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
    """Local paths absolute and without ~ and links, to be compared; no slash at the end."""
    if FileSystems.get_scheme(path) is None:
        return os.path.realpath(os.path.expanduser(path))
    return path.rstrip("/")


def _literal(path: str) -> str:
    """A glob of exactly this path; the backslash only keeps "[[" out of a regular expression."""
    return re.sub(r"[*?[]", r"[\\\g<0>]", path)


# === From entry to translation ===


class Translate(beam.DoFn):
    """Reads, translates and writes one image after the other.

    Beam's RunInference would need more steps than this one, and its batches lose images on Beam's
    Dask runner (apache-beam 2.77).

    Args:
        run_dir, direction: as for `load_translator`; run_dir may be remote.
        output: a folder that can be written.
        resize: pixels of the longer side, or None.
    """

    def __init__(self, run_dir: str, direction: str, output: str, resize: int | None):
        self.run_dir, self.direction = run_dir, direction
        self.output, self.resize = output, resize
        self.shared = Shared()  # One generator for all threads of a process.

    def setup(self):
        """Loads the generator, unless another thread of this process has."""
        self.translate = self.shared.acquire(self.load)

    def load(self) -> Callable:
        """Loads the generator; see `load_translator`."""
        # Several processes may share a GPU, which TensorFlow would otherwise claim whole.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        if FileSystems.get_scheme(self.run_dir) is None:
            return load_translator(self.run_dir, self.direction)
        is_file = self.run_dir.endswith((".keras", ".pth"))
        path = self.run_dir if is_file else f"{self.run_dir}/{self.direction}.keras"
        if not FileSystems.exists(path):
            raise ValueError(
                f"{path} is not there: name a run folder that has saved once, or a .keras or .pth "
                "file."
            )
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.rpartition("/")[2]
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                copy.write_bytes(file.read())
            return load_translator(copy, self.direction)

    def process(self, entry: Entry) -> Iterator[tuple[int, dict[str, str]]]:
        """Makes one translation, or yields (0, name and reason) where that fails."""
        try:
            # A runner tries again what a worker that has died was given.
            if not FileSystems.exists(FileSystems.join(self.output, entry.name)):
                self._translate(entry)
        except Exception as error:
            kind = "" if isinstance(error, ImageError) else f"{type(error).__name__}: "
            # The key is a number, since the hashes of others differ between processes.
            yield 0, {"name": entry.name, "reason": kind + " ".join(str(error).split())}

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
    """Writes the records of all images that failed, one a line."""
    lines = sorted(f"{json.dumps(record)}\n" for record in gathered[1])
    _write_whole(output, FAILED, "".join(lines).encode())


def read_failed(output: str) -> dict[str, str]:
    """The names of the images that failed, with reasons."""
    path = FileSystems.join(output, FAILED)
    if not FileSystems.exists(path):
        return {}
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        records = map(json.loads, file.read().splitlines())
        return {record["name"]: record["reason"] for record in records}


def _names(output: str) -> set[str]:
    """The paths of all files in the output: one listing, since stores answer slowly for each."""
    (found,) = FileSystems.match([FileSystems.join(_literal(output), "**")])
    return {file.path.removeprefix(output).lstrip("/") for file in found.metadata_list}


def _write_whole(output: str, name: str, data: bytes) -> None:
    """Writes under a temporary name and renames; on object stores that is a copy."""
    unfinished = FileSystems.join(output, UNFINISHED, uuid.uuid4().hex)
    target = FileSystems.join(output, name)
    kind = CompressionTypes.UNCOMPRESSED
    with FileSystems.create(unfinished, compression_type=kind) as file:
        file.write(data)
    with contextlib.suppress(OSError):  # is there already, which Beam takes for an error
        FileSystems.mkdirs(target.rpartition("/")[0])
    FileSystems.rename([unfinished], [target])


def _discard_unfinished(output: str) -> None:
    folder = FileSystems.join(output, UNFINISHED)
    if FileSystems.get_scheme(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # there are none
            FileSystems.delete([f"{_literal(folder)}/"])
