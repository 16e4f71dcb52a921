"""Tests load_dataset, TrainingData and augment: which images are trained on, and in which order."""

import dataclasses
import importlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_cyclegan.data import folders as folders_module
from tf_cyclegan.data.cache import cache_folder
from tf_cyclegan.data.image_files import (
    DatasetError,
    ImageError,
    ImageSet,
    read_image,
    read_size,
    to_channels,
    to_uint8,
    write_image,
)
from tf_cyclegan.data.resizing import RandomChanges, ResizedImages, augment, resize, resized_size
from tf_cyclegan.data.synthetic import TEST, TRAIN, landscape
from tf_cyclegan.training.batches import TrainingData, load_dataset
from tf_cyclegan.training.config import PRESETS, Config

# Images stay unchanged, so that any pixel identifies its image.


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    """Allows images that are too small for networks, since these tests have none."""
    monkeypatch.setattr(Config, "smallest_crop", 1)


PLAIN = Config(preprocess="none", flip=False, batch_size=1)
CROPPED = Config(preprocess="resize_and_crop", load_size=14, crop_size=8, flip=True)


def as_set(images):
    return ImageSet(
        names=tuple(f"{i}.png" for i in range(len(images))),
        read=lambda i: images[i],
    )


def levels(first, count, shape=(4, 4, 3)):
    """Returns a domain where each image has a single level: `first`, `first` + 1 and so on."""
    return as_set([np.full(shape, first + i, np.uint8) for i in range(count)])


def noise(count, height=20, width=20, seed=0, channels=3):
    shape = (count, height, width, channels)
    return as_set(list(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)))


def data_of(a, b, config, replicas=1, **changes):
    return TrainingData(
        {"trainA": a, "trainB": b}, dataclasses.replace(config, **changes), replicas
    )


def take(data, start, stop, *replica):
    """Returns all batches of a range of steps: [steps, n, h, w, c] for each domain."""
    pairs = list(data.batches(start, stop, *replica).as_numpy_iterator())
    return tuple(np.stack(domain) for domain in zip(*pairs, strict=True))


def orders(data, start, stop):
    """Returns the order of the images in each domain, identified by their levels."""
    return [to_uint8(images[..., 0, 0, 0]).ravel().tolist() for images in take(data, start, stop)]


# === Batches ===


def test_batches_are_float32_nhwc_from_minus_one_to_one():
    black_and_white = as_set([np.zeros((14, 14, 3), np.uint8), np.full((14, 14, 3), 255, np.uint8)])
    a, b = take(data_of(black_and_white, noise(2), CROPPED, batch_size=2), 0, 1)
    assert a.dtype == b.dtype == np.float32
    assert a.shape == b.shape == (1, 2, 8, 8, 3)
    assert sorted(a[0, :, 0, 0, 0]) == [-1, 1]
    assert -1 <= b.min() < -0.7 and 0.7 < b.max() <= 1
    spec = data_of(noise(1), noise(1), CROPPED, batch_size=2).batches(0, 1).element_spec
    assert [s.shape for s in spec] == [(2, 8, 8, 3)] * 2  # static, as XLA and the pools need


def test_same_seed_same_batches_another_seed_others():
    a, b = noise(5), noise(4, seed=1)
    first, again, other = (take(data_of(a, b, CROPPED, seed=seed), 0, 6) for seed in (3, 3, 4))
    for domain in range(2):
        np.testing.assert_array_equal(first[domain], again[domain])
        assert not np.array_equal(first[domain], other[domain])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_starting_anywhere_gives_what_would_have_come(batch_size):
    data = data_of(noise(5), noise(4, seed=1), CROPPED, batch_size=batch_size)
    whole = take(data, 0, 9)
    for start in (1, 4, 8):  # in the middle of the first epoch and in a later epoch
        rest = take(data, start, 9)
        for domain in range(2):
            np.testing.assert_array_equal(rest[domain], whole[domain][start:])


def test_each_domain_runs_through_all_its_images_in_its_own_order():
    data = data_of(levels(0, 7), levels(100, 5), PLAIN)
    assert data.steps_per_epoch == 7
    a, b = orders(data, 0, 35)
    a, b = np.reshape(a, (5, 7)), np.reshape(b, (7, 5))
    np.testing.assert_array_equal(np.sort(a), [range(7)] * 5)
    np.testing.assert_array_equal(np.sort(b), [range(100, 105)] * 7)
    assert len({tuple(order) for order in a}) == 5
    assert len({tuple(order) for order in b}) > 4


