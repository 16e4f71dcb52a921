"""Tests translations in tiles against untiled ones, and scripts/translate.py --tile."""

import importlib.util
import itertools
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, Case, make

from tf_cyclegan.cli import translate as translate_command
from tf_cyclegan.data import image_files as images
from tf_cyclegan.data.image_files import ImageError, read_image, write_image
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.inference import tiles
from tf_cyclegan.inference.tiles import SMALLEST_TILE, scratch_bytes, tiled_translator
from tf_cyclegan.inference.translator import translator
from tf_cyclegan.training.run_folder import save_generator

ROOT = Path(__file__).resolve().parents[1]
TILE = SMALLEST_TILE


def case(channels_in=3, **arguments):
    return Case(ResNetGenerator, {"filters": 3, **arguments}, (8, 8, channels_in))


NETWORKS = {
    "transpose": case(blocks=2),
    "resize": case(blocks=1, upsampling="resize"),
    "batch": case(blocks=1, norm="batch"),
    "batch_resize": case(blocks=1, norm="batch", upsampling="resize", channels=1),
    "none": case(blocks=1, norm="none", dropout=0.5),
    "separable": case(blocks=2, upsampling="resize", separable=True, kernel=5),
    "separable_batch": case(blocks=1, upsampling="resize", separable=True, norm="batch"),
    "no_blocks": case(blocks=0, channels_in=1),
    "no_blocks_gray": case(blocks=0, channels=1, upsampling="resize"),
}
# Less than a tile, one, slightly more, many; primes, and sides that are not multiples of 4.
SIZES = [(5, 9), (128, 96), (131, 149)]
MORE_SIZES = [(1, 300), (61, 127), (128, 257), (263, 134)]


def noise(height, width, channels=3, seed=0):
    """Returns noise on a gradient, so that some tiles are lighter than others."""
    dots = np.random.default_rng(seed).integers(0, 128, (height, width, channels))
    return (dots + np.linspace(0, 127, width)[:, np.newaxis]).astype(np.uint8)


def difference(one, other):
    """Returns the largest difference, in gray levels."""
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return np.abs(one.astype(int) - other).max()


@pytest.fixture(scope="module")
def network():
    return make(NETWORKS["transpose"])


@pytest.fixture(scope="module")
def functions(network, tmp_path_factory):
    """Returns the untiled and the tiled translator, which are traced once for all tests."""
    return translator(network), tiled_translator(network, TILE, tmp_path_factory.mktemp("scratch"))


# === tiled_translator ===


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_equal_the_untiled_result(tmp_path, name):
    network = make(NETWORKS[name])
    untiled, tiled = translator(network), tiled_translator(network, TILE, tmp_path)
    for height, width in SIZES:
        image = noise(height, width)
        expected = untiled(image)
        assert expected.std() > 20
        assert difference(tiled(image), expected) <= 1, (height, width)


@pytest.mark.parametrize("size", MORE_SIZES)
def test_any_size_can_be_tiled(functions, size):
    untiled, tiled = functions
    assert difference(tiled(noise(*size)), untiled(noise(*size))) <= 1


def test_tiles_alone_would_show_seams(functions):
    """Shows that the other tests are meaningful: separate tiles do differ from the whole."""
    image, (function, _) = noise(128, 256), functions
    alone = np.concatenate([function(image[:, :128]), function(image[:, 128:])], axis=1)
    assert difference(alone, function(image)) > 20


