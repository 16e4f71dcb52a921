"""Collections of pictures of any number, translated by Apache Beam on any of its runners.

    listed -> read -> translated -> written
                |         |            |
                '---------+------------'--> failed-*.jsonl

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
import numpy as np
from apache_beam.io.fileio import TextSink, WriteToFiles, default_file_naming
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import StaticValueProvider

from tf_cyclegan.data.augment import resize_longer_side
from tf_cyclegan.data.pictures import (
    SUFFIXES,
    PictureError,
    check_size,
    decode_picture,
    encode_picture,
)
from tf_cyclegan.translate import load_translator

# Of the output: where files are written until they are whole.
UNFINISHED = ".unfinished"
COUNTS = ("translated", "there already", "failed")


def translate_many(
    run_dir: str,
    direction: str,
    input: str,
    output: str,
    resize: int | None = None,
    options: PipelineOptions | None = None,
) -> dict[str, int]:
    """Translates all pictures that a folder or glob holds, and leaves out those done already.

    Translations come out under the pictures' own names, with the same bytes as by
    scripts/translate.py; the subfolders that a glob reaches into are kept. Each appears whole or
    not at all, so that a killed translation continues where it was. One at a time may work on an
    output. Pictures that fail are listed in `failed-*.jsonl` there, with name and reason, and
    are tried again the next time.

    Args:
        run_dir: a run folder, or a generator's file, as for `load_translator`; may be remote.
        direction: "a2b" or "b2a".
        input: a folder, whose own pictures are meant; a picture; or a glob, in which `*` stays
            within a folder and `**` does not.
        output: a folder.
        resize: pixels that the longer side is scaled to first.
        options: of the pipeline, the runner among them; if None, Beam's defaults.

    Returns:
        How many pictures were "translated", were "there already" and "failed".

    Raises:
        ValueError: there is no generator, no picture or no such runner, or the output cannot be
            written.
    """
    run_dir, output = _whole_path(run_dir), _whole_path(output)
    collection = find_collection(input, output)
    pipeline = beam.Pipeline(options=options)
    handler = GeneratorHandler(run_dir, direction)
    handler.load_model()  # each process loads its own: this one is for the message
    if next(collection.entries(), None) is None:
        raise ValueError(
            f"{input} matches no pictures ({' '.join(SUFFIXES)}): name a folder that holds some, "
            "or a glob such as 'photos/**/*.jpg'."
        )
    try:
        _discard_remains(output)
        _write_whole(output, f"{UNFINISHED}/probe", b"")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{output} cannot be written ({reason}): use another --output.") from None
    try:
        _ = pipeline | TranslateMany(handler, collection, output, resize)
        result = pipeline.run()
        result.wait_until_finish()
    finally:
        _discard_unfinished(output)
    counters = result.metrics().query(MetricsFilter().with_namespace(__name__))["counters"]
    counts = dict.fromkeys(COUNTS, 0)
    for counter in counters:  # one for each step that has counted
        counts[counter.key.metric.name] += counter.result
    return counts


def pipeline_options(flags: list[str]) -> PipelineOptions:
    """Beam's options from its flags, which may choose any of its runners.

    Raises:
        ValueError: Beam knows no such flag (it would drop it), or none with such a value.
    """
    logging.basicConfig()  # Beam would, inside, and then log to what is no longer stderr
    flags = ["--default_sdk_harness_log_level=WARNING", *flags]
    unknown: list[str] = []
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = PipelineOptions(flags)
            options.get_all_options(
                retain_unknown_options=True,
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1]),
            )
    except SystemExit:  # argparse, after a hundred lines of usage
        raise ValueError(complaint.getvalue().strip().rpartition("error: ")[2]) from None
    if unknown:
        raise ValueError(f"{unknown[0]} is no flag of this script or of Beam: see --help.")
    return options


class TranslateMany(beam.PTransform):
    """The pipeline; see `translate_many`.

    Args:
        handler: the generator.
        collection: the pictures.
        output: a folder that can be written.
        resize: pixels of the longer side, or None.
    """

    def __init__(self, handler, collection, output, resize=None):
        super().__init__()
        self.handler, self.collection = handler, collection
        self.output, self.resize = output, resize

    def expand(self, root):
        """Returns the entries of all pictures that were written."""
        entries = (
            root
            | "list" >> beam.Create([self.collection])
            | "to entries" >> beam.FlatMap(lambda collection: collection.entries())
            | "spread over workers" >> beam.Reshuffle()
        )
        real, unread = (
            entries
            | "read" >> beam.FlatMap(read, self.output, self.resize).with_exception_handling()
        )
        fake, bad = real | "translate" >> (
            RunInference(KeyedModelHandler(self.handler)).with_exception_handling()
        )
        written, unwritten = (
            fake | "write" >> beam.Map(write, self.output).with_exception_handling()
        )
        # Each comes with what its step was given: an entry, a batch of one, an entry with picture.
        failed = (
            unread | "unread" >> beam.MapTuple(record),
            bad.failed_inferences
            | "untranslated" >> beam.MapTuple(lambda batch, error: record(batch[0][0], error)),
            unwritten | "unwritten" >> beam.MapTuple(lambda pair, error: record(pair[0], error)),
        )
        _ = (
            failed
            | "all that failed" >> beam.Flatten()
            | "list them"
            >> WriteToFiles(
                self.output,
                file_naming=default_file_naming("failed", ".jsonl"),
                sink=TextSink(),
                temp_directory=StaticValueProvider(str, FileSystems.join(self.output, UNFINISHED)),
            )
        )
        return written


# === Which pictures ===


@dataclass(frozen=True)
class Entry:
    """A picture of a collection.

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

    def entries(self) -> Iterator[Entry]:
        """Lists the pictures, in no particular order, each once; hidden ones are left out."""
        found = FileSystems.match(list(self.patterns))
        files = {file.path: file.size_in_bytes for part in found for file in part.metadata_list}
        for path, size in files.items():
            name = path.removeprefix(self.base).lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            is_picture = PurePosixPath(name).suffix.lower() in SUFFIXES
            if is_picture and not hidden and not path.startswith(self.without):
                yield Entry(name, path, size)


