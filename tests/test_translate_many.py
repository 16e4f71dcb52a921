"""Tests scripts/translate_many.py on collections, mostly with Beam's DirectRunner."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tf_cyclegan.cli import translate as translate_command
from tf_cyclegan.cli import translate_many as translate_many_command
from tf_cyclegan.data import image_files as images
from tf_cyclegan.data.image_files import ImageError, read_image, write_image
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.inference.translator import load_translator
from tf_cyclegan.training.run_folder import save_generator

if "CI" not in os.environ:
    pytest.importorskip("apache_beam", reason="collections need Apache Beam")

from apache_beam.io.filesystem import FileMetadata, FileSystem

from tf_cyclegan.inference import beam as translate_many

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns a run folder with one generator."""
    path = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(0)
    network = ResNetGenerator(filters=4, blocks=1)
    network.build((None, None, None, 3))
    # The initial weights of 0.02 would give nearly gray images.
    network.set_weights([10 * weight for weight in network.get_weights()])
    save_generator(network, path / "a2b.keras")
    return path


def many(run, input, output, *flags, **options):
    options = translate_many_command.Options(str(run), str(input), str(output), **options)
    return translate_many_command.main(options, list(flags))


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def fill(folder, *names):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, noise(9, 12, seed=seed))
    return folder


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def records(folder):
    lines = (folder / "failed.jsonl").read_text().splitlines()
    return {entry["name"]: entry["reason"] for entry in map(json.loads, lines)}


# === Results ===


def test_the_bytes_are_those_of_translate(run, tmp_path, capsys):
    photos = fill(tmp_path / "photos", "a.jpg", "B.JPEG", "c.png", "d.webp", "e.tif", "été.png")
    write_image(photos / "odd.jpg", noise(37, 22))
    write_image(photos / "tiny.png", noise(1, 3))
    write_image(photos / "gray.jpg", noise(10, 14, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    Image.fromarray(noise(10, 20)).save(photos / "turned.jpg", exif=exif)
    if sys.platform == "linux":  # other systems only allow names that are text
        shutil.copy(photos / "c.png", os.fsencode(photos) + b"/\xe9.png")
    translate = translate_command
    for resize in (None, 16):
        one, all_ = tmp_path / f"one{resize}", tmp_path / f"all{resize}"
        paths = {"run_dir": str(run), "output": str(one), "input": (str(photos),)}
        assert translate.main(translate.Options(**paths, resize=resize)) == 0
        assert many(run, photos, all_, resize=resize) == 0
        expected = {n: f for n, f in files(one).items() if not n.startswith("index")}
        assert len(expected) == len(list(photos.iterdir())) >= 10
        assert files(all_) == expected
        assert [path for path in all_.iterdir() if path.is_dir()] == []
    with Image.open(tmp_path / "allNone" / "turned.jpg") as image:
        assert image.size == (10, 20)
    printed = capsys.readouterr().out
    assert f"a2b: {len(expected)} translated, 0 there already, 0 failed" in printed


def test_sub_folders_are_kept_and_nothing_is_made_twice(run, tmp_path, capsys):
    photos = fill(tmp_path / "photos", "1.png", "x/1.png", "x/y/1.png", "x/.thumbs/1.png")
    (photos / "notes.txt").touch()
    out = photos / "out"  # inside the input, but its images are not input
    threads = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    assert many(run, photos / "**" / "*.png", out, *threads) == 0
    first = files(out)
    assert sorted(first) == ["1.png", "x/1.png", "x/y/1.png"]
    translate = load_translator(run, "a2b")
    for name in first:
        np.testing.assert_array_equal(read_image(out / name), translate(read_image(photos / name)))
    stamps = {name: (out / name).stat().st_mtime_ns for name in first}
    fill(photos, "new.png")
    capsys.readouterr()
    assert many(run, photos / "**" / "*.png", out) == 0
    assert "1 translated, 3 there already, 0 failed" in capsys.readouterr().out
    assert stamps == {name: (out / name).stat().st_mtime_ns for name in first}
    assert sorted(files(out)) == sorted([*first, "new.png"])


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("*.png", "1.png"),
        ("*", "1.png 2.JPG"),
        ("**", "1.png 2.JPG a/1.png a/b/1.png a/b/c/3.gif"),
        ("**/1.*", "1.png a/1.png a/b/1.png"),
        ("*/1.png", "a/1.png"),
        ("a/*", "1.png"),
        ("a/**/*.gif", "b/c/3.gif"),
        ("**/b/**/*", "a/b/1.png a/b/c/3.gif"),
        ("?.[pP]*", "1.png"),
        ("a/b", "1.png"),
        ("a/b/", "1.png"),
        ("a/b/1.png", "1.png"),
        ("missing", ""),
        ("missing/*.png", ""),
    ],
)
def test_what_a_folder_or_glob_means(tmp_path, monkeypatch, pattern, names):
    photos = fill(tmp_path / "p [1]*", "1.png", "a/1.png", "a/b/1.png")
    fill(tmp_path / "p 1", "other.png")  # matches the folder's name as a glob
    shutil.copy(photos / "1.png", photos / "2.JPG")
    (photos / "a/b/c").mkdir()
    shutil.copy(photos / "1.png", photos / "a/b/c/3.gif")
    shutil.copy(photos / "1.png", photos / ".hidden.png")
    (photos / "a/notes.txt").touch()
    monkeypatch.chdir(photos)
    entries = list(translate_many.find_collection(pattern, str(tmp_path / "out")).entries())
    assert sorted(entry.name for entry in entries) == sorted(names.split())
    for entry in entries:
        assert entry.path.endswith(entry.name) and Path(entry.path).is_relative_to(photos)
        assert entry.size == Path(entry.path).stat().st_size