def test_orders_of_the_domains_are_independent():
    a, b = orders(data_of(levels(0, 6), levels(0, 6), PLAIN), 0, 600)
    assert a != b
    pairs = np.zeros((6, 6), int)
    np.add.at(pairs, (a, b), 1)
    assert pairs.min() >= 4  # 600 / 36 if evenly distributed
    firsts = np.bincount(a[::6], minlength=6)
    assert firsts.min() >= 5  # 100 / 6 if evenly distributed


def test_one_image_is_a_dataset():
    a, b = orders(data_of(levels(5, 1), levels(7, 1), PLAIN), 0, 3)
    assert a == [5] * 3 and b == [7] * 3


@pytest.mark.parametrize(
    "count_a, count_b, batch_size, replicas, steps",
    [(7, 5, 1, 1, 7), (5, 7, 2, 1, 4), (8, 1, 2, 2, 2), (9, 1, 2, 2, 3), (1, 1, 4, 2, 1)],
)
def test_steps_per_epoch(count_a, count_b, batch_size, replicas, steps):
    a, b = levels(0, count_a), levels(0, count_b)
    assert data_of(a, b, PLAIN, replicas, batch_size=batch_size).steps_per_epoch == steps


def test_the_last_batch_is_filled_from_the_next_round():
    data = data_of(levels(0, 3), levels(0, 3), PLAIN, batch_size=2)
    a, _ = orders(data, 0, 3)
    assert data.steps_per_epoch == 2
    assert sorted(a[:3]) == sorted(a[3:]) == [0, 1, 2]


def test_replicas_share_the_batch_of_one():
    a, b = noise(5), noise(4, seed=1)
    alone = take(data_of(a, b, CROPPED, batch_size=6), 0, 4)
    shared = data_of(a, b, CROPPED, replicas=3, batch_size=2)
    replicas = [take(shared, 0, 4, replica, 1) for replica in range(3)]
    for domain in range(2):
        together = np.concatenate([batches[domain] for batches in replicas], axis=1)
        np.testing.assert_array_equal(together, alone[domain])
    # A pipeline for several replicas yields their batches in turn.
    last_two = take(shared, 0, 4, 1, 2)
    for domain in range(2):
        in_turn = np.stack([replicas[r][domain] for r in (1, 2)], axis=1).reshape(8, 2, 8, 8, 3)
        np.testing.assert_array_equal(last_two[domain], in_turn)


def test_distributed_gives_every_replica_its_batch():
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(devices)
    count = strategy.num_replicas_in_sync
    data = data_of(noise(5), noise(4, seed=1), CROPPED, count, batch_size=2)
    steps = [
        np.concatenate([x.numpy() for x in strategy.experimental_local_results(real_a)])
        for real_a, _ in islice(data.distributed(strategy, 3, 6), 3)
    ]
    alone = data_of(noise(5), noise(4, seed=1), CROPPED, batch_size=2 * count)
    np.testing.assert_array_equal(np.stack(steps), take(alone, 3, 6)[0])


# === Cache, crops and flips ===


@pytest.mark.parametrize("cache, reads", [("memory", 3), ("none", 9)])
def test_cached_images_are_read_once(cache, reads):
    images = noise(3)
    read = []
    counting = ImageSet(images.names, lambda i: (read.append(i), images.read(i))[1])
    data = data_of(counting, noise(3), CROPPED, cache=cache)
    list(data.batches(0, 9))
    assert len(read) == reads