def test_images_one_after_the_other_do_not_mix(functions):
    untiled, tiled = functions
    for image in (noise(131, 40, seed=1), noise(131, 40, channels=1), noise(131, 40) // 4):
        assert difference(tiled(image), untiled(image)) <= 1


def test_a_generator_in_half_precision_is_computed_in_float32(tmp_path, functions):
    half = make(NETWORKS["transpose"], "mixed_bfloat16")
    image = noise(131, 140)
    for translate in (translator(half), tiled_translator(half, TILE, tmp_path)):
        assert difference(translate(image), functions[0](image)) <= 2


def test_a_unet_and_impossible_tiles_are_refused(tmp_path, network):
    unet = UNetGenerator(filters=2, depth=2)
    with pytest.raises(ValueError, match="^A UNetGenerator .*cannot be tiled: leave out --tile"):
        tiled_translator(unet, TILE, tmp_path)
    for tile in (-16, 0, TILE - 16, TILE + 2, TILE + 4):
        with pytest.raises(ValueError, match=f"^tile is {tile}: use a multiple of 16, 128 or more"):
            tiled_translator(network, tile, tmp_path)


def test_a_disk_that_is_too_small_is_found_before_any_work(tmp_path, network, monkeypatch):
    needed = scratch_bytes(network, 130, 149)
    assert needed == 132 * 152 * (3 * 3 + 3)
    usage = tiles.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(tiles.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    monkeypatch.setattr(tiles.tempfile, "TemporaryFile", None)
    with pytest.raises(ImageError, match=f"^{needed} bytes .*No space left.*set TMPDIR") as error:
        tiled_translator(network, TILE, tmp_path)(noise(130, 149))
    assert "\n" not in str(error.value)


def test_a_folder_for_scratch_files_that_is_missing_is_named(tmp_path, network):
    with pytest.raises(ImageError, match="missing .No such file.*set TMPDIR to a folder that"):
        tiled_translator(network, TILE, tmp_path / "missing")(noise(130, 149))


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, network):
    """A limit on the file size simulates a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(ImageError, match=r"do not fit into .* \(File too large\)") as error:
            tiled_translator(network, TILE, tmp_path)(noise(130, 149))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# === Its parts ===


def test_moments_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    whole = rng.normal(1000, 0.01, (1, 60, 50, 2)) * [1, 0] + [
        0,
        3,
    ]  # E[x^2] - E[x]^2 would lose all its digits
    whole = whole.astype(np.float32)
    parts = [whole[:, :7], whole[:, 7:, :49], whole[:, 7:, 49:]]
    mean, variance = tiles._merge(tiles._moments(part) for part in parts)
    exact = whole.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2)), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("height, width", [(8, 8), (32, 33), (100, 1), (131, 300)])
def test_windows_cover_a_map_once_and_are_computed_in_one_size(height, width):
    seen = np.zeros((height, width), int)
    sizes = set()
    for wanted, computed in tiles._Tiles(4 * height).windows(128, (height, width, 5)):
        seen[slice(*wanted[0]), slice(*wanted[1])] += 1
        sizes.add(tuple(stop - start for start, stop in computed))
        for (start, stop), (first, last), size in zip(
            wanted, computed, (height, width), strict=True
        ):
            assert 0 <= first <= start < stop <= last <= size
            assert last - first <= 32
    assert (seen == 1).all()
    assert len(sizes) == 1


def test_a_map_on_disk_keeps_what_is_written(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 7, 3)).astype(np.float32)
    with tiles._Map(tmp_path, values.shape, np.float32) as kept:
        for rows, columns in itertools.product([(4, 9), (0, 4)], [(0, 2), (2, 7)]):
            kept.write((rows, columns), values[slice(*rows), slice(*columns)])
        np.testing.assert_array_equal(kept.read(((3, 8), (1, 6))), values[3:8, 1:6])
        assert list(tmp_path.iterdir()) == []  # it has no name, so the process cannot leave it


# === The scripts ===


def load(path):
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and tyro look up a class's module there
    spec.loader.exec_module(module)
    return module


def translate(run_dir, photo, output, tile):
    return translate_command.main(
        translate_command.Options(str(run_dir), str(output), input=(str(photo),), tile=tile)
    )


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    write_image(path, noise(130, 171))
    return path


def test_the_command_gives_the_same_with_and_without_tiles(tmp_path, photo, monkeypatch):
    save_generator(make(case(blocks=0)), tmp_path / "a2b.keras")
    for name, tile in (("untiled", None), ("tiled", TILE)):
        assert translate(tmp_path, photo, tmp_path / name, tile) == 0
    fakes = [read_image(tmp_path / name / "photo.png") for name in ("untiled", "tiled")]
    assert difference(*fakes) <= 1
    names = sorted(p.name for p in (tmp_path / "tiled").iterdir())
    assert names == ["index.html", "index_files", "photo.png"]

    # Tiles allow images above the usual size limit, up to a larger limit.
    monkeypatch.setattr(images, "MAX_PIXELS", 130 * 171 - 1)
    for limit, code in ((130 * 171, 0), (130 * 171 - 1, 1)):
        monkeypatch.setattr(tiles, "MAX_TILED_PIXELS", limit)
        assert translate(tmp_path, photo, tmp_path / "limited", TILE) == code
    assert translate(tmp_path, photo, tmp_path / "limited", None) == 1


def test_wrong_tiles_are_found_before_any_work(tmp_path, network, photo):
    save_generator(network, tmp_path / "a2b.keras")
    save_generator(make(CASES["unet"]), tmp_path / "unet.keras")
    for name, tile, message in (
        ("a2b", 1022, "tile is 1022: use a multiple of 16"),
        ("unet", 1024, "A UNetGenerator .*cannot be tiled"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            translate(tmp_path / f"{name}.keras", photo, tmp_path / "out", tile)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_benchmark_compares_and_shows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # it imports others
    benchmark = load(ROOT / "benchmarks" / "tiles.py")
    options = benchmark.Options(megapixels=0.03, filters=2, blocks=0, tile=TILE, check=True)
    result = benchmark.check(options, tmp_path)
    assert result["tiled to untiled"]["max"] <= 1 and result["tiled to float64"]["max"] <= 1
    assert result["tiles alone to float64"]["max"] > 20
    assert read_image(tmp_path / "check.png").shape[1] > 7 * 170