def test_paths_of_any_name_mean_themselves(run, tmp_path, monkeypatch, capsys):
    home = tmp_path / "50%s [a]* {0} \u56fe"
    names = "1%d.png", "[2].png", "x [b]?/a*[!c].jpg", "x [b]?/\u00e9 \u0434 \u0a95.png"
    fill(home / "photos [1-3]", *names)
    fill(home / "photos 1", "decoy.png")  # matches the folder's name as a glob
    (home / "photos [1-3]" / "bad [1].png").touch()
    shutil.copytree(run, home / "run [1]")
    out = home / "out [1]*"
    monkeypatch.setenv("HOME", str(home))
    for first, input in [(4, "~/photos [1-3]/**"), (0, str(home / "photos [1-3]" / "**"))]:
        assert many("~/run [1]", input, "~/out [1]*") == 1
        printed = capsys.readouterr().out
        assert f"{first} translated, {4 - first} there already, 1 failed" in printed
        assert sorted(files(out)) == sorted([*names, "failed.jsonl"])
        assert list(records(out)) == ["bad [1].png"]
    (home / "photos [1-3]" / "bad [1].png").unlink()
    for input in ("photos [1-3]/*.png", "photos [1-3]", "photos [1-3]/[2].png"):
        monkeypatch.chdir(home)
        assert many("run [1]", input, "out [1]*") == 0
        assert sorted(files(out)) == sorted(names)


# === Errors ===


def test_images_that_fail_are_listed_and_tried_again(run, tmp_path, monkeypatch, capsys):
    photos = fill(tmp_path / "photos", "good.png", "x/blocked.png", "hungry.png")
    (photos / "text.jpg").write_text("no image")
    write_image(photos / "hungry.png", noise(99, 99))
    write_image(photos / "large.bmp", noise(200, 200))
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").touch()  # a folder of this name is needed
    load = translate_many.load_translator

    def load_hungry(*arguments):
        translate = load(*arguments)

        def hungry(image):
            if len(image) == 99:
                raise ImageError("needs more\nmemory: use --resize")
            return translate(image)

        return hungry

    monkeypatch.setattr(translate_many, "load_translator", load_hungry)
    assert many(run, photos / "**", out) == 1
    printed = capsys.readouterr()
    assert "1 translated, 0 there already, 4 failed" in printed.out
    assert "failed.jsonl" in printed.err
    failed = records(out)
    assert failed.pop("hungry.png") == "needs more memory: use --resize"
    assert failed.pop("text.jpg").startswith(f"{photos}/text.jpg: not a JPEG, PNG")
    assert "bytes are more than 100000" in failed.pop("large.bmp")
    assert "Not a directory" in failed.pop("x/blocked.png")
    assert failed == {}
    assert {name for name in files(out) if "failed" not in name} == {"good.png", "x"}

    monkeypatch.undo()
    (out / "x").unlink()
    (photos / "text.jpg").unlink()
    assert many(run, photos / "**", out) == 0
    assert "3 translated, 1 there already, 0 failed" in capsys.readouterr().out
    assert sorted(files(out)) == ["good.png", "hungry.png", "large.bmp", "x/blocked.png"]


