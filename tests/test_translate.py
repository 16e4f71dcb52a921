"""Tests the library's translator, and scripts/translate.py through its main()."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_cyclegan.cli import translate as translate_command
from tf_cyclegan.data.folders import list_images
from tf_cyclegan.data.image_files import (
    SUFFIXES,
    DatasetError,
    ImageError,
    read_image,
    to_channels,
    to_float,
    to_uint8,
    write_image,
)
from tf_cyclegan.discriminators import PatchDiscriminator
from tf_cyclegan.files import write_text
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.inference.translator import find_images, load_translator, padded, translator
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.run_folder import load_test_images, save_generator

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "translate.py"


def generator(channels_in=3, channels_out=3, seed=0):
    keras.utils.set_random_seed(seed)
    network = ResNetGenerator(filters=4, blocks=1, channels=channels_out)
    network.build((None, None, None, channels_in))
    # The initial weights of 0.02 would give nearly gray images.
    network.set_weights([10 * weight for weight in network.get_weights()])
    return network


def noise(height=12, width=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture(scope="module")
def a2b():
    return generator()


@pytest.fixture(scope="module")
def run(tmp_path_factory, a2b):
    """Returns a run folder with both generators, but without data."""
    path = tmp_path_factory.mktemp("run")
    save_generator(a2b, path / "a2b.keras")
    save_generator(generator(seed=1), path / "b2a.keras")
    return path


@pytest.fixture(scope="module")
def script():
    return translate_command


def fill(folder, names, height=12, width=16):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        write_image(folder / name, noise(height, width, seed=seed))
    return folder


def translate(script, run, output, *inputs, **options):
    return script.main(
        script.Options(run_dir=str(run), output=str(output), input=(*map(str, inputs),), **options)
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# === translator ===


@pytest.mark.parametrize(
    "height, width", [(1, 1), (2, 3), (7, 5), (1, 40), (9, 8), (64, 64), (65, 33)]
)
def test_any_size_is_kept(a2b, height, width):
    image = noise(height, width)
    fake = translator(a2b)(image)
    assert fake.shape == (height, width, 3)
    assert fake.dtype == np.uint8


def test_an_image_that_fits_is_what_the_generator_makes_of_it(a2b):
    image = noise(64, 48)
    direct = a2b(to_float(image)[np.newaxis], training=False).numpy()[0]
    fake = translator(a2b)(image).astype(int)
    assert np.abs(fake - to_uint8(direct)).max() <= 1  # a graph may round differently
    assert fake.std() > 10


def test_other_sizes_are_mirrored_outwards_and_cropped_back(a2b):
    image = noise(9, 10)
    outwards = np.concatenate([image, image[:-4:-1]])  # rows 8, 7, 6 again
    outwards = np.concatenate([outwards, outwards[:, :-3:-1]], axis=1)
    assert outwards.shape == (12, 12, 3)
    function = translator(a2b)
    np.testing.assert_array_equal(function(image), function(outwards)[:9, :10])


def test_padded_sizes():
    assert [padded(side, 4) for side in (1, 8, 9, 12, 65)] == [8, 8, 12, 12, 68]
    assert [padded(side, 256) for side in (1, 256, 257)] == [256, 256, 512]


def test_unet_takes_any_size_too():
    network = UNetGenerator(filters=4, depth=5)
    network.build((None, None, None, 3))
    assert translator(network)(noise(33, 20)).shape == (33, 20, 3)


@pytest.mark.parametrize("channels_in, channels_out", [(1, 3), (3, 1)])
def test_gray_and_rgb_are_exchanged(channels_in, channels_out):
    function = translator(generator(channels_in, channels_out))
    for channels in (1, 3):
        image = noise(9, 7, channels)
        fake = function(image)
        assert fake.shape == (9, 7, channels_out)
        np.testing.assert_array_equal(fake, function(to_channels(image, channels_in)))


def test_every_usual_form_of_an_image_is_taken(a2b):
    function = translator(a2b)
    rgb, gray = noise(), noise(channels=1)
    as_rgb = to_channels(gray, 3)
    transparent = np.dstack([rgb, np.zeros_like(gray)])
    rotated = Image.fromarray(np.rot90(rgb))
    rotated.getexif()[0x0112] = 6  # must be turned clockwise to be upright
    forms = [
        (rgb, [Image.fromarray(rgb), tf.constant(rgb), np.dstack([rgb, gray * 0 + 255]), rotated]),
        (as_rgb, [gray, gray[..., 0], Image.fromarray(gray[..., 0])]),
        (rgb * 0 + 255, [transparent, Image.fromarray(transparent)]),
    ]
    for image, same in forms:
        for form in same:
            np.testing.assert_array_equal(function(form), function(image))
    paletted = Image.fromarray(rgb).quantize(4)
    np.testing.assert_array_equal(function(paletted), function(np.asarray(paletted.convert("RGB"))))


@pytest.mark.parametrize(
    "image, cause",
    [
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            r"not uint8 \[2, 8, 8, 3\]: .*batch one image at a time",
        ),
        (
            np.zeros((8, 8, 3), np.float32),
            r"not float32 \[8, 8, 3\]: scale a float image x from \[-1, 1\] with np.rint",
        ),
        (np.zeros((8, 8, 2), np.uint8), r"not uint8 \[8, 8, 2\]"),
        (np.zeros((0, 8, 3), np.uint8), r"not uint8 \[0, 8, 3\]"),
        (np.zeros(8, np.uint8), r"not uint8 \[8\]"),
        ("summer.jpg", "summer.jpg is a path: use tf_cyclegan.read_image"),
        (Image.new("I;16", (8, 8)), "mode I;16 has no defined black and white: save it as a file"),
    ],
    ids=["batch", "floats", "two channels", "empty", "row", "path", "16 bits"],
)
def test_what_is_no_image_is_refused_with_what_to_do(a2b, image, cause):
    with pytest.raises(ValueError, match=cause) as error:
        translator(a2b)(image)
    assert one_line(error)


def test_dropout_is_off():
    network = ResNetGenerator(filters=4, blocks=1, dropout=0.5)
    network.build((None, None, None, 3))
    function = translator(network)
    np.testing.assert_array_equal(function(noise()), function(noise()))


def test_memory_that_runs_out_is_the_images_error():
    class Hungry(keras.Model):
        def call(self, images):
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    hungry = Hungry()
    hungry.built, hungry.multiple, hungry.input_channels = True, 4, 3
    with pytest.raises(ImageError, match="^16 x 12 pixels need more memory .*use --resize$"):
        translator(hungry)(noise())


# === load_translator ===


def test_folder_and_file_load_the_same(run):
    image = noise()
    fakes = {d: load_translator(run, d)(image) for d in ("a2b", "b2a")}
    assert not np.array_equal(fakes["a2b"], fakes["b2a"])
    for direction, fake in fakes.items():
        function = load_translator(str(run / f"{direction}.keras"), direction)
        np.testing.assert_array_equal(function(image), fake)
    with pytest.raises(ValueError, match="b2a.keras is named after b2a: use the direction b2a"):
        load_translator(run / "b2a.keras", "a2b")


def one_line(error):
    return "\n" not in str(error.value)


def test_what_is_no_generator_is_named(tmp_path, run):
    judge = PatchDiscriminator(filters=4, layers=1)
    judge.build((None, None, None, 3))
    judge.save(tmp_path / "d_a.keras")
    other = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(3, 1)])
    other.save(tmp_path / "other.keras")
    (tmp_path / "text.keras").write_text("no archive")
    (tmp_path / "cut.keras").write_bytes((run / "a2b.keras").read_bytes()[:500])
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").mkdir()
    cases = {
        "d_a.keras": "holds a PatchDiscriminator: ",
        "other.keras": "contains no generator: Sequential takes only images of 8x8 pixels",
        "text.keras": "cannot be read",
        "cut.keras": "cannot be read",
        "notes.txt": r"neither a \.keras nor a \.pth",
        "missing": "does not exist: name a run folder",
        "empty": r".a2b\.keras does not exist: name a run folder with a checkpoint",
    }
    for name, cause in cases.items():
        with pytest.raises(ValueError, match=f"{re.escape(name)}.*{cause}") as error:
            load_translator(tmp_path / name, "a2b")
        assert one_line(error), name


def test_a_run_with_one_direction_translates_that_one(tmp_path, a2b):
    save_generator(a2b, tmp_path / "a2b.keras")
    load_translator(tmp_path, "a2b")
    with pytest.raises(ValueError, match=r"has only a2b\.keras: use --direction=a2b"):
        load_translator(tmp_path, "b2a")


# === find_images ===


def test_files_and_folders_are_gathered_in_order(tmp_path):
    fill(tmp_path / "x", ["2.png", "1.png"])
    fill(tmp_path / "y", ["0.png"])
    inputs = [tmp_path / "y" / "0.png", tmp_path / "x"]
    images = find_images(inputs, "a2b", tmp_path / "out")
    assert images.names == ("0.png", "1.png", "2.png")
    np.testing.assert_array_equal(images.read(1), read_image(tmp_path / "x" / "1.png"))
    assert images.read(2).shape[:2] == (12, 16)


def test_of_a_dataset_the_directions_own_test_images_are_taken(tmp_path):
    for split in ("trainA", "trainB", "testA", "testB"):
        fill(tmp_path / split, [f"{split}.png"])
    for direction, name in (("a2b", "testA.png"), ("b2a", "testB.png")):
        assert find_images([tmp_path], direction, "out").names == (name,)
    assert find_images([tmp_path / "testB"], "a2b", "out").names == ("testB.png",)


def test_one_name_twice_is_refused(tmp_path):
    inputs = [fill(tmp_path / folder, ["same.png"]) for folder in "xy"]
    with pytest.raises(ValueError, match=r"x.same\.png and .*y.same\.png .*different") as error:
        find_images(inputs, "a2b", tmp_path / "out")
    assert one_line(error)
    twice = [inputs[0], inputs[0] / "same.png"]
    assert find_images(twice, "a2b", tmp_path / "out").names == ("same.png",)


def test_originals_are_never_replaced(tmp_path):
    folder = fill(tmp_path / "x", ["1.png"])
    for inputs in ([folder], [folder / "1.png"], [tmp_path / "x" / ".." / "x"]):
        with pytest.raises(ValueError, match=r"1\.png would be replaced .*another --output"):
            find_images(inputs, "a2b", tmp_path / "y" / ".." / "x")
    find_images([folder], "a2b", folder / "out")


def test_images_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, cause in {"missing": "does not exist", "empty": "contains no images"}.items():
        with pytest.raises(DatasetError, match=f"{name} {cause}"):
            find_images([tmp_path / name], "a2b", tmp_path / "out")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DatasetError, match=r"cannot be read \(Permission denied\): check"):
        list_images(tmp_path)


def test_without_input_the_runs_own_test_images(tmp_path):
    data = tmp_path / "data"
    for split in ("trainA", "trainB", "testA"):
        fill(data / split, [f"{split}.png"])
    run = tmp_path / "run"
    run.mkdir()
    write_text(run / "config.json", Config(data_dir=str(data)).to_json())
    assert load_test_images(run, "a2b", "out").names == ("testA.png",)
    with pytest.raises(ValueError, match="without testB: give images with --input"):
        load_test_images(run, "b2a", "out")
    with pytest.raises(ValueError, match="testA holds the originals: use another --output"):
        load_test_images(run, "a2b", data / "testA")


@pytest.mark.parametrize("contents", [None, "", "[]", '{"colour": 1}'])
def test_without_input_and_settings_the_message_says_so(tmp_path, contents):
    if contents is not None:
        (tmp_path / "config.json").write_text(contents)
    with pytest.raises(ValueError, match=r"(is not a run folder|cannot be read).*--input") as error:
        load_test_images(tmp_path, "a2b", "out")
    assert one_line(error)


def test_a_generators_file_has_no_images_of_its_own(run):
    with pytest.raises(ValueError, match=r"a2b\.keras is not a run folder.*with --input"):
        load_test_images(run / "a2b.keras", "a2b", "out")


# === The script ===


def test_a_bad_image_is_named_and_the_others_translated(script, run, tmp_path, capsys):
    photos = fill(tmp_path / "photos", ["a.png", "c.png"])
    (photos / "b.jpg").write_text("no image")
    assert translate(script, run, tmp_path / "out", photos) == 1
    assert names_in(tmp_path / "out") == ["a.png", "c.png", "index.html", "index_files"]
    printed = capsys.readouterr()
    assert re.search(r"left out b\.jpg: .*not a JPEG", printed.err)
    assert "1 image could not be translated" in printed.err
    assert "a2b: 2 images" in printed.out
    expected = load_translator(run, "a2b")(read_image(photos / "c.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "c.png"), expected)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 2


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_names_in_any_script_and_every_suffix(script, run, tmp_path):
    names = ["été 1.jpg", "夏.png", "зима.gif", "x.JPEG", "a.webp", "b.bmp", "c.tif", "&<.png"]
    photos = fill(tmp_path / "photos", names, 5, 6)
    assert translate(script, run, tmp_path / "out", photos) == 0
    assert names_in(tmp_path / "out") == sorted([*names, "index.html", "index_files"])
    for name in names:
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (6, 5)
            assert image.format == SUFFIXES[Path(name).suffix.lower()]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(names)
    assert "夏.png" in page and "&amp;&lt;.png" in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_do_not_stop_the_rest(script, run, tmp_path):
    photos = fill(tmp_path / "photos", ["a.png"])
    os.rename(photos / "a.png", os.fsencode(photos) + b"/\xe9t\xe9.png")  # Latin-1
    assert translate(script, run, tmp_path / "out", photos) == 0
    assert len(names_in(tmp_path / "out")) == 3


def test_both_directions_of_a_dataset(script, run, tmp_path):
    data = tmp_path / "data"
    fill(data / "testA", ["1.png", "2.png"])
    fill(data / "testB", ["1.png"])
    assert translate(script, run, tmp_path / "out", data, direction="both") == 0
    assert names_in(tmp_path / "out" / "a2b") == ["1.png", "2.png", "index.html", "index_files"]
    assert names_in(tmp_path / "out" / "b2a") == ["1.png", "index.html", "index_files"]
    for direction, split in (("a2b", "testA"), ("b2a", "testB")):
        expected = load_translator(run, direction)(read_image(data / split / "1.png"))
        fake = read_image(tmp_path / "out" / direction / "1.png")
        np.testing.assert_array_equal(fake, expected)


def test_sub_folders_keep_their_places(script, run, tmp_path, capsys):
    photos = fill(tmp_path / "photos", ["1.png"])
    for day in ("mon", "tue"):
        fill(photos / day, ["1.png"])
    for _ in range(2):  # the second time, its own output is among the originals
        assert translate(script, run, photos / "out", photos, recursive=True) == 0
        assert names_in(photos / "out") == ["1.png", "index.html", "index_files", "mon", "tue"]
        assert names_in(photos / "out" / "tue") == ["1.png"]
    assert "skipped what is not an image, 1 in all (out/)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"1\.png would be replaced"):
        find_images([photos], "a2b", photos, recursive=True)
    fill(tmp_path / "more" / "tue", ["1.png"])
    with pytest.raises(ValueError, match=r"photos.tue.1\.png and .*both become tue/1\.png"):
        find_images([photos, tmp_path / "more"], "a2b", "out", recursive=True)


def test_originals_side_by_side_are_never_replaced(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for split in ("train", "val"):
        fill(tmp_path / "data" / split, ["1.png"])
    config = Config(data_dir=str(tmp_path / "data"), side_by_side=True)
    write_text(run / "config.json", config.to_json())
    assert load_test_images(run, "b2a", "out").read(0).shape == (12, 8, 3)
    with pytest.raises(ValueError, match="val holds the originals: use another --output"):
        load_test_images(run, "a2b", tmp_path / "data" / "val")


def test_resize_scales_the_longer_side(script, run, tmp_path):
    photos = fill(tmp_path / "photos", ["low.png"], 10, 40)
    fill(photos, ["high.png"], 40, 20)
    assert translate(script, run, tmp_path / "out", photos, resize=16) == 0
    assert read_image(tmp_path / "out" / "low.png").shape == (4, 16, 3)
    assert read_image(tmp_path / "out" / "high.png").shape == (16, 8, 3)


def test_a_size_beyond_all_bounds_is_the_images_error(script, run, tmp_path, capsys):
    photos = fill(tmp_path / "photos", ["a.png"])
    assert translate(script, run, tmp_path / "out", photos, resize=100_000) == 1
    assert "100000 x 75000 would be more than 50000000 pixels" in capsys.readouterr().err


def test_embedded_test_images_get_a_suffix_and_a_page(script, run, tmp_path):
    mine = tmp_path / "run"
    mine.mkdir()
    (mine / "b2a.keras").write_bytes((run / "b2a.keras").read_bytes())
    write_text(mine / "config.json", Config(load_size=12, crop_size=8).to_json())
    assert translate(script, mine, tmp_path / "out", direction="b2a") == 0
    assert len(names_in(tmp_path / "out")) == 24 + 2
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 24


def test_wrong_flags_are_found_before_any_work(script, run, tmp_path):
    photos = fill(tmp_path / "photos", ["1.png"])
    one = tmp_path / "one"
    one.mkdir()
    (one / "a2b.keras").write_bytes((run / "a2b.keras").read_bytes())
    (tmp_path / "file").touch()
    out = tmp_path / "out"
    cases = [
        ("resize is 0: use 1 or more", run, out, {"resize": 0}),
        ("has only a2b.keras: use --direction=a2b", one, out, {"direction": "both"}),
        ("single generator: use --direction=a2b", one / "a2b.keras", out, {"direction": "both"}),
        ("file cannot be written .*another --output", run, tmp_path / "file", {}),
        ("file.a2b cannot be written .*another --output", run, tmp_path / "file" / "a2b", {}),
        ("nowhere does not exist", tmp_path / "nowhere", out, {}),
    ]
    for message, run_dir, output, options in cases:
        with pytest.raises(ValueError, match=message) as error:
            translate(script, run_dir, output, photos, **options)
        assert one_line(error)
        assert not out.exists()


def test_the_command_ends_with_one_line_and_a_code(tmp_path):
    """Runs the real command: a user's error gives one line instead of a traceback."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, SCRIPT, "--run_dir=missing", "--input", "x.png", "--output=out"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: missing does not exist: name a run folder"
    )
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == []
