"""Tests the API for Keras users, `import tf_cyclegan as cg`, and the notebook."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import LOSSES, UNTUNED, write_landscapes

import tf_cyclegan as cg
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.inference.translator import find_generator, translator

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_landscapes(
        tmp_path_factory.mktemp("images"), (3, 5), folders=("photos", "paintings")
    )


def tiny(**arguments):
    return cg.CycleGAN(
        a2b=cg.ResNetGenerator(filters=2, blocks=0),
        b2a=cg.ResNetGenerator(filters=2, blocks=0),
        d_a=cg.PatchDiscriminator(filters=2, layers=1),
        d_b=cg.PatchDiscriminator(filters=2, layers=1),
        **{"pool_size": 2} | arguments,
    )


def data(folders, **arguments):
    return cg.data.unpaired(
        cg.data.images(folders / "photos", size=20, crop=16),
        cg.data.images(folders / "paintings", size=20, crop=16),
        **arguments,
    )


def weights(model):
    networks = (model.a2b, model.b2a, model.d_a, model.d_b)
    return [array for network in networks for array in network.get_weights()]


def assert_equal(one, other):
    assert one.steps_done == other.steps_done
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


# === The package ===


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_nothing():
    program = (
        "import sys, tf_cyclegan; print(sorted({'tensorflow', 'keras', 'numpy'} & {*sys.modules}))"
    )
    assert run(program) == "[]\n"


@pytest.mark.parametrize(
    "imports",
    [
        "import tf_cyclegan, keras",
        "import keras, tf_cyclegan",
        "import tf_cyclegan; tf_cyclegan.LinearDecay; import keras",  # loads Keras first
    ],
)
def test_the_import_is_enough_for_keras_to_load(imports, tmp_path):
    network = cg.ResNetGenerator(filters=2, blocks=0)
    network.build((None, None, None, 3))
    network.save(tmp_path / "a2b.keras")
    load = f"keras.saving.load_model({str(tmp_path / 'a2b.keras')!r})"
    assert run(f"{imports}; print({load}.name)").endswith(f"{network.name}\n")


def test_every_public_name_is_there():
    assert cg.__version__ and set(cg.__all__) <= set(dir(cg))
    for name in cg.__all__:
        assert getattr(cg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Cyclegan'"):
        cg.Cyclegan  # noqa: B018


# === The notebook, with few images and steps ===


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    variables: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            for full, toy in (("take(100)", "take(3)"), ("0200", "0006")):
                code = code.replace(full, toy)
            exec(code, variables)
    assert variables["model"].steps_done == 6
    assert cg.read_image("winter.png").shape == variables["photo"].shape


# === CycleGAN as a Keras model ===


def batches(count=3, size=2):
    """Returns the same batches each time, so that training runs can be compared."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, count * size, 16, 16, 3)).astype(np.float32)
    pairs = tf.data.Dataset.from_tensor_slices(tuple(images))
    return pairs.batch(size, drop_remainder=True).with_options(UNTUNED)


def test_two_domains_come_in_different_orders_with_different_crops(tmp_path):
    for name in ("photos", "paintings"):
        (tmp_path / name).mkdir()
        for i in range(8):  # a level for each image, on a gradient that shows crop and flip
            pixels = np.full((20, 20, 3), 30 * i, np.uint8)
            pixels[..., 1], pixels[..., 2] = np.mgrid[:200:10, :200:10]
            cg.write_image(tmp_path / name / f"{i}.png", pixels)
    pairs = data_of_both(tmp_path)
    assert data_of_both(tmp_path) == pairs, "the same seed gives the same epochs"
    levels, crops = zip(*[(pair[0], pair[1]) for pair in pairs], strict=True)
    assert len(set(levels)) > 8, "an image of a meets several of b"
    assert sum(a != b for a, b in crops) > len(crops) / 2