def test_wrong_flags_are_found_before_any_work(run, tmp_path):
    photos, out = fill(tmp_path / "photos", "1.png"), tmp_path / "out"
    (tmp_path / "file").touch()
    cases = [
        ("has only a2b.keras: use --direction=a2b", run, photos, out, (), {"direction": "b2a"}),
        ("nowhere does not exist: name a run", tmp_path / "nowhere", photos, out, (), {}),
        ("a2b.keras does not exist: name a run", photos, photos, out, (), {}),
        ("1.png is neither a .keras nor a .pth", photos / "1.png", photos, out, (), {}),
        ("gif matches no images .*name a folder", run, photos / "*.gif", out, (), {}),
        ("missing matches no images", run, tmp_path / "missing", out, (), {}),
        ("file cannot be written .*another --output", run, photos, tmp_path / "file", (), {}),
        ("photos holds the originals: use another", run, photos, photos, (), {}),
        ("holds the originals: use another", run, photos, tmp_path, (), {}),
        ("resize is 0: use 1 or more", run, photos, out, (), {"resize": 0}),
        ("^--directon=b2a is not a flag of this script", run, photos, out, ("--directon=b2a",), {}),
        ("^2.png is not a flag of this script", run, photos, out, ("2.png",), {}),
        ("workers: invalid int value: 'x'$", run, photos, out, ("--direct_num_workers=x",), {}),
        ("Unexpected pipeline runner: Quick", run, photos, out, ("--runner=Quick",), {}),
        ("runner no.Runner cannot be loaded", run, photos, out, ("--runner=no.Runner",), {}),
        ("specified path.*nowhere://x", run, "nowhere://x/*.png", out, (), {}),
    ]
    for message, run_dir, input, output, flags, options in cases:
        with pytest.raises(ValueError, match=message) as error:
            many(run_dir, input, output, *flags, **options)
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"], message


def test_without_beam_the_message_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tf_cyclegan.inference.beam")
    monkeypatch.delattr("tf_cyclegan.inference.beam")
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r'pip install "tf_cyclegan\[beam\]"'):
        many(run, tmp_path, tmp_path / "out")