PREPROCESSES = ["resize_and_crop", "crop", "scale_width_and_crop", "scale_width", "none"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Writes the image files of two domains, one of them gray, and uses a separate cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for domain, channels in (("A", 1), ("B", 3)):
        folder = tmp_path / f"train{domain}"
        folder.mkdir()
        for i in range(5):
            image = noise(1, 20 + 4 * i, 24, seed=i, channels=channels).read(0)
            write_image(folder / f"{i}.png", image)
    return tmp_path


def in_folders(folders, **changes):
    one = {"data_dir": str(folders), "channels_a": 1, "pool_size": 0, "batch_size": 1}
    return dataclasses.replace(CROPPED, **one | changes)


def data_in(folders, **changes):
    config = in_folders(folders, **changes)
    return TrainingData(load_dataset(config), config)


@pytest.mark.parametrize("preprocess", PREPROCESSES)
def test_the_same_comes_wherever_images_are_kept(folders, preprocess):
    def batches(cache):
        data = data_in(folders, cache=cache, preprocess=preprocess)
        return data.shape_a, list(data.batches(0, 12).as_numpy_iterator())

    shape, expected = batches("memory")
    for cache in ("none", "none", "disk", "disk"):  # the second run reuses the cache of the first
        again, pairs = batches(cache)
        assert again == shape
        for pair, other in zip(expected, pairs, strict=True):
            np.testing.assert_array_equal(pair[0], other[0])
            np.testing.assert_array_equal(pair[1], other[1])


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_later_starts_read_no_image_until_a_file_changes(folders, monkeypatch, cache):
    data_in(folders, cache=cache)
    looked_at = []
    augment_module = importlib.import_module("tf_cyclegan.data.resizing")  # not the function
    for module, name in ((folders_module, "read_image"), (augment_module, "read_size")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda path, f=original: (looked_at.append(path.name), f(path))[1]
        )
    data_in(folders, cache=cache)
    assert looked_at == []
    changed = folders / "trainB" / "2.png"
    write_image(changed, noise(1, 50, 50).read(0))
    data = data_in(folders, cache=cache)
    assert sorted(looked_at) == [f"{i}.png" for i in range(5)]  # only in the changed domain
    expected = data_in(folders, cache="memory").b[2]
    np.testing.assert_array_equal(data.b[2], expected)


def test_a_killed_writer_and_a_damaged_cache_are_made_good(folders):
    expected = np.array(data_in(folders, cache="disk").a[4])
    kept = cache_folder()
    files = sorted(kept.glob("*.pixels"))
    assert len(files) == 2
    for path in files:
        path.with_suffix(".part").write_bytes(b"half")
        path.write_bytes(path.read_bytes()[:-3])
    np.testing.assert_array_equal(data_in(folders, cache="disk").a[4], expected)
    assert not list(kept.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk"])
def test_damaged_sizes_are_read_again(folders, content):
    expected = data_in(folders, cache="none", preprocess="none").a.sizes
    kept = cache_folder()
    (file, *_) = kept.glob("*.sizes.npy")
    for path in kept.glob("*.sizes.npy"):
        path.write_bytes(content)
    np.testing.assert_array_equal(
        data_in(folders, cache="none", preprocess="none").a.sizes, expected
    )
    assert file.stat().st_size > len(content)


def test_an_image_that_is_replaced_during_training_is_named(folders):
    data = data_in(folders, cache="none", preprocess="crop")
    Image.new("RGB", (99, 60)).save(folders / "trainB" / "3.png")
    with pytest.raises(tf.errors.OpError):
        list(data.batches(0, 5))
    assert "3.png: another image has replaced it during training" in str(data.error)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_an_image_too_small_for_the_networks_is_named(folders, cache):
    config = in_folders(folders, cache=cache, preprocess="none")
    small = dataclasses.replace(config.preprocessing, smallest=400)
    with pytest.raises(DatasetError, match="0.png: .* too few for the networks, .* of 400 or more"):
        ResizedImages(load_dataset(config)["trainA"], small)


def test_starts_at_once_fill_the_disk_cache_once(folders):
    """Simulates workers on one machine by threads. Each has its own FileLock, as a process does."""
    config, read = in_folders(folders, cache="disk"), []
    images = load_dataset(config)["trainB"]
    counting = dataclasses.replace(images, read=lambda i: (read.append(i), images.read(i))[1])
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: ResizedImages(counting, config.preprocessing), range(3)))
    assert sorted(read) == list(range(5))
    for data in made:
        np.testing.assert_array_equal(data[3], made[0][3])


def test_a_cache_that_does_not_fit_is_refused_with_the_remedy(folders, monkeypatch):
    for preprocess in ("resize_and_crop", "none"):
        with monkeypatch.context() as patch:
            patch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3000))
            with pytest.raises(DatasetError, match="GB are free: use --cache=disk or --cache=none"):
                data_in(folders, cache="memory", preprocess=preprocess)
            patch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=900))
            with pytest.raises(DatasetError, match="GB free: use --cache=none, or set"):
                data_in(folders, cache="disk", preprocess=preprocess)
    (folders / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders / "file"))
    with pytest.raises(DatasetError, match="cannot be cached in .*: use --cache=none, or set"):
        data_in(folders, cache="disk")
    data_in(folders, cache="none")  # works: there, the cache only saves time
    with pytest.raises(DatasetError, match="a file for each image, .*: use --cache=memory or"):
        data_of(noise(1), noise(1), CROPPED, cache="disk")