def data_of_both(folder):
    """Returns the levels and the corners of both images of each pair in three epochs."""
    pairs = []
    dataset = data(folder)
    for _ in range(3):
        for both in dataset.as_numpy_iterator():
            levels, crops = zip(
                *[(float(x[0, 0, 0, 0]), x[0, ::15, ::15, 1:].tobytes()) for x in both], strict=True
            )
            pairs.append((levels, crops))
    return pairs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n | {"b2a": n["a2b"]}, "are the same object: create two"),
        (lambda n: n | {"d_b": n["d_a"]}, "are the same object: create two"),
        (lambda n: n | {"d_b": None}, "d_b is a NoneType: pass a Keras model"),
    ],
)
def test_networks_that_cannot_be_used_are_refused(change, message):
    networks = {name: cg.ResNetGenerator(filters=2, blocks=0) for name in ("a2b", "b2a")}
    networks |= {name: cg.PatchDiscriminator(filters=2, layers=1) for name in ("d_a", "d_b")}
    with pytest.raises(ValueError, match=message):
        cg.CycleGAN(**change(networks))


class Subclassed(keras.Model):
    """A generator in the usual Keras style, without a `build` method."""

    def __init__(self):
        super().__init__()
        self.convolution = keras.layers.Conv2D(3, 3, padding="same", activation="tanh")

    def call(self, inputs):
        return self.convolution(inputs)


def test_subclassed_networks_without_build_are_trained():
    model = cg.CycleGAN(Subclassed(), Subclassed(), tiny().d_a, tiny().d_b, pool_size=2)
    model.compile()
    before = [w.copy() for w in (model.fit(batches(), verbose=0) and model.a2b.get_weights())]
    model.fit(batches(), verbose=0)
    assert len(before) == 2 and not np.array_equal(before[0], model.a2b.get_weights()[0])


