import dataclasses
import hashlib
import sys
import urllib.error

import h5py
import keras
import numpy as np
import pytest

from tf_cyclegan.data.resizing import resize
from tf_cyclegan.evaluation import features
from tf_cyclegan.evaluation.features import BATCH, CAFFE_MEAN, load_features
from tf_cyclegan.generators import ResNetGenerator


def noise(height=8, width=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def network(height=8, width=8, flat=False):
    """Returns a network that doubles its input, so that its features are easy to compute."""
    layers = [keras.layers.Input((height, width, 3)), keras.layers.Rescaling(2.0)]
    layers.append(keras.layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer="ones"))
    if flat:
        layers.append(keras.layers.GlobalMaxPooling2D())
    return keras.Sequential(layers)


def saved(folder, name="small.keras", **options):
    network(**options).save(folder / name)
    return str(folder / name)


def by_hand(image):
    """Computes the features: BGR minus the mean, doubled, and averaged over the pixels."""
    return 2 * (image[:, :, ::-1].astype(np.float64) - CAFFE_MEAN).mean(axis=(0, 1))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("name", ["small.keras", "small.h5"])
def test_a_keras_network_on_caffe_colours(tmp_path, name):
    path = saved(tmp_path, name)
    extract = load_features(path)
    images = [noise(seed=seed) for seed in range(3)]
    vectors = extract(iter(images))
    assert vectors.shape == (3, 3) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [by_hand(p) for p in images], rtol=1e-4, atol=1e-3)
    assert extract.name == name
    assert extract.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_a_vector_is_taken_as_it_is(tmp_path):
    image = noise()
    expected = 2 * (image[:, :, ::-1] - CAFFE_MEAN).max(axis=(0, 1))
    vectors = load_features(saved(tmp_path, flat=True))([image])
    np.testing.assert_allclose(vectors, [expected], rtol=1e-4)


def test_any_size_is_resized_to_the_networks(tmp_path):
    extract = load_features(saved(tmp_path, height=6, width=10))
    images = [noise(20, 30), noise(6, 10), noise(5, 40)]
    expected = [by_hand(resize(image, (6, 10))) for image in images]
    np.testing.assert_allclose(extract(images), expected, rtol=1e-4, atol=1e-3)
    assert "bicubic to 6 x 10" in extract.resizing


def test_without_a_size_of_its_own_images_must_agree(tmp_path):
    extract = load_features(saved(tmp_path, height=None, width=None))
    assert extract.resizing == "none"
    for side in (5, 9):
        image = noise(side, side)
        np.testing.assert_allclose(extract([image])[0], by_hand(image), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"one of \(9, 8\) follows others: resize them all"):
        extract([noise(), noise(9, 8)])


def test_batches_keep_the_order(tmp_path):
    extract = load_features(saved(tmp_path))
    images = [noise(seed=seed) for seed in range(BATCH + 3)]
    expected = np.concatenate([extract([image]) for image in images])
    np.testing.assert_allclose(extract(images), expected, rtol=1e-4, atol=1e-3)


def test_images_are_read_a_batch_at_a_time(tmp_path, monkeypatch):
    extract = load_features(saved(tmp_path))
    events = []
    monkeypatch.setattr(features, "_rgb", lambda image: events.append("read") or image)
    run = extract.network
    watched = dataclasses.replace(extract, network=lambda b: events.append("run") or run(b))
    watched(noise() for _ in range(2 * BATCH))
    assert events.index("run") <= BATCH + 1


def test_gray_becomes_rgb(tmp_path):
    extract = load_features(saved(tmp_path))
    gray = noise(channels=1)
    np.testing.assert_array_equal(extract([gray]), extract([gray.repeat(3, axis=2)]))


def test_images_that_are_none(tmp_path):
    extract = load_features(saved(tmp_path))
    for wrong in (noise() / 255, noise()[0], noise(channels=2)):
        with pytest.raises(ValueError, match=r"uint8 \[h, w, 1 or 3\], not "):
            extract([wrong])
    with pytest.raises(ValueError, match="no images"):
        extract([])


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_files_that_are_no_feature_network(tmp_path):
    small = network()
    small.save_weights(tmp_path / "only.weights.h5")
    (tmp_path / "text.h5").write_text("no network")
    (tmp_path / "text.keras").write_text("no network")
    (tmp_path / "photo.png").touch()
    gray = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten()])
    gray.save(tmp_path / "gray.keras")
    generator = ResNetGenerator(filters=4, blocks=1)
    generator.build((None, None, None, 3))
    generator.save(tmp_path / "a2b.keras")
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    keras.Model([a, b], a + b).save(tmp_path / "two.keras")
    code = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x)])
    for suffix in ("keras", "h5"):
        code.save(tmp_path / f"code.{suffix}")
    cases = {
        "only.weights.h5": "holds only weights, no architecture.*saved with model.save",
        "text.h5": "cannot be loaded",
        "text.keras": "cannot be loaded",
        "photo.png": "is not a feature network: use inception-clean",
        "missing.h5": "does not exist",
        "gray.keras": r"maps \(None, 8, 8, 1\) to \(None, 64\): use a network from \[n, h, w, 3\]",
        "two.keras": "use a network from",
        "a2b.keras": "maps None to None: use a network from",
        "code.keras": "cannot be loaded .*Lambda",
        "code.h5": "cannot be loaded .*Lambda, which is not loaded since it could run code",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message) as error:
            load_features(str(tmp_path / name))
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_lambda_deep_inside_an_h5_is_found(tmp_path):
    path = tmp_path / "deep.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = (
            '{"class_name": "Functional", "config": {"layers": [{"class_name": "TimeDistributed", '
            '"config": {"layer": {"class_name": "Lambda", "config": {}}}}]}}'
        )
    with pytest.raises(ValueError, match="which is not loaded since it could run code"):
        load_features(str(path))


# === Inception: only errors, because its weights are not available here ===


@pytest.fixture
def clean_fid(monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="Inception needs PyTorch")
    helper = pytest.importorskip("cleanfid.downloads_helper", reason="Inception needs clean-fid")

    def no_network(url):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(helper.urllib.request, "urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return helper


@pytest.mark.parametrize("spec", ["inception", "inception-clean", "inception-legacy"])
def test_without_a_network_it_says_what_goes_where(clean_fid, tmp_path, spec):
    with pytest.raises(ValueError, match="downloaded .*no network.*: save https") as error:
        load_features(spec)
    place = tmp_path / "tf_cyclegan" / features.INCEPTION_FILE
    assert str(error.value).endswith(f"save {clean_fid.inception_url} as {place}")
    assert "\n" not in str(error.value)
    assert list(place.parent.iterdir()) == []  # no partial download


def test_other_weights_are_not_run(clean_fid, tmp_path):
    (tmp_path / "tf_cyclegan").mkdir()
    (tmp_path / "tf_cyclegan" / features.INCEPTION_FILE).write_bytes(b"a program")
    with pytest.raises(ValueError, match="not have the SHA-256 that clean-fid expects.*remove it"):
        load_features("inception")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    with pytest.raises(ValueError, match=r"another package.*pip install .tf_cyclegan\[metrics\]"):
        load_features("inception")