# === Killed runs, other processes and file systems ===


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_it_does_the_rest(run, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    write_image(photos / "0.jpg", noise(240, 320))
    for number in range(1, 100):
        shutil.copy(photos / "0.jpg", photos / f"{number}.jpg")
    command = [sys.executable, SCRIPTS / "translate_many.py", f"--run_dir={run}"]
    command += [f"--input={photos}/**", f"--output={out}", "--runner=DirectRunner"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, env=environ)
    while process.poll() is None and len(list(out.glob("*.jpg"))) < 5:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    expected = images.encode_image(
        load_translator(run, "a2b")(read_image(photos / "0.jpg")), "0.jpg"
    )
    before = {path.name: path.stat() for path in out.glob("*.jpg")}
    assert 5 <= len(before) < 100
    assert {(out / name).read_bytes() for name in before} == {expected}

    assert many(run, photos, out) == 0
    assert f"{100 - len(before)} translated, {len(before)} there" in capsys.readouterr().out
    for name, old in before.items():
        new = (out / name).stat()
        assert (new.st_mtime_ns, new.st_ino) == (old.st_mtime_ns, old.st_ino)
    assert sorted(path.name for path in out.iterdir()) == sorted(p.name for p in photos.iterdir())
    assert {path.read_bytes() for path in out.iterdir()} == {expected}


@pytest.mark.slow
def test_other_processes_do_the_work(run, tmp_path, monkeypatch, capsys):
    photos = fill(tmp_path / "photos", "0.png", "1.jpg", "x/2.png")
    one, all_ = tmp_path / "one", tmp_path / "all"
    assert many(run, photos / "**", one) == 0
    monkeypatch.setattr(translate_many, "encode_image", None)  # only other processes can write
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    capsys.readouterr()
    flags = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert many(run, photos / "**", all_, *flags) == 0
    assert "3 translated, 0 there already, 0 failed" in capsys.readouterr().out
    assert files(all_) == files(one) and len(files(all_)) == 3


@pytest.fixture
def cluster(monkeypatch):
    """Starts a real Dask cluster with two worker processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="Beam's Dask runner needs Dask")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster
        distributed.default_client().close()  # Beam leaves it open


def on_dask(address):
    name = "apache_beam.runners.dask.dask_runner.DaskRunner"
    return f"--runner={name}", f"--dask_client_address={address}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_dask_cluster_does_the_work_and_a_worker_may_be_killed(run, tmp_path, cluster, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    write_image(photos / "0.jpg", noise(240, 320))
    for number in range(1, 60):
        shutil.copy(photos / "0.jpg", photos / f"{number}.jpg")
    fill(photos, "x/1.png")
    (photos / "bad.jpg").write_text("no image")
    one, all_ = tmp_path / "one", tmp_path / "all"
    assert many(run, photos / "**", one) == 1

    workers = {worker.pid: worker for worker in cluster.workers.values()}
    done_when_killed = []

    def kill():
        while len(done := list(all_.glob("*.jpg"))) < 5:
            time.sleep(0.005)
        os.kill(next(iter(workers)), signal.SIGKILL)
        done_when_killed.extend(done)

    threading.Thread(target=kill, daemon=True).start()
    capsys.readouterr()
    assert (
        many(
            run, photos / "**", all_, *on_dask(cluster.scheduler_address), "--dask_partition_size=4"
        )
        == 1
    )
    assert 5 <= len(done_when_killed) < 40
    assert "61 translated, 0 there already, 1 failed" in capsys.readouterr().out
    assert files(all_) == files(one) and len(files(all_)) == 62


def test_a_pipeline_that_stops_says_so_in_a_line(run, tmp_path):
    pytest.importorskip("distributed", reason="Beam's Dask runner needs Dask")
    photos, out = fill(tmp_path / "photos", "1.png"), tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    flags = (*on_dask(nobody), "--dask_connection_timeout=1")
    with pytest.raises(
        ValueError, match=r"^The pipeline stopped \(OSError: .*command .* rest"
    ) as e:
        many(run, photos, out, *flags)
    assert "\n" not in str(e.value) and list(out.iterdir()) == []


def test_images_that_a_runner_loses_are_missed(run, tmp_path, monkeypatch):
    photos = fill(tmp_path / "photos", "1.png", "2.png")
    write = translate_many._write_whole
    monkeypatch.setattr(
        translate_many, "_write_whole", lambda *args: args[1] == "2.png" or write(*args)
    )
    with pytest.raises(ValueError, match="^1 images, including 2.png, are neither"):
        many(run, photos, tmp_path / "out")


class Bucket(FileSystem):
    """Simulates an object store: no folders, and files appear only when they are closed."""

    objects: dict[str, bytes] = {}

    @classmethod
    def scheme(cls):
        return "bucket"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        pass

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        names = [name for name in self.objects if name.startswith(dir_or_prefix)]
        return map(self.metadata, names)

    def create(self, path, mime_type=None, compression_type=None):
        class Upload(io.BytesIO):
            def close(upload):
                self.objects[path] = upload.getvalue()
                super().close()

        return Upload()

    def open(self, path, mime_type=None, compression_type=None):
        return io.BytesIO(self.objects[path])

    def copy(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            self.objects[destination] = self.objects[source]

    def rename(self, source_file_names, destination_file_names):
        self.copy(source_file_names, destination_file_names)
        for source in source_file_names:
            del self.objects[source]

    def exists(self, path):
        return path in self.objects

    def size(self, path):
        return len(self.objects[path])

    def last_updated(self, path):
        return 0

    def checksum(self, path):
        return str(self.size(path))

    def metadata(self, path):
        return FileMetadata(path, self.size(path), 0)

    def delete(self, paths):
        for match in self.match(paths):
            if not match.metadata_list:
                raise OSError(f"nothing to delete: {match.pattern}")
            for file in match.metadata_list:
                del self.objects[file.path]


def test_all_may_be_in_an_object_store(run, tmp_path, monkeypatch):
    local = fill(tmp_path / "photos", "1.png", "x/2.jpg")
    (local / "x" / "bad.png").write_text("no image")
    assert many(run, local / "**", tmp_path / "out") == 1

    monkeypatch.setattr(Bucket, "objects", {})
    store = Bucket.objects
    store["bucket://b/run/a2b.keras"] = (run / "a2b.keras").read_bytes()
    for name, data in files(local).items():
        store[f"bucket://b/photos/{name}"] = data
    store["bucket://b/out/.unfinished/0"] = b"left by a killed one"
    store["bucket://b/out/failed.jsonl"] = b"left by one before"
    before = dict(store)
    with pytest.raises(
        ValueError, match="^bucket://b/nowhere/a2b.keras does not exist: name a run"
    ):
        many("bucket://b/nowhere", "bucket://b/photos/**", "bucket://b/out/")
    assert many("bucket://b/run", "bucket://b/photos/**", "bucket://b/out/") == 1
    prefix = "bucket://b/out/"
    made = {name.removeprefix(prefix): data for name, data in store.items() if prefix in name}
    assert json.loads(made.pop("failed.jsonl"))["name"] == "x/bad.png"
    expected = {
        name: data for name, data in files(tmp_path / "out").items() if "failed" not in name
    }
    assert made == expected and len(made) == 2
    assert {name: store[name] for name in before if prefix not in name} == {
        name: data for name, data in before.items() if prefix not in name
    }