def test_weights_are_loaded_whole_or_not_at_all(tmp_path):
    model = tiny(ema=0.9)
    model.compile()
    model.fit(batches(), verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = tiny(ema=0.9)
    other.compile()
    with pytest.raises(ValueError, match=r"a2b, b2a, d_a, d_b are not built: call build\(\(None"):
        other.load_weights(tmp_path / "model.weights.h5")
    for network in other.networks().values():
        network.build((None, None, None, 3))
    other.load_weights(tmp_path / "model.weights.h5")
    assert int(other.generator_optimizer.iterations) == model.steps_done == other.steps_done
    for name, average in model.averages.items():
        for one, two in zip(average.weights, other.averages[name].weights, strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="Keras cannot load a CycleGAN from an .h5 file"):
        model.save(tmp_path / "model.h5")
    assert not (tmp_path / "model.h5").exists()


def test_images_of_another_kind_are_named():
    model = tiny()
    model.compile()
    pair = tuple(np.zeros((1, 16, 16, 3), np.float32) for _ in "ab")
    with pytest.raises(ValueError, match="The images of a are uint8: make them float32"):
        model(tuple(images.astype("uint8") for images in pair))
    history = model.fit(*(images.astype("float64") for images in pair), verbose=0).history
    assert np.isfinite(history["d_a"][0])
    assert model.predict(pair, verbose=0)["fake_b"].shape == (1, 16, 16, 3)
    for act in (model.predict, model.test_on_batch):
        both = [images + 9 for images in pair]
        with pytest.raises(ValueError, match=r"The images of a are not all in \[-1, 1\]"):
            act(tuple(both), verbose=0) if act == model.predict else act(*both)
    with pytest.raises(ValueError, match="images of one size, or make a new CycleGAN of these"):
        model.fit(*(np.zeros((1, 24, 24, 3), np.float32) for _ in "ab"), verbose=0)
    gray = np.zeros((1, 16, 16, 1), np.float32)
    with pytest.raises(ValueError, match=r"b2a takes \(n, height, width, 3\), but would get 1 ch"):
        model.fit(pair[0], gray, verbose=0)
    of_gray = cg.CycleGAN(
        cg.ResNetGenerator(filters=2, blocks=0),
        cg.ResNetGenerator(filters=2, blocks=0, channels=1),
        tiny().d_a,
        tiny().d_b,
    )
    of_gray.compile()
    with pytest.raises(ValueError, match=r"have 1 and 3: use compile\(lambda_identity=0\)"):
        of_gray.fit(gray, pair[0], verbose=0)


def test_what_is_saved_continues_bit_for_bit(tmp_path):
    model = tiny(ema=0.9)
    model.compile(
        "adam",
        keras.optimizers.SGD(1e-3),
        adversarial="hinge",
        lambda_cycle_b=3.0,
        d_augment="color",
        gradient_penalty=0.1,
        gradient_center=1.0,
    )
    model.fit(batches(), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.adversarial == "hinge" and again.lambda_cycle_b == 3.0
    assert (again.d_augment, again.gradient_penalty, again.gradient_center) == ("color", 0.1, 1.0)
    assert isinstance(again.generator_optimizer, keras.optimizers.Adam) and again.pool_size == 2
    assert isinstance(again.discriminator_optimizer, keras.optimizers.SGD)
    assert_equal(model, again)
    again.save(tmp_path / "unchanged.keras")  # before any fit has used its pools
    third = keras.saving.load_model(tmp_path / "unchanged.keras")
    histories = [m.fit(batches(), verbose=0).history for m in (model, again, third)]
    assert histories[0] == histories[1] == histories[2]
    for other in (again, third):
        assert_equal(model, other)
        np.testing.assert_array_equal(model.pool_b[0].images, other.pool_b[0].images)
        for name, average in model.averages.items():
            for one, two in zip(
                average.get_weights(), other.averages[name].get_weights(), strict=True
            ):
                np.testing.assert_array_equal(one, two)
    other_size = tuple(np.zeros((1, 24, 24, 3), np.float32) for _ in "ab")
    fourth = keras.saving.load_model(tmp_path / "unchanged.keras")
    for _ in range(2):  # the first error leaves no pools behind that the second call would use
        with pytest.raises(ValueError, match=r"image size and dropout. Or make a new model of the"):
            fourth.train_on_batch(*other_size)
    image = np.full((8, 8, 3), 99, np.uint8)
    translations = [
        translate(image)
        for translate in (
            cg.load_translator(tmp_path / "unchanged.keras", "a2b"),
            translator(keras.saving.load_model(tmp_path / "unchanged.keras").averages["a2b"]),
        )
    ]
    np.testing.assert_array_equal(*translations)


def test_checkpoints_validation_and_batches_by_hand(tmp_path):
    model = tiny()
    model.compile()
    kept = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    history = model.fit(
        batches(), validation_data=batches(1), epochs=2, callbacks=[kept], verbose=0
    )
    assert {f"val_{name}" for name in LOSSES} < set(history.history)
    assert_equal(model, keras.saving.load_model(tmp_path / "2.keras"))
    real_a, real_b = next(iter(batches(1)))
    model.train_on_batch(real_a, real_b)
    assert model.steps_done == 7
    scores = model.evaluate(real_a.numpy(), real_b.numpy(), verbose=0, return_dict=True)
    assert set(scores) == LOSSES


def test_predict_translates_both_ways():
    model = tiny()
    model.compile()
    model.fit(batches(), verbose=0)
    fakes = model.predict(batches(2), verbose=0)
    reals = [np.concatenate(part) for part in zip(*batches(2).as_numpy_iterator(), strict=True)]
    for name, network, real in (("fake_b", model.a2b, reals[0]), ("fake_a", model.b2a, reals[1])):
        np.testing.assert_allclose(fakes[name], network(real), atol=1e-5)
    both = model(next(iter(batches(1))))
    np.testing.assert_allclose(both["fake_b"], fakes["fake_b"][:2], atol=1e-5)


@pytest.mark.slow
def test_two_replicas_make_their_own_pools_and_networks():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = tiny()
        model.compile()
    model.fit(batches(), verbose=0)
    assert [int(pool.seen) for pool in model.pool_a] == [3, 3]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_networks_of_your_own(policy, tmp_path):
    """Plain Keras networks, without the attributes of this package's networks, also work."""

    def network(channels, activation):
        keras.config.set_dtype_policy(policy)
        image = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
        output = keras.layers.Conv2D(channels, 1, activation=activation)(x)
        keras.config.set_dtype_policy("float32")
        return keras.Model(image, output)

    networks = [network(channels, act) for channels, act in 2 * [(3, "tanh")] + 2 * [(1, None)]]
    model = cg.CycleGAN(*networks, ema=0.9)
    model.compile(lambda_identity=0)
    model.fit(batches(), verbose=0)
    model.save(tmp_path / "own.keras")
    photo = landscape(0, "summer", 21, 33)
    fake = cg.load_translator(tmp_path / "own.keras", "b2a")(photo)
    assert fake.shape == photo.shape
    np.testing.assert_array_equal(fake, cg.translator(model.generators()["b2a"])(photo))
    generator = find_generator(tmp_path / "own.keras", "b2a")  # as the exporters do
    assert {layer.compute_dtype for layer in generator.layers} == {"float32"}
    assert {variable.dtype for variable in generator.variables} == {"float32"}


def test_a_network_that_cannot_be_copied_has_no_averages():
    class Closed(keras.Model):
        def __init__(self, strength):
            super().__init__()

        def call(self, x):
            return x

    generators = [Closed(1), Closed(1)]
    for generator in generators:
        generator.build((None, 8, 8, 3))
    with pytest.raises(ValueError, match="cannot be copied for ema .*get_config, or use ema=0"):
        cg.CycleGAN(*generators, cg.PatchDiscriminator(), cg.PatchDiscriminator(), ema=0.9)


@pytest.mark.parametrize(
    "x, message",
    [
        (tf.data.Dataset.from_tensors(np.zeros((1, 8, 8, 3), np.float32)), "has 1 part"),
        (tf.data.Dataset.from_tensors((np.zeros((1, 8, 8, 3), np.float32),) * 3), "has 3 part"),
        (tf.data.Dataset.from_tensors((np.zeros((8, 8, 3), np.float32),) * 2), "use batches"),
        ((np.zeros((1, 8, 8, 3), np.float32) for _ in "ab"), "shapes of the data are unknown"),
        ((np.zeros((1, 8, 8, 3), np.float32),) * 2, "two arrays: pass them as x and y"),
    ],
)
def test_data_that_is_not_pairs_of_batches_is_refused(x, message):
    model = tiny()
    model.compile()
    with pytest.raises(ValueError, match=message):
        model.fit(x, verbose=0)


@pytest.mark.parametrize(
    ("channels", "strides", "message"),
    [(3, 2, r"\(1, 8, 8, 3\) for .* instead of \(1, 16, 16, 3\)"), (1, 1, r"\(1, 16, 16, 1\)")],
)
def test_a_generator_that_returns_other_shapes_is_named(channels, strides, message):
    model = tiny()
    model.b2a = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(channels, 3, strides, "same")]
    )
    model.compile()
    images = np.zeros((1, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match=f"^b2a returned {message}"):
        model.train_on_batch(images, images)


def test_mistakes_say_what_to_do(tmp_path):
    model = tiny()
    with pytest.raises(ValueError, match=r"not compiled: call compile\(\) first"):
        model.fit(batches(), verbose=0)
    with pytest.raises(ValueError, match="adversarial='gan' is not known: use one of"):
        model.compile(adversarial="gan")
    model.compile()
    images = np.zeros((1, 16, 16, 3), np.float32)
    for call in (model, model.predict):
        with pytest.raises(ValueError, match="of one domain, call one of model.generators"):
            call(images)
    model.save(tmp_path / "unbuilt.keras")
    with pytest.raises(ValueError, match="ResNetGenerator is not built yet: train the model"):
        cg.load_translator(tmp_path / "unbuilt.keras", "a2b")
    with pytest.raises(ValueError, match="direction is 'ab': use"):
        cg.load_translator(tmp_path / "unbuilt.keras", "ab")


def test_batch_norm_is_found_when_the_networks_are_built():
    model = tiny()
    model.d_a = cg.PatchDiscriminator(filters=2, layers=1, norm="batch")
    model.compile(gradient_penalty=0.1)
    with pytest.raises(ValueError, match="A gradient penalty needs discriminators without batch"):
        model.fit(batches(), verbose=0)


def test_sheets_of_a_model_that_trains_on_arrays(tmp_path):
    arrays = [np.zeros((2, 16, 16, 3), np.float32)] * 2
    model = tiny()
    model.compile()
    samples = cg.callbacks.SampleGrid(tmp_path)
    model.fit(*arrays, batch_size=1, epochs=1, callbacks=[samples], verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000002.png"]
    with pytest.raises(ValueError, match="SampleGrid has no images: pass `images`, or train on"):
        cg.callbacks.SampleGrid(tmp_path).take_images(iter(arrays))


def test_networks_that_are_no_generators_are_named():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = keras.layers.Conv2D(3, 1)

        def call(self, x):
            return self.layer(x)

    photo = landscape(0, "summer", 21, 33)
    subclassed = Subclassed()
    subclassed.build((None, None, None, 3))
    assert cg.translator(subclassed)(photo).shape == photo.shape
    larger = keras.Sequential([keras.Input((None, None, 3)), keras.layers.UpSampling2D()])
    with pytest.raises(ValueError, match="Sequential is not a generator: .* same height and width"):
        cg.translator(larger)


# === Data ===


def test_an_epoch_has_every_image_once_in_another_order_and_other_crops(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        cg.write_image(path, np.full((12, 12, 3), 20 * i, np.uint8))
    levels = cg.data.images(paths, size=12, crop=8, seed=3)
    assert levels.element_spec == tf.TensorSpec((8, 8, 3), tf.float32)

    def orders(dataset, epochs=2):
        return [
            [round((float(image[0, 0, 0]) + 1) * 127.5 / 20) for image in dataset]
            for _ in range(epochs)
        ]

    first, second = orders(levels)
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    assert orders(cg.data.images(paths, size=12, crop=8, seed=3)) == [first, second]
    assert orders(cg.data.images(paths, size=12, crop=8, seed=4), 1) != [first]


def test_an_epoch_is_as_long_as_the_larger_domain(folders):
    both = list(data(folders).as_numpy_iterator())
    assert len(both) == 5 and both[0][0].shape == (1, 16, 16, 3)
    assert len({real_b.tobytes() for _, real_b in both}) == 5
    assert all(np.abs(image).max() <= 1 for pair in both for image in pair)
    assert len(list(data(folders, batch_size=2))) == 2
    gray = cg.data.images(folders / "photos", size=20, crop=16, channels=1)
    assert gray.element_spec.shape == (16, 16, 1)


def test_pairs_are_cropped_and_mirrored_alike(tmp_path):
    rows, columns = np.mgrid[:20, :20].astype(np.uint8)
    for folder, add in (("a", 0), ("b", 100)):
        (tmp_path / folder).mkdir()
        for i in range(4):
            image = np.stack([rows + add, columns + add, np.full_like(rows, i)], axis=-1)
            cg.write_image(tmp_path / folder / f"{i}.png", image)
    pairs = cg.data.paired(tmp_path / "a", tmp_path / "b", size=20, crop=8)
    seen = set()
    for real_a, real_b in pairs.as_numpy_iterator():
        shift = (real_b - real_a) * 127.5
        np.testing.assert_allclose(shift[..., :2], 100, atol=1e-3)
        np.testing.assert_allclose(shift[..., 2], 0, atol=1e-3)
        seen.add(real_a[..., :2].tobytes())
    assert len(seen) == 4


def test_a_dataset_by_name():
    a, b = cg.data.load("synthetic/summer2winter", size=20, crop=16, cache="none")
    assert a.cardinality() == b.cardinality() == 400
    assert next(iter(a)).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="unknown dataset 'horses'"):
        cg.data.load("horses")


def test_data_that_cannot_work_names_the_remedy(folders, tmp_path):
    photos = cg.data.images(folders / "photos", size=20, crop=16)
    for make, message in (
        (lambda: cg.data.images(tmp_path / "none"), "none does not exist"),
        (lambda: cg.data.images([]), "the list of images is empty"),
        (lambda: cg.data.images(folders / "photos", size=20, crop=24), "use a smaller crop"),
        (lambda: cg.data.images(folders / "photos", channels=4), "use 1 .gray. or 3 .RGB."),
        (lambda: cg.data.unpaired(photos, photos.repeat()), r"leave out repeat"),
        (lambda: cg.data.unpaired(photos, photos, batch_size=9), "too few for a batch of 9"),
        (lambda: cg.data.paired(folders / "photos", folders / "paintings"), "no counterpart"),
        (lambda: cg.data.paired(*2 * [folders / "photos"], batch_size=9), "for a batch of 9: use"),
        (lambda: cg.data.images(folders / "photos", cache="ram"), "cache is 'ram': use"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_no_file_name_is_used_twice_in_the_package():
    files = Path(cg.__file__).parent.rglob("*.py")
    names = [path.name for path in files if path.name != "__init__.py"]
    assert len(names) > 50 and len(names) == len(set(names))


def test_only_tests_change_the_import_path():
    root = Path(cg.__file__).parents[1]
    rooms = ("tf_cyclegan", "scripts", "export", "examples", "benchmarks", "docs")
    files = [path for room in rooms for path in (root / room).rglob("*.py")]
    assert len(files) > 100
    assert [str(path) for path in files if "sys.path" in path.read_text()] == []