def test_sizes_by_headers_are_those_of_the_images(tmp_path):
    for i, (kind, orientation) in enumerate(
        [("png", 1), ("jpg", 6), ("webp", 1), ("tif", 1), ("tif", 6), ("gif", 1), ("bmp", 1)]
    ):
        exif = Image.Exif()
        exif[274] = orientation
        image = Image.new("RGB", (24, 16))
        image.save(tmp_path / f"{i}.{kind}", **({"exif": exif} if orientation > 1 else {}))
        path = tmp_path / f"{i}.{kind}"
        assert read_size(path) == read_image(path).shape[:2], path


def test_an_image_that_vanishes_leaves_one_line(folders):
    data = data_in(folders, cache="none")
    assert data.error is None
    (folders / "trainB" / "3.png").unlink()
    with pytest.raises(tf.errors.OpError):
        list(data.batches(0, 5))
    assert isinstance(data.error, ImageError)
    assert "3.png: no such file" in str(data.error) and "\n" not in str(data.error)


def test_cached_images_are_cropped_and_flipped_anew_each_epoch():
    a, _ = take(data_of(noise(1), noise(1), CROPPED, cache="memory"), 0, 30)
    assert len({image.tobytes() for image in a}) > 20  # of 98: 49 positions, flipped or not


def test_domains_are_cropped_independently():
    a, b = take(data_of(noise(1), noise(1), CROPPED), 0, 20)
    assert sum(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) < 5


def test_pairs_come_together_cropped_and_flipped_alike():
    scenes = noise(5)
    a, b = take(data_of(scenes, scenes, CROPPED, **PRESETS["pix2pix"]), 0, 20)
    np.testing.assert_array_equal(a, b)
    assert len({image.tobytes() for image in a}) > 15
    with pytest.raises(DatasetError, match="pairs differ in size: use --preprocess"):
        data_of(noise(1, 8, 12), noise(1, 12, 8), PLAIN, **PRESETS["pix2pix"])


def draws(count, crop=8, side=12, flip=True):
    """Returns (top, left, flipped) of many crops of an image whose pixels store their position."""
    rows, columns = np.indices((side, side))
    image = tf.constant(np.stack([rows, columns, columns], axis=-1).astype(np.uint8))
    seeds = tf.stack([tf.fill([count], tf.constant(7, tf.int64)), tf.range(count, dtype=tf.int64)])
    one = tf.function(lambda seed: augment(image, crop, RandomChanges(flip), seed))
    images = tf.map_fn(one, tf.transpose(seeds), fn_output_signature=tf.float32)
    pixels = to_uint8(images.numpy()).astype(int)
    flipped = pixels[:, 0, 0, 1] > pixels[:, 0, -1, 1]
    return pixels[:, 0, 0, 0], pixels[:, 0, :, 1].min(axis=1), flipped


