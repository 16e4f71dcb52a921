"""Tests the real TFDS builder, with a local server in place of the download site."""

import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cycle_gan

from tf_cyclegan.data.image_files import DatasetError, ImageError, decode_image
from tf_cyclegan.data.tfds import config_of, load_tfds

COUNTS = {"trainA": 3, "trainB": 2, "testA": 1, "testB": 2}
CONFIGS = [config.name for config in cycle_gan.CycleGAN.BUILDER_CONFIGS]


def jpeg(level):
    """Returns an encoded image of 6 x 9 pixels with one gray level."""
    file = io.BytesIO()
    Image.new("RGB", (9, 6), (level, level, level)).save(file, "JPEG")
    return file.getvalue()


def files_of(config):
    """Returns the contents of a config's zip, with the authors' layout: path -> bytes."""
    levels = iter(range(20, 200, 20))
    return {
        f"{config}/{split}/{place}.jpg": jpeg(next(levels))
        for split, count in COUNTS.items()
        for place in range(count)
    }


def zip_of(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return file.getvalue()


class Site:
    """A local download site: the builder uses the URLs and checksums of its zip files."""

    def __init__(self, folder, monkeypatch):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_message(self, *args):
                pass

        self.folder, self.monkeypatch = folder, monkeypatch
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.open = True

    def offer(self, config, data):
        (self.folder / f"{config}.zip").write_bytes(data)
        url = f"http://127.0.0.1:{self.server.server_port}/{config}.zip"
        checksum = hashlib.sha256(data).hexdigest()
        info = checksums.UrlInfo(size=len(data), checksum=checksum, filename=f"{config}.zip")
        self.monkeypatch.delitem(
            cycle_gan.CycleGAN.url_infos, cycle_gan._DL_URLS[config], raising=False
        )
        self.monkeypatch.setitem(cycle_gan._DL_URLS, config, url)
        self.monkeypatch.setitem(cycle_gan.CycleGAN.url_infos, url, info)

    def close(self):
        if self.open:
            self.server.shutdown()
            self.server.server_close()
        self.open = False


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site", monkeypatch)
    yield site
    site.close()


def assert_one_line(error):
    assert "\n" not in str(error.value)


def test_every_config_of_the_builder_is_accepted():
    assert [config_of(f"cycle_gan/{config}") for config in CONFIGS] == CONFIGS
    assert "summer2winter_yosemite" in CONFIGS


@pytest.mark.parametrize("name", ["cycle_gan/cityscapes", "cycle_gan/", "cycle_gan"])
def test_unknown_configs_are_errors_that_list_the_known(name):
    with pytest.raises(DatasetError) as error:
        load_tfds(name)
    assert_one_line(error)
    assert all(config in str(error.value) for config in CONFIGS)


@pytest.mark.parametrize("name", ["summer2winter_yosemite", "mnist", "other/facades", ""])
def test_other_names_are_errors_that_say_what_works(name):
    with pytest.raises(DatasetError, match=f"'{name}'.*synthetic/summer2winter.*--data_a") as error:
        load_tfds(name)
    assert_one_line(error)


@pytest.mark.parametrize("config", ["summer2winter_yosemite", "facades"])
def test_download_splits_and_images(tmp_path, site, config):
    files = files_of(config)
    site.offer(config, zip_of(files))
    splits = load_tfds(f"cycle_gan/{config}", tmp_path / "data")
    assert {split: len(images) for split, images in splits.items()} == COUNTS

    for split, images in splits.items():
        there = [data for path, data in files.items() if f"/{split}/" in path]
        decoded = [images.read(index) for index in range(len(images))]
        assert {image.tobytes() for image in decoded} == {
            decode_image(data).tobytes() for data in there
        }
        assert all(image.shape == (6, 9, 3) for image in decoded)
        assert len(set(images.names)) == len(images)

    site.close()
    again = load_tfds(f"cycle_gan/{config}", tmp_path / "data")
    for split, images in again.items():
        assert images.names == splits[split].names
        for index in range(len(images)):
            np.testing.assert_array_equal(images.read(index), splits[split].read(index))


def test_pairs_are_read_by_the_names_that_tfds_drops(tmp_path, site):
    names = {"trainA": "1_A 2_A 10_A", "trainB": "2_B 10_B 1_B", "testA": "3_A", "testB": "3_B"}
    levels = iter(range(20, 200, 20))
    files = {
        f"maps/{split}/{name}.jpg": jpeg(next(levels))
        for split, listed in names.items()
        for name in listed.split()
    }
    site.offer("maps", zip_of(files))
    sets = load_tfds("cycle_gan/maps", tmp_path / "data", paired=True)
    assert sets["trainA"].names == ("10_A.jpg", "1_A.jpg", "2_A.jpg")
    assert sets["trainB"].names == ("10_B.jpg", "1_B.jpg", "2_B.jpg")
    assert sets["truthA"].names == ("3_B.jpg",) and sets["truthB"].names == ("3_A.jpg",)
    for split, name in (("trainB", "10_B"), ("testA", "3_A")):
        expected = decode_image(files[f"maps/{split}/{name}.jpg"])
        np.testing.assert_array_equal(sets[split].read(0), expected)
    site.close()  # the dataset was downloaded only once
    assert load_tfds("cycle_gan/maps", tmp_path / "data", paired=True)["trainA"].names
    with pytest.raises(DatasetError, match="horse2zebra has no paired images: use one of .*maps"):
        load_tfds("cycle_gan/horse2zebra", tmp_path / "data", paired=True)


def test_without_network_the_error_tells_a_way_that_works(tmp_path, site):
    data = zip_of(files_of("facades"))
    site.offer("facades", data)
    site.close()
    with pytest.raises(DatasetError, match="cycle_gan/facades .*check the network") as error:
        load_tfds("cycle_gan/facades", tmp_path / "data")
    assert_one_line(error)

    manual = tmp_path / "data" / "downloads" / "manual"
    assert "facades.zip by other means" in str(error.value) and str(manual) in str(error.value)
    manual.mkdir()
    (manual / "facades.zip").write_bytes(data)
    assert len(load_tfds("cycle_gan/facades", tmp_path / "data")["trainA"]) == 3


def test_a_missing_or_altered_zip_is_an_error(tmp_path, site):
    site.offer("maps", zip_of(files_of("maps")))
    (tmp_path / "site" / "maps.zip").write_bytes(zip_of(files_of("other")))
    with pytest.raises(DatasetError, match="wrong checksum") as error:
        load_tfds("cycle_gan/maps", tmp_path / "data")
    assert_one_line(error)
    (tmp_path / "site" / "maps.zip").unlink()
    with pytest.raises(DatasetError, match="HTTP code: 404") as error:
        load_tfds("cycle_gan/maps", tmp_path / "data")
    assert_one_line(error)


def test_a_bad_image_is_named_when_read(tmp_path, site):
    files = files_of("facades")
    files["facades/testA/0.jpg"] = b"no image, but text"
    site.offer("facades", zip_of(files))
    splits = load_tfds("cycle_gan/facades", tmp_path / "data")
    with pytest.raises(ImageError, match="testA_00000"):
        splits["testA"].read(0)
    assert splits["testB"].read(0).shape == (6, 9, 3)


def test_labels_that_contradict_their_split_are_an_error(tmp_path, site, monkeypatch):
    original = cycle_gan.CycleGAN._generate_examples
    monkeypatch.setattr(
        cycle_gan.CycleGAN,
        "_generate_examples",
        lambda self, path, label: original(self, path, "A"),
    )
    site.offer("facades", zip_of(files_of("facades")))
    with pytest.raises(DatasetError, match=r"trainB .* has labels \[0\] instead of 1") as error:
        load_tfds("cycle_gan/facades", tmp_path / "data")
    assert_one_line(error)