def find_collection(input: str, output: str) -> Collection:
    """What `translate_many` is to translate, without looking at any of it.

    Raises:
        ValueError: translations would go among the originals.
    """
    fixed = input if FileSystems.exists(input) else re.split(r"[*?[]", input)[0]
    folder = fixed[: fixed.rfind("/") + 1]
    rest = input[len(folder) :]
    if fixed != input:
        # To Beam, the ** of photos/**/x.jpg is a folder or more; to everyone else, or none.
        first, *others = re.split(r"(?<![^/])\*\*/", rest)
        globs = [
            first + "".join(map(add, stars, others))
            for stars in product(("**/", ""), repeat=len(others))
        ]
    elif PurePosixPath(rest).suffix.lower() in SUFFIXES:
        globs = [_literal(rest)]
    else:
        folder, globs = input, ["*"]
    base = _whole_path(folder).rstrip("/")
    if f"{base}/".startswith(f"{output}/"):
        raise ValueError(f"{output} holds the originals: use another --output.")
    return Collection(base, tuple(f"{_literal(base)}/{glob}" for glob in globs), f"{output}/")


def _whole_path(path: str) -> str:
    """Local paths absolute and without links, so that they can be compared; no slash at the end."""
    return os.path.realpath(path) if FileSystems.get_scheme(path) is None else path.rstrip("/")


def _literal(path: str) -> str:
    """A glob of exactly this path; the backslash only keeps "[[" out of a regular expression."""
    return re.sub(r"[*?[]", r"[\\\g<0>]", path)


# === From entry to translation ===


def read(entry: Entry, output: str, resize: int | None) -> Iterator[tuple[Entry, np.ndarray]]:
    """Decodes a picture to uint8 `[h, w, 3]`, unless its translation is there already."""
    if FileSystems.exists(FileSystems.join(output, entry.name)):
        _count("there already")
        return
    check_size(entry.size, entry.path)
    with FileSystems.open(entry.path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        picture = decode_picture(file.read(), entry.path)
    yield entry, resize_longer_side(picture, resize) if resize else picture


class GeneratorHandler(ModelHandler[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]):
    """A generator for RunInference: uint8 `[h, w, 3]` in, uint8 `[h, w, c]` of the same size out.

    Beam's own TFModelHandlerNumpy stacks a batch to one array, which pictures of many sizes do not
    allow, and it calls the bare network, without the padding and rounding of `translator`.

    Args:
        run_dir, direction: as for `load_translator`; run_dir may be remote.
    """

    def __init__(self, run_dir: str, direction: str):
        # One by one: sizes differ, and a picture that fails takes no other with it.
        super().__init__(min_batch_size=1, max_batch_size=1)
        self.run_dir, self.direction = run_dir, direction

    def load_model(self):
        """Loads the generator; Beam calls it once per process."""
        # Several processes may share a GPU, which TensorFlow would otherwise claim whole.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        if FileSystems.get_scheme(self.run_dir) is None:
            return load_translator(self.run_dir, self.direction)
        is_file = self.run_dir.endswith((".keras", ".pth"))
        path = self.run_dir if is_file else f"{self.run_dir}/{self.direction}.keras"
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.rpartition("/")[2]
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                copy.write_bytes(file.read())
            return load_translator(copy, self.direction)

    def run_inference(self, batch, model, inference_args=None) -> Iterable[np.ndarray]:
        """Translates pictures one after the other."""
        return map(model, batch)

    def get_num_bytes(self, batch) -> int:
        """For Beam's metrics, without its default of pickling every picture."""
        return sum(picture.nbytes for picture in batch)


def write(pair: tuple[Entry, np.ndarray], output: str) -> Entry:
    """Writes a translation whole or not at all."""
    entry, fake = pair
    _write_whole(output, entry.name, encode_picture(fake, entry.name))
    _count("translated")
    return entry


def record(entry: Entry, error: tuple[type, str, list[str]]) -> str:
    """A line of JSON for a picture that failed; see Beam's with_exception_handling for `error`."""
    kind, _, trace = error
    reason = " ".join(trace[-1].split())  # module.Kind: message
    if issubclass(kind, PictureError):
        reason = reason.partition(": ")[2]
    _count("failed")
    return json.dumps({"name": entry.name, "reason": reason})


def _count(name: str) -> None:
    Metrics.counter(__name__, name).inc()


# === The output folder ===


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


def _discard_remains(output: str) -> None:
    """Deletes what an earlier translation, perhaps a killed one, left beside its pictures."""
    _discard_unfinished(output)
    found = FileSystems.match([FileSystems.join(_literal(output), "failed-*.jsonl")])
    if paths := [_literal(file.path) for file in found[0].metadata_list]:
        FileSystems.delete(paths)


def _discard_unfinished(output: str) -> None:
    folder = FileSystems.join(output, UNFINISHED)
    if FileSystems.get_scheme(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # there are none
            FileSystems.delete([f"{folder}/"])