def test_crops_cover_every_place_evenly_and_half_are_flipped():
    top, left, flipped = draws(1000)
    for offsets in (top, left):
        assert set(offsets) == {0, 1, 2, 3, 4}
        assert np.bincount(offsets).min() > 140  # 200 expected; 5 standard deviations are 63
    assert abs(flipped.mean() - 0.5) < 0.08  # 5 standard deviations
    for first, second in ((top, left), (top, flipped), (left, flipped)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.16


def test_nothing_is_drawn_where_nothing_is_asked_for():
    assert not draws(50, flip=False)[2].any()
    pixels = noise(1, 4, 6).read(0)
    image = augment(tf.constant(pixels), None, RandomChanges(False), tf.constant([1, 2], tf.int64))
    np.testing.assert_array_equal(to_uint8(image.numpy()), pixels)


def changed(pixels, place=0, crop=None, **changes):
    """Returns an image of [0, 255] after random changes, as floats."""
    seed = tf.constant([7, place], tf.int64)
    image = augment(tf.constant(pixels), crop, RandomChanges(**{"flip": False} | changes), seed)
    return (image.numpy() + 1) * 127.5


def test_half_are_flipped_vertically_and_crops_stay_as_they_are():
    pixels = noise(1, 8, 12).read(0)
    results = [changed(pixels, place, flip_vertical=True) for place in range(200)]
    flipped = [np.allclose(image, pixels[::-1], atol=1e-3) for image in results]
    assert all(
        f or np.allclose(r, pixels, atol=1e-3) for f, r in zip(flipped, results, strict=True)
    )
    assert abs(np.mean(flipped) - 0.5) < 0.18  # 5 standard deviations
    alike = [changed(pixels, 3, 4), changed(pixels, 3, 4, flip_vertical=True)]
    np.testing.assert_allclose(sorted(alike[0].ravel()), sorted(alike[1].ravel()), atol=1e-3)


def test_rotation_turns_around_the_center_by_up_to_the_angle():
    side = 41
    y, x = np.indices((side, side)) - side // 2
    # A bright disk at radius 12, whose place gives the angle.
    pixels = np.where((x - 12) ** 2 + y**2 <= 9, 255, 0).astype(np.uint8)[..., None].repeat(3, -1)
    angles = []
    for place in range(40):
        image = changed(pixels, place, rotate=30.0)[..., 0]
        row, column = ((image * part).sum() / image.sum() for part in (y, x))
        assert np.hypot(row, column) == pytest.approx(12, abs=0.3)
        angles.append(np.degrees(np.arctan2(row, column)))
    assert max(map(abs, angles)) <= 31
    assert min(angles) < -15 and max(angles) > 15
    plain = np.full((20, 30, 3), 200, np.uint8)  # what is outside is filled by mirroring
    np.testing.assert_allclose(changed(plain, rotate=45.0), plain, atol=1e-2)
    assert changed(plain, crop=12, rotate=45.0).shape == (12, 12, 3)


def test_color_jitter_changes_brightness_contrast_and_saturation():
    pixels = noise(1, 9, 7).read(0) // 2 + 60  # far from the limits
    gray = pixels.astype(float).mean(axis=-1, keepdims=True)
    factors = []
    for place in range(30):
        image = changed(pixels, place, color_jitter=0.2)
        new_gray = image.mean(axis=-1, keepdims=True)
        brightness = image.mean() / pixels.mean()
        contrast = new_gray.std() / gray.std() / brightness
        saturation = (image - new_gray).std() / (pixels - gray).std() / brightness / contrast
        factors.append((brightness, contrast, saturation))
    low, high = np.min(factors, axis=0), np.max(factors, axis=0)
    assert (low > 0.79).all() and (low < 0.9).all()
    assert (high < 1.21).all() and (high > 1.1).all()
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(np.transpose(factors))[first, second]) < 0.8
    white = np.full((4, 4, 3), 255, np.uint8)
    assert changed(white, 1, color_jitter=0.9).max() <= 255.001


