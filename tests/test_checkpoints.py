"""The run folder: what is saved, what is kept, and what is refused."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.build import make_cyclegan, make_strategy
from tf_cyclegan.checkpoints import RunFolder, read_config, save_generator, saved_steps
from tf_cyclegan.config import Config
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.interop import load_generator

TINY = Config(
    dataset="synthetic/summer2winter",
    load_size=20,
    crop_size=16,
    filters=2,
    blocks=1,
    d_filters=2,
    d_layers=1,
    pool_size=2,
    keep_checkpoints=2,
)
SHAPE = (16, 16, 3)


def training(config):
    """A model, and a function that takes so many steps on always the same pictures."""
    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, SHAPE, SHAPE, steps_per_epoch=2)
    step = tf.function(lambda *real: strategy.run(model.train_step, args=(real,)), autograph=False)

    def run(steps):
        for _ in range(steps):
            rng = np.random.default_rng(int(model.step))
            step(*(tf.constant(rng.uniform(-1, 1, (1, *SHAPE)), tf.float32) for _ in "ab"))

    return model, run


def state(model):
    optimizers = (model.generator_optimizer, model.discriminator_optimizer)
    networks = (model.a2b, model.b2a, model.d_a, model.d_b)
    pools = [v for pool in (*model.pool_a, *model.pool_b) for v in (pool.images, pool.seen)]
    variables = [v for part in (*optimizers, *networks) for v in part.variables]
    return [np.asarray(v) for v in (*variables, *pools, model.step)]


@pytest.mark.parametrize(
    "changes",
    [{"norm": "batch", "dropout": 0.5, "precision": "mixed_float16"}, {"adversarial": "wgan-gp"}],
    ids=str,
)
def test_all_that_a_step_reads_or_changes_is_saved(tmp_path, changes):
    config = dataclasses.replace(TINY, **changes)
    model, run = training(config)
    folder = RunFolder(tmp_path / "run", config)
    assert folder.attach(model) == 0
    run(3)
    folder.save()
    run(2)

    other, run_other = training(config)
    run_other(1)  # so that nothing of it is as it was made
    assert RunFolder(tmp_path / "run", config).attach(other) == 3
    run_other(2)
    for one, two in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_last_few_are_kept_and_a_second_save_of_a_step_is_none(tmp_path):
    model, _ = training(TINY)
    folder = RunFolder(tmp_path, TINY)
    folder.attach(model)
    for step in (1, 2, 3):
        model.step.assign(step)
        folder.save()
    found = sorted(path.name for path in folder.checkpoints.glob("*.index"))
    assert found == ["ckpt-2.index", "ckpt-3.index"]
    before = (tmp_path / "a2b.keras").stat().st_mtime_ns
    folder.save()
    assert (tmp_path / "a2b.keras").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("*part*"))


def test_a_failed_save_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    model, _ = training(TINY)
    folder = RunFolder(tmp_path, TINY)
    folder.attach(model)
    folder.save()
    before = (tmp_path / "a2b.keras").read_bytes()

    def full(self, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(ResNetGenerator, "save", full)
    model.step.assign(1)
    with pytest.raises(OSError, match="no space"):
        folder.save()
    assert (tmp_path / "a2b.keras").read_bytes() == before
    other, _ = training(TINY)
    assert RunFolder(tmp_path, TINY).attach(other) == 0


def test_another_setting_is_refused_by_name_once_there_is_a_checkpoint(tmp_path):
    other = dataclasses.replace(TINY, lambda_identity=0.0)
    longer = dataclasses.replace(TINY, epochs=7, run_dir="elsewhere", sample_every=1)
    folder = RunFolder(tmp_path, other)
    folder = RunFolder(tmp_path, TINY)  # nothing was saved yet, so nothing is lost
    model, _ = training(TINY)
    folder.attach(model)
    folder.save()
    with pytest.raises(ValueError, match="lambda_identity=0.5, now 0.0.: use another --run_dir"):
        RunFolder(tmp_path, other)
    RunFolder(tmp_path, longer)
    assert read_config(tmp_path) == longer
    with pytest.raises(ValueError, match="leave --no_resume out"):
        RunFolder(tmp_path, dataclasses.replace(TINY, resume=False))


def test_workers_of_a_cluster_keep_their_own_checkpoints_and_the_first_the_rest(tmp_path):
    model, _ = training(TINY)
    folder = RunFolder(tmp_path, TINY, worker=1, workers=2)
    folder.attach(model)
    folder.save()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["worker_1"]


def test_workers_continue_from_the_last_step_that_all_have(tmp_path):
    """One was killed after its fellow had saved step 3, and before it had itself."""
    model, run = training(TINY)
    for worker, steps in ((1, (1, 2)), (0, (1, 2, 3))):
        model.step.assign(0)
        folder = RunFolder(tmp_path, TINY, worker, workers=2)
        folder.attach(model)
        for step in steps:
            model.step.assign(step)
            folder.save()
        (tmp_path / "checkpoints" / "worker_0").mkdir(exist_ok=True)
    folders = [RunFolder(tmp_path, TINY, worker, workers=2) for worker in (0, 1)]
    assert [sorted(saved_steps(folder.checkpoints)) for folder in folders] == [[2, 3], [1, 2]]
    for folder in folders:
        assert folder.attach(training(TINY)[0]) == 2
        assert sorted(saved_steps(folder.checkpoints)) == ([2] if folder.chief else [1, 2])
    assert not list(folders[0].checkpoints.glob("ckpt-3*"))
    for workers in (1, 3):
        with pytest.raises(ValueError, match=f"2 of {workers} left checkpoints.: use as many"):
            RunFolder(tmp_path, TINY, 0, workers)

    for path in folders[1].checkpoints.iterdir():
        path.unlink()
    assert folders[0].attach(training(TINY)[0]) == 0  # nothing that both have
    assert saved_steps(folders[0].checkpoints) == set()


def test_generators_are_saved_in_float32_whatever_they_train_in(tmp_path):
    network = ResNetGenerator(2, 1, dtype="mixed_bfloat16")
    network.build((None, None, None, 3))
    save_generator(network, tmp_path / "a2b.keras")
    loaded = load_generator(tmp_path / "a2b.keras")
    assert loaded.dtype_policy.name == loaded.encoder.layers[1].dtype_policy.name == "float32"
    assert loaded.input_channels == 3
    for one, two in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert isinstance(loaded, keras.Model)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is no run folder"), ("{", "cannot be read"), ('{"speed": 3}', "unknown settings")],
)
def test_a_folder_that_is_no_run_folder(tmp_path, text, message):
    if text:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path)
