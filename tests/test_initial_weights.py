"""Tests --init_from: which weights a new training run starts from."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from cases import write_landscapes

from tf_cyclegan.interop import save_torch
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy
from tf_cyclegan.training.initial_weights import initialize
from tf_cyclegan.training.loop import train
from tf_cyclegan.training.run_folder import RunFolder, save_generator
from tf_cyclegan.training.student_config import StudentConfig

TINY = Config(
    load_size=20, crop_size=16, filters=4, blocks=1, d_filters=4, d_layers=1, pool_size=0, seed=1
)
SHAPE = (16, 16, 3)


def make(**changes):
    config = dataclasses.replace(TINY, **changes)
    return make_cyclegan(config, make_strategy("one"), SHAPE, SHAPE, steps_per_epoch=2)


def same(one, two):
    pairs = zip(one.get_weights(), two.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run folder with a checkpoint, and its model."""
    path = tmp_path_factory.mktemp("runs") / "source"
    model = make()
    with RunFolder(path, TINY, {}) as folder:
        folder.attach(model)
        model.step.assign(5)
        folder.save()
    return path, model


def check(model, source, names):
    """Checks that exactly these networks have the weights of the source."""
    found = {name for name, net in model.networks().items() if same(net, getattr(source, name))}
    assert found == set(names)


def test_a_run_folder_gives_all_four_networks(source):
    path, before = source
    model = make(seed=2, ema=0.9)
    assert initialize(model, str(path)) == ["a2b", "b2a", "d_a", "d_b"]
    check(model, before, ["a2b", "b2a", "d_a", "d_b"])
    assert model.steps_done == 0
    for name, average in model.generators().items():
        assert average is model.averages[name] and same(average, getattr(before, name))


@pytest.mark.parametrize("file, name", [("a2b.keras", "a2b"), ("my_b2a_2.keras", "b2a")])
def test_one_generator_leaves_the_others_untrained(source, tmp_path, file, name):
    path, before = source
    shutil.copy(path / f"{name}.keras", tmp_path / file)
    model = make(seed=2)
    for start in (tmp_path / file, tmp_path) if file == "a2b.keras" else (tmp_path / file,):
        assert initialize(model, str(start)) == [name]
        check(model, before, [name])


def test_a_saved_cyclegan_gives_its_averages_and_discriminators(tmp_path):
    before = make(seed=2, ema=0.9)
    average = before.averages["a2b"]
    average.set_weights([w + 1 for w in average.get_weights()])
    before.save(tmp_path / "model.keras")
    model = make()
    assert initialize(model, str(tmp_path / "model.keras")) == ["a2b", "b2a", "d_a", "d_b"]
    check(model, before, ["b2a", "d_a", "d_b"])
    assert same(model.a2b, average)


def test_the_authors_files_by_their_names(source, tmp_path):
    pytest.importorskip("torch", reason="the authors' files need PyTorch")
    _, before = source
    theirs = {"a2b": "G_A", "b2a": "G_B", "d_a": "D_B", "d_b": "D_A"}
    for name, letter in theirs.items():
        save_torch(before.networks()[name], tmp_path / f"latest_net_{letter}.pth")
    model = make(seed=2)
    assert initialize(model, str(tmp_path)) == list(theirs)
    check(model, before, theirs)
    model = make(seed=2)
    assert initialize(model, str(tmp_path / "latest_net_G_B.pth")) == ["b2a"]
    check(model, before, ["b2a"])


def test_sources_that_do_not_fit_are_named(source, tmp_path):
    path, before = source
    shutil.copy(path / "a2b.keras", tmp_path / "photos.keras")
    for model, start, message in (
        (make(blocks=2), path, "a2b of .* is another network .* .blocks is 1, here 2.: use the"),
        (make(upsampling="resize"), path, "upsampling is transpose, here resize"),
        (
            make(channels_a=1, lambda_identity=0.0),
            path / "a2b.keras",
            "input channels is 3, here 1",
        ),
        (make(d_filters=2), path, "discriminators of .* are other networks .*--d_filters"),
        (make(), tmp_path / "photos.keras", "does not tell its direction: rename it to a2b.keras"),
        (make(), tmp_path, "contains no generators: name a run folder"),
        (make(), tmp_path / "nothing", "nothing does not exist: start from a run folder"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            initialize(model, str(start))
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_students_discriminator_is_left_out(source, tmp_path):
    """A student's run has the discriminator of its target domain only."""
    student = shutil.copytree(source[0], tmp_path / "student")
    (student / "b2a.keras").unlink()
    settings = dataclasses.asdict(StudentConfig(teacher="mine"))
    (student / "config.json").write_text(json.dumps(settings))
    assert initialize(make(seed=2), str(student)) == ["a2b"]


def test_training_starts_from_them_once(source, tmp_path, capsys):
    path, before = source
    run_dir = tmp_path / "run"
    config = dataclasses.replace(
        TINY,
        data_dir=str(write_landscapes(tmp_path / "photos")),
        run_dir=str(run_dir),
        init_from=str(tmp_path / "start"),
        max_steps=1,
        sample_every=0,
    )
    with pytest.raises(ValueError, match="start"):
        train(config)
    assert not run_dir.exists()
    (tmp_path / "start").mkdir()
    save_generator(before.a2b, tmp_path / "start" / "a2b.keras")
    # A learning rate of almost 0, so that the weights stay those of the start.
    config = dataclasses.replace(config, learning_rate=1e-12)
    assert train(config) == 0
    assert "Starting from a2b of" in capsys.readouterr().out
    model = make()
    assert set(initialize(model, str(run_dir))) == {"a2b", "b2a", "d_a", "d_b"}
    for now, start in zip(model.a2b.get_weights(), before.a2b.get_weights(), strict=True):
        np.testing.assert_allclose(now, start, atol=1e-9)
    shutil.rmtree(tmp_path / "start")  # a run that continues does not need it
    assert train(dataclasses.replace(config, max_steps=2)) == 0
    assert "Starting from" not in capsys.readouterr().out