def test_pairs_are_changed_alike_and_domains_on_their_own():
    changes = {"rotate": 20.0, "color_jitter": 0.3, "flip_vertical": True}
    scenes = noise(5)
    a, b = take(data_of(scenes, scenes, CROPPED, **PRESETS["pix2pix"] | changes), 0, 6)
    np.testing.assert_array_equal(a, b)
    a, b = take(data_of(noise(1), noise(1), CROPPED, **changes), 0, 6)
    assert not any(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_each_update_of_the_discriminators_has_images_of_its_own():
    data = data_of(noise(6), noise(4), PLAIN, d_steps=3)
    assert (data.batch, data.steps_per_epoch) == (3, 2)
    plain = data_of(noise(6), noise(4), PLAIN)
    one, three = take(plain, 0, 6)[0], take(data, 0, 2)[0]
    np.testing.assert_array_equal(np.reshape(three, np.shape(one)), one)


def test_images_of_different_sizes_have_no_penalty_between_the_domains():
    alone = {"batch_size": 1, "pool_size": 0}
    data_of(noise(2, 8, 12), noise(2, 12, 8), PLAIN, **alone, gradient_penalty=0.1)
    a, b = noise(2, 8, 12), noise(1, 12, 8)
    varied = as_set([a.read(0), b.read(0)])
    for changes in ({"adversarial": "wgan-gp"}, {"gradient_penalty": 1.0, "gradient_center": 1.0}):
        with pytest.raises(DatasetError, match="share a batch, a pool or a gradient penalty"):
            data_of(varied, a, PLAIN, **alone | changes)


def test_images_for_validation_are_held_out_of_training():
    config = Config(evaluate_every=1, val_share=0.25, seed=3)
    sets = load_dataset(config)
    again, other = load_dataset(config), load_dataset(dataclasses.replace(config, seed=4))
    everything = load_dataset(Config())
    for domain in "AB":
        names = [set(sets[f"{split}{domain}"].names) for split in ("train", "val")]
        assert [len(n) for n in names] == [300, 100]
        assert names[0] | names[1] == set(everything[f"train{domain}"].names)
        assert sets[f"val{domain}"].names == again[f"val{domain}"].names
        assert sets[f"val{domain}"].names != other[f"val{domain}"].names
        held_out = sets[f"val{domain}"]
        place = everything[f"train{domain}"].names.index(held_out.names[5])
        np.testing.assert_array_equal(held_out.read(5), everything[f"train{domain}"].read(place))
        assert sets[f"test{domain}"].names == everything[f"test{domain}"].names


def test_the_first_images_alone():
    sets, everything = load_dataset(Config(max_images=40)), load_dataset(Config())
    assert sets["trainA"].names == everything["trainA"].names[:40]
    assert sets["testB"].names == everything["testB"].names
    assert [len(sets[name]) for name in ("trainA", "trainB")] == [40, 40]
    sets = load_dataset(Config(max_images=1000, evaluate_every=1))
    assert [len(sets[name]) for name in ("trainA", "valA")] == [360, 40]


def test_images_for_validation_from_a_folder(tmp_path):
    for name, count in (("trainA", 3), ("trainB", 3), ("valA", 2), ("valB", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            write_image(tmp_path / name / f"{i}.png", noise(1, 8, 8).read(0))
    config = Config(data_dir=str(tmp_path), evaluate_every=1)
    sets = load_dataset(dataclasses.replace(config, val_dir=str(tmp_path)))
    assert [len(sets[n]) for n in ("trainA", "trainB", "valA", "valB")] == [3, 3, 2, 4]
    assert [len(s) for s in load_dataset(config).values()] == [1, 1, 2, 2]
    (tmp_path / "trainA" / "0.png").unlink()
    with pytest.raises(DatasetError, match="trainA has only 2 images, .*use --val_dir or --eval"):
        load_dataset(config)
    with pytest.raises(DatasetError, match="valA"):
        load_dataset(dataclasses.replace(config, val_dir=str(tmp_path / "trainA")))


# === Resizing ===


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (40, 50), (20, 31)])
def test_resize_is_pillows_bicubic(size, channels):
    image = noise(1, 20, 30, channels=channels).read(0)
    pil = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    expected = np.asarray(pil.resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(image, size), expected.reshape(*size, channels))


@pytest.mark.parametrize("size", [(32, 40), (100, 130)])
def test_resize_is_tensorflows_antialiased_bicubic_within_a_gray_level(size):
    # Pillow also clips between its two passes, so this image avoids values near black and white.
    image = landscape(0, "summer", 64, 80) // 2 + 64
    expected = tf.image.resize(image, size, method="bicubic", antialias=True)
    assert np.abs(resize(image, size) - np.rint(expected)).max() <= 1


@pytest.mark.parametrize(
    "preprocess, size, resized",
    [
        ("resize_and_crop", (30, 50), (286, 286)),
        ("crop", (301, 470), (301, 470)),
        ("scale_width_and_crop", (200, 143), (400, 286)),
        ("scale_width_and_crop", (50, 143), (256, 286)),  # at least as high as the crop
        ("scale_width", (200, 143), (400, 288)),
        ("scale_width", (297, 286), (296, 288)),
        ("none", (50, 49), (48, 48)),  # 12.5 and 12.25 times 4; halves round to even
        ("none", (55, 1), (56, 4)),
    ],
)
def test_resized_size(preprocess, size, resized):
    assert resized_size(*size, preprocess, 286, 256, 4) == resized


@pytest.mark.parametrize(
    "preprocess, shape",
    [
        ("resize_and_crop", (8, 8)),
        ("crop", (8, 8)),
        ("scale_width_and_crop", (8, 8)),
        ("scale_width", (24, 12)),
        ("none", (40, 20)),
    ],
)
def test_shapes_of_every_preprocess(preprocess, shape):
    data = data_of(noise(2, 41, 21), noise(2, 40, 20), CROPPED, preprocess=preprocess, load_size=12)
    assert data.shape_a == data.shape_b == (*shape, 3)
    a, b = take(data, 0, 2)
    assert a.shape == b.shape == (2, 1, *shape, 3)
    shown = data.examples({"trainA": noise(5, 33, 31), "trainB": noise(3)})
    assert [[image.shape for image in domain] for domain in shown] == [[(*shape, 3)] * 3] * 2


def test_unet_multiples_are_rounded_to():
    data = data_of(noise(1, 70, 50), noise(1, 70, 50), PLAIN, generator="unet", depth=4)
    assert data.shape_a == (64, 48, 3)


# === What cannot work ===


@pytest.mark.parametrize("settings", [{"batch_size": 2, "pool_size": 0}, {"pool_size": 1}])
@pytest.mark.parametrize("preprocess", ["none", "scale_width"])
def test_sizes_that_differ_cannot_share_a_batch_or_a_pool(preprocess, settings):
    different = as_set([noise(1, 8, 8).read(0), noise(1, 16, 8).read(0)])
    with pytest.raises(DatasetError, match=f"--preprocess={preprocess} .*crop.*--batch_size=1"):
        data_of(noise(1), different, PLAIN, preprocess=preprocess, crop_size=4, **settings)


def test_sizes_may_differ_otherwise():
    different = as_set([noise(1, 8, 8).read(0), noise(1, 16, 9).read(0)])
    data = data_of(noise(1), different, PLAIN, pool_size=0)
    assert data.shape_b == (None, None, 3)
    shapes = {b.shape for _, b in data.batches(0, 2).as_numpy_iterator()}
    assert shapes == {(1, 8, 8, 3), (1, 16, 8, 3)}
    for a, b, size in ((noise(1), different, 20), (different, different, 256)):
        shown = data_of(a, b, PLAIN, pool_size=0).examples({"trainA": a, "trainB": b})
        assert {p.shape for domain in shown for p in domain} == {(size, size, 3)}


def test_an_image_smaller_than_the_crop_is_named():
    small = as_set([noise(1).read(0), noise(1, 20, 7).read(0)])
    with pytest.raises(
        DatasetError, match=r"1\.png: 7 x 20 .* 8: use --preprocess=resize"
    ) as error:
        data_of(small, noise(1), CROPPED, preprocess="crop")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_a_damaged_file_is_named_before_the_first_step(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for domain in "AB":
        (tmp_path / f"train{domain}").mkdir()
        for name in ("one.jpg", "two.jpg"):
            write_image(tmp_path / f"train{domain}" / name, noise(1, 40, 40).read(0))
    whole = (tmp_path / "trainB" / "two.jpg").read_bytes()
    config = dataclasses.replace(CROPPED, data_dir=str(tmp_path), cache=cache)
    TrainingData(load_dataset(config), config)
    # With "none", only headers are read: damage after them is found when the image is used.
    (tmp_path / "trainB" / "two.jpg").write_bytes(whole[: 20 if cache == "none" else -200])
    sets = load_dataset(config)
    with pytest.raises(ImageError, match=r"trainB.two\.jpg: .*(cannot be decoded|damaged)"):
        TrainingData(sets, config)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_dataset_excludes_folders():
    with pytest.raises(DatasetError, match="dataset excludes data_a and data_b"):
        load_dataset(Config(dataset="cycle_gan/maps", data_a="x", data_b="y"))


def test_pairs_side_by_side_in_sub_folders(tmp_path):
    (tmp_path / "train" / "mon").mkdir(parents=True)
    both = noise(1, 40, 80).read(0)
    write_image(tmp_path / "train" / "mon" / "1.png", both)
    config = dataclasses.replace(CROPPED, data_dir=str(tmp_path), side_by_side=True, recursive=True)
    sets = load_dataset(config)
    assert sets["trainA"].names == ("mon/1.png",)
    np.testing.assert_array_equal(sets["trainA"].read(0), both[:, :40])
    np.testing.assert_array_equal(sets["trainB"].read(0), both[:, 40:])
    TrainingData(sets, dataclasses.replace(config, lambda_l1=1.0, pool_size=0))
    for other in ({"data_dir": None}, {"dataset": "cycle_gan/maps"}):
        with pytest.raises(DatasetError, match="side_by_side.*name a folder by data_dir"):
            load_dataset(dataclasses.replace(config, **other))


# === Gray, and the embedded data ===


def test_gray_domains(tmp_path):
    for domain in "AB":
        (tmp_path / f"train{domain}").mkdir()
        write_image(tmp_path / f"train{domain}" / "x.png", noise(1).read(0))
    config = dataclasses.replace(CROPPED, data_dir=str(tmp_path), channels_a=1)
    sets = load_dataset(config)
    gray = np.asarray(Image.fromarray(noise(1).read(0)).convert("L"))
    np.testing.assert_array_equal(sets["trainA"].read(0)[:, :, 0], gray)
    np.testing.assert_array_equal(sets["trainB"].read(0), noise(1).read(0))
    data = TrainingData(sets, config)
    assert data.shape_a == (8, 8, 1) and data.shape_b == (8, 8, 3)
    a, b = take(data, 0, 1)
    assert a.shape == (1, 1, 8, 8, 1) and b.shape == (1, 1, 8, 8, 3)
    assert [p.shape for (p,) in data.examples(sets)] == [(8, 8, 1), (8, 8, 3)]


def test_channels_are_exchanged():
    image = noise(1).read(0)
    gray = to_channels(image, 1)
    assert gray.shape == (20, 20, 1)
    np.testing.assert_array_equal(to_channels(image, 3), image)
    np.testing.assert_array_equal(to_channels(gray, 1), gray)
    np.testing.assert_array_equal(to_channels(gray, 3), np.repeat(gray, 3, axis=2))


def test_embedded_truth_shows_the_scenes_of_the_test():
    sets = load_dataset(Config(load_size=32))
    assert {name: len(s) for name, s in sets.items()} == {
        "trainA": TRAIN,
        "trainB": TRAIN,
        **dict.fromkeys(("testA", "truthA", "testB", "truthB"), TEST),
    }
    for domain, season, other in (("A", "summer", "winter"), ("B", "winter", "summer")):
        test, truth = sets[f"test{domain}"], sets[f"truth{domain}"]
        assert test.names == truth.names
        for i in (0, TEST - 1):
            index = int(test.names[i].removeprefix("landscape_").removesuffix(".png"))
            np.testing.assert_array_equal(test.read(i), landscape(index, season, 32, 32))
            np.testing.assert_array_equal(truth.read(i), landscape(index, other, 32, 32))
            assert test.read(i).shape == (32, 32, 3)


def test_embedded_scenes_are_unpaired_and_the_tests_unseen():
    sets = load_dataset(Config(load_size=8))
    splits = [set(sets[name].names) for name in ("trainA", "trainB", "testA", "testB")]
    assert sum(map(len, splits)) == len(set.union(*splits))
    for name, season in (("trainA", "summer"), ("trainB", "winter")):
        for i in (0, TRAIN - 1):  # the name contains the index of the scene
            index = int(sets[name].names[i].removeprefix("landscape_").removesuffix(".png"))
            np.testing.assert_array_equal(sets[name].read(i), landscape(index, season, 8, 8))


def test_embedded_scenes_come_in_pairs_where_training_needs_them():
    sets = load_dataset(Config(load_size=8, **PRESETS["pix2pix"]))
    assert sets["trainA"].names == sets["trainB"].names
    np.testing.assert_array_equal(sets["trainB"].read(7), landscape(7, "winter", 8, 8))
    unseen = {*sets["testA"].names, *sets["testB"].names} - {*sets["trainA"].names}
    assert len(unseen) == 2 * TEST


def test_embedded_data_in_gray_has_its_truth_in_the_other_domains_channels():
    sets = load_dataset(Config(load_size=16, channels_a=1, lambda_identity=0))
    channels = {name: s.read(0).shape[2] for name, s in sets.items()}
    assert channels == {
        "trainA": 1, "testA": 1, "truthB": 1, "trainB": 3, "testB": 3, "truthA": 3,
    }  # fmt: skip


def test_first_look_keeps_names_in_order():
    data = ResizedImages(levels(0, 40), PLAIN.preprocessing)
    assert [int(data[i][0, 0, 0]) for i in range(len(data))] == list(range(40))
