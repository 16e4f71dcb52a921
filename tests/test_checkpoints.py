"""Tests the run folder: which state it saves, which checkpoints it keeps, and what it refuses."""

import dataclasses
import errno
import functools
import json
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.data.image_files import ImageSet
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.interop import load_generator
from tf_cyclegan.training.checkpoint_files import saved_steps
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy
from tf_cyclegan.training.run_folder import RunFolder, read_config, save_generator

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
    """Returns a model and a function that trains it for n steps, with fixed images per step."""
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
    parts = (*optimizers, *networks, *model.averages.values())
    variables = [v for part in parts for v in part.variables]
    return [np.asarray(v) for v in (*variables, *pools, model.step)]


def images(count=3, size=8, level=100):
    """Returns a set of images with a single gray level, without files."""
    return ImageSet(
        tuple(f"{i}.png" for i in range(count)), lambda i: np.full((size, size, 3), level, np.uint8)
    )


def with_files(images):
    """Returns the same images with paths of files, whose sizes are recorded."""
    return dataclasses.replace(images, paths=(Path(__file__),) * len(images))


SETS = {"trainA": images(3), "trainB": images(4)}


def run_folder(path, config=TINY, sets=SETS, **cluster):
    return RunFolder(path, config, sets, **cluster)


@functools.cache
def shared_model():
    """Returns one model for all tests that check only files and steps, as creating one is slow."""
    return training(TINY)[0]


def saved_run(path, steps=(1,), config=TINY, **cluster):
    """Writes a run folder with checkpoints of these steps, as a finished process leaves it."""
    model = shared_model()
    with run_folder(path, config, **cluster) as folder:
        folder.attach(model)
        for step in steps:
            model.step.assign(step)
            folder.save()
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "batch", "dropout": 0.5, "precision": "mixed_float16"},
        {
            "ema": 0.9,
            "d_norm": "spectral",
            "d_augment": "translation,color,cutout",
            "gradient_penalty": 0.1,
            "gradient_center": 100.0,
            "d_learning_rate": 1e-4,
        },
    ],
)
def test_all_that_a_step_reads_or_changes_is_saved(tmp_path, changes):
    config = dataclasses.replace(TINY, **changes)
    model, run = training(config)
    with run_folder(tmp_path / "run", config) as folder:
        assert folder.attach(model) == 0
        run(3)
        folder.save()
        run(2)

    other, run_other = training(config)
    run_other(1)  # changes every variable from its initial value
    with run_folder(tmp_path / "run", config) as folder:
        assert folder.attach(other) == 3
    run_other(2)
    for one, two in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(one, two)
    # The generators are saved as they are for translating: the averages, where there are some.
    written = load_generator(tmp_path / "run" / "a2b.keras").get_weights()
    rates = [float(optimizer.learning_rate) for optimizer in model.optimizers().values()]
    assert rates[1] / rates[0] == pytest.approx(0.5 if "d_learning_rate" in changes else 1)
    with run_folder(tmp_path / "run", config) as folder:
        folder.attach(model)
    for one, two in zip(written, model.generators()["a2b"].get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_last_few_are_kept_and_a_second_save_of_a_step_is_none(tmp_path):
    model = shared_model()
    with run_folder(tmp_path) as folder:
        folder.attach(model)
        for step in (1, 2, 3):
            model.step.assign(step)
            folder.save()
        assert saved_steps(folder.checkpoints) == [2, 3]
        before = (tmp_path / "a2b.keras").stat().st_mtime_ns
        folder.save()
        assert (tmp_path / "a2b.keras").stat().st_mtime_ns == before
    assert not list(tmp_path.rglob("*part*")) + list(tmp_path.rglob("*temp*"))


@pytest.mark.parametrize("name", ["run[1]", "r*n? %41", "läuft 走"])
def test_every_path_is_literal(tmp_path, name):
    """Checks names with wildcards, next to a folder that they would match as patterns."""
    saved_run(tmp_path / "run1", (1, 2))
    saved_run(tmp_path / name, (1, 2, 3, 4))
    with run_folder(tmp_path / name) as folder:
        assert folder.attach(shared_model()) == 4
        assert saved_steps(folder.checkpoints) == [3, 4]
    with run_folder(tmp_path / "run1") as folder:
        assert folder.attach(shared_model()) == 2


@pytest.mark.parametrize("fails", ["generator", "checkpoint"])
def test_a_failed_save_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, fails):
    model = shared_model()
    model.step.assign(0)
    with run_folder(tmp_path) as folder:
        folder.attach(model)
        folder.save()
        before = (tmp_path / "a2b.keras").read_bytes()
        if fails == "generator":

            def full(self, path):
                path.write_bytes(b"half")
                raise OSError("no space left on device")

            monkeypatch.setattr(ResNetGenerator, "save", full)
        else:

            def full(self, path):
                Path(f"{path}_temp").mkdir()
                raise tf.errors.ResourceExhaustedError(None, None, "no space\nleft on device")

            monkeypatch.setattr(tf.train.Checkpoint, "write", full)
        model.step.assign(1)
        with pytest.raises(OSError, match="no space left on device"):
            folder.save()
    monkeypatch.undo()
    assert (tmp_path / "a2b.keras").read_bytes() == before
    assert not list(tmp_path.rglob("*part*")) + list(tmp_path.rglob("*temp*"))
    with run_folder(tmp_path) as folder:
        assert folder.attach(shared_model()) == (1 if fails == "generator" else 0)


def test_generators_of_a_killed_save_are_written_on_resume(tmp_path):
    model = saved_run(tmp_path)
    (tmp_path / "a2b.keras").unlink()
    with run_folder(tmp_path) as folder:
        folder.attach(shared_model())
    loaded = load_generator(tmp_path / "a2b.keras")
    for one, two in zip(model.a2b.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_values_that_are_not_finite_never_replace_good_ones(tmp_path):
    saved_run(tmp_path, (3,))
    before = (tmp_path / "a2b.keras").read_bytes()
    with run_folder(tmp_path) as folder:
        model = shared_model()
        folder.attach(model)
        model.step.assign(4)
        spoiled = {
            part: getattr(model, part).variables[-1]
            for part in ("a2b", "b2a", "d_a", "d_b", "generator_optimizer")
        } | {"pool_b": model.pool_b[0].images}
        for part, variable in spoiled.items():
            kept = np.asarray(variable)
            variable.assign(tf.fill(variable.shape, float("nan")))
            with pytest.raises(FloatingPointError, match=f"{part}.* NaN or infinity after step 4"):
                folder.save()
            variable.assign(kept)
        assert saved_steps(folder.checkpoints) == [3]
        assert (tmp_path / "a2b.keras").read_bytes() == before
        folder.save()
    assert saved_steps(folder.checkpoints) == [3, 4]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flipped", "missing"])
@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_a_damaged_checkpoint_is_left_out_and_said(tmp_path, capsys, damage, suffix):
    config = dataclasses.replace(TINY, keep_checkpoints=3)
    saved_run(tmp_path, (1, 2, 3), config)
    damage(tmp_path / "checkpoints" / "worker_0" / f"ckpt-3.{suffix}")
    with run_folder(tmp_path, config) as folder:
        model = shared_model()
        assert folder.attach(model) == 2
        said = capsys.readouterr().out
        assert ("ckpt-3 is damaged and is ignored" in said) != (
            damage is Path.unlink and suffix == "index"  # no index means no checkpoint
        )
        model.step.assign(3)
        folder.save()
    with run_folder(tmp_path, config) as folder:
        assert folder.attach(shared_model()) == 3
    assert "damaged" not in capsys.readouterr().out


def test_where_every_checkpoint_is_damaged_nothing_is_replaced(tmp_path):
    saved_run(tmp_path, (1, 2))
    for path in tmp_path.rglob("*.data-*"):
        cut(path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("ckpt-*")}
    with (
        run_folder(tmp_path) as folder,
        pytest.raises(ValueError, match="No checkpoint in .* intact"),
    ):
        folder.attach(shared_model())
    assert {path: path.read_bytes() for path in tmp_path.rglob("ckpt-*")} == before


@pytest.mark.parametrize("content", [None, b"", b"garbage \xff"])
def test_tensorflows_state_file_is_not_needed(tmp_path, content):
    """Earlier versions needed it: without it, they began at step 0 and overwrote the generators."""
    saved_run(tmp_path, (1, 2))
    if content is not None:
        (tmp_path / "checkpoints" / "worker_0" / "checkpoint").write_bytes(content)
    with run_folder(tmp_path) as folder:
        assert folder.attach(shared_model()) == 2


def test_a_run_of_an_earlier_version_continues(tmp_path):
    """Checks that a run without run.json, with checkpoints by CheckpointManager, can be resumed."""
    model, _ = training(dataclasses.replace(TINY, seed=1))
    for variable in (model.step, model.pool_a[0].seen, model.generator_optimizer.iterations):
        variable.assign(3)
    checkpoint = tf.train.Checkpoint(
        **{
            name: getattr(model, name)
            for name in "a2b b2a d_a d_b generator_optimizer discriminator_optimizer step".split()
        },
        pool_a=tf.train.Checkpoint(number_0=model.pool_a[0]),
        pool_b=tf.train.Checkpoint(number_0=model.pool_b[0]),
        dropout=tf.train.Checkpoint(),
    )
    folder = tmp_path / "checkpoints" / "worker_0"
    tf.train.CheckpointManager(checkpoint, folder, 3).save(checkpoint_number=3)
    (tmp_path / "config.json").write_text(TINY.to_json())
    other, _ = training(TINY)
    with run_folder(tmp_path) as folder:
        assert folder.attach(other) == 3
    for one, two in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(one, two)
    assert json.loads((tmp_path / "run.json").read_text())["replicas"] == 1


def test_another_setting_is_refused_by_name_once_there_is_a_checkpoint(tmp_path):
    other = dataclasses.replace(TINY, lambda_identity=0.0)
    longer = dataclasses.replace(TINY, epochs=7, run_dir="elsewhere", sample_every=1)
    with run_folder(tmp_path, other):
        pass  # no checkpoint exists, so other settings do no harm
    saved_run(tmp_path)
    with pytest.raises(
        ValueError, match=r"lambda_identity=0.5, now 0.0\): use the same .*--init_f"
    ):
        run_folder(tmp_path, other)
    with run_folder(tmp_path, longer):
        assert read_config(tmp_path) == longer
    with pytest.raises(ValueError, match="remove --no_resume"):
        run_folder(tmp_path, dataclasses.replace(TINY, resume=False))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (SETS | {"trainB": images(5)}, "trainB now has 5 images instead of 4"),
        (SETS | {"trainA": images(3, 9)}, "sizes, such as 9 x 9 instead of 8 x 8"),
        (SETS | {"trainA": images(3, 8, 120)}, "other images under the same names"),
        (SETS | {"trainA": with_files(images(3))}, "other files under the same names"),
        (
            SETS | {"trainA": ImageSet(("x.png", "1.png", "2.png"), SETS["trainA"].read)},
            "images with other names, such as x.png instead of 0.png",
        ),
    ],
    ids=["count", "sizes", "content", "files", "names"],
)
def test_another_dataset_is_refused_unless_it_is_meant(tmp_path, sets, message):
    saved_run(tmp_path)
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(ValueError, match=f"{message}.*--allow_other_data"):
        run_folder(tmp_path, sets=sets)
    assert (tmp_path / "run.json").read_text() == before
    moved = dataclasses.replace(TINY, data_dir="elsewhere")
    with run_folder(tmp_path, moved, SETS | {"testA": images(9)}):
        pass
    with run_folder(tmp_path, dataclasses.replace(TINY, allow_other_data=True), sets):
        pass
    with run_folder(tmp_path, sets=sets):
        pass  # the run now uses these images
    with pytest.raises(ValueError, match="another dataset"):
        run_folder(tmp_path)


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (4, 1)])
def test_another_number_of_replicas_is_refused(tmp_path, before, now):
    saved_run(tmp_path, replicas=before)
    with pytest.raises(
        ValueError, match=f"trained on {before} replicas.* would be {now}.*CUDA_VIS"
    ):
        run_folder(tmp_path, replicas=now)
    with run_folder(tmp_path, replicas=before):
        pass


HELD_OUT = dataclasses.replace(TINY, evaluate_every=1)
VALIDATION = {"valA": images(3), "valB": images(3)}


def test_validation_cannot_begin_on_images_of_the_training_run(tmp_path):
    saved_run(tmp_path)
    for allow in (False, True):
        config = dataclasses.replace(HELD_OUT, allow_other_data=allow)
        with pytest.raises(ValueError, match="trained on all images, .*with --val_dir"):
            run_folder(tmp_path, config, SETS | VALIDATION)
    with run_folder(tmp_path, dataclasses.replace(HELD_OUT, val_dir="other"), SETS | VALIDATION):
        pass


def test_images_held_out_stay_held_out(tmp_path):
    saved_run(tmp_path, config=HELD_OUT, sets=SETS | VALIDATION)
    more = SETS | {"trainA": images(5)}
    with pytest.raises(ValueError, match="without the images .*keep that flag.*--allow_other_data"):
        run_folder(tmp_path, sets=more)
    allowed = dataclasses.replace(HELD_OUT, allow_other_data=True)
    with pytest.raises(ValueError, match="images for validation have changed .valB now has 4 im"):
        run_folder(tmp_path, allowed, more | VALIDATION | {"valB": images(4)})
    with run_folder(tmp_path, dataclasses.replace(allowed, evaluate_every=0), more):
        pass


def test_the_images_of_the_run_must_be_named(tmp_path):
    saved_run(tmp_path, config=dataclasses.replace(TINY, dataset=None, data_dir="photos"))
    with pytest.raises(ValueError, match="no images are named, .* with --data_dir=photos: add"):
        run_folder(tmp_path)


def test_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "photo.JPG").touch()
    with pytest.raises(ValueError, match="holds images, and the files .*: use another --run_dir"):
        run_folder(tmp_path)
    (tmp_path / "photo.JPG").unlink()
    (tmp_path / "config.json").write_text('{"my": "own"}')
    with pytest.raises(ValueError, match="config.json is not of a training run, and"):
        run_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("config", [True, False])
def test_generators_without_checkpoints_are_not_replaced(tmp_path, config):
    (tmp_path / "a2b.keras").touch()
    if config:  # as in best/, or in a run that was trained elsewhere
        (tmp_path / "config.json").write_text(TINY.to_json())
    with pytest.raises(ValueError, match="holds generators but no checkpoints, .*--init_from="):
        run_folder(tmp_path)


def test_a_damaged_generator_is_written_again(tmp_path):
    model = saved_run(tmp_path)
    (tmp_path / "a2b.keras").write_bytes((tmp_path / "a2b.keras").read_bytes()[:1000])
    with run_folder(tmp_path) as folder:
        folder.attach(model)
    load_generator(tmp_path / "a2b.keras")


def test_files_that_a_run_cannot_do_without(tmp_path):
    saved_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json cannot be read"):
        run_folder(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "config.json").write_text("\ufeff" + TINY.to_json())  # as Windows editors save it
    with run_folder(tmp_path):
        pass
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="checkpoints but no config.json"):
        run_folder(tmp_path)


def test_generators_without_a_checkpoint_are_never_replaced(tmp_path):
    network = ResNetGenerator(2, 1)
    network.build((None, None, None, 3))
    save_generator(network, tmp_path / "b2a.keras")
    with pytest.raises(ValueError, match="holds generators but no checkpoint"):
        run_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b2a.keras"]


def test_only_one_process_trains_in_a_folder(tmp_path):
    with run_folder(tmp_path):
        before = (tmp_path / "config.json").read_text()
        with pytest.raises(ValueError, match="in use by another training process"):
            run_folder(tmp_path, dataclasses.replace(TINY, epochs=1))
        assert (tmp_path / "config.json").read_text() == before
        with run_folder(tmp_path, worker=1, workers=2):
            pass  # each worker in a cluster has its own lock
    with run_folder(tmp_path):
        pass


@pytest.mark.parametrize("name", [".", "checkpoints/worker_0"])
def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path, monkeypatch, name):
    real = tempfile.TemporaryFile

    def read_only(dir):
        if dir == tmp_path / name:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(ValueError, match="cannot be written .Read-only file system.: check its"):
        run_folder(tmp_path)
    assert not (tmp_path / "config.json").exists()


def cluster_of_two(path, steps, keep=2):
    """Writes the run folder of two workers, each with its own saved steps."""
    config = dataclasses.replace(TINY, keep_checkpoints=keep)
    for worker in (0, 1):
        saved_run(path, steps[worker], config, worker=worker, workers=2, replicas=2)


def resumed_at(path, worker):
    with run_folder(path, worker=worker, workers=2, replicas=2) as folder:
        return folder.attach(shared_model())


def test_what_workers_share_is_saved_by_the_first_alone(tmp_path):
    model = shared_model()
    model.step.assign(0)
    with run_folder(tmp_path, worker=1, workers=2) as folder:
        folder.attach(model)
        folder.save()
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
        reader = tf.train.load_checkpoint(str(folder.checkpoints / "ckpt-0"))
    names = {name.split("/")[0] for name in reader.get_variable_to_shape_map()}
    assert names == {"pool_a", "pool_b", "_CHECKPOINTABLE_OBJECT_GRAPH"}


@pytest.mark.parametrize("keep", [1, 2])
def test_workers_continue_from_the_newest_step_that_all_have(tmp_path, keep):
    """Checks the case where one worker was killed after only the other one had saved step 3."""
    cluster_of_two(tmp_path, ((1, 2, 3), (1, 2)), keep)
    assert [resumed_at(tmp_path, worker) for worker in (0, 1)] == [2, 2]
    folders = [tmp_path / "checkpoints" / f"worker_{worker}" for worker in (0, 1)]
    assert [saved_steps(folder) for folder in folders] == [[2, 3], [1, 2]]
    for workers in (1, 3):
        with pytest.raises(ValueError, match=f"trained on 2 workers, .* be {workers}"):
            run_folder(tmp_path, workers=workers, replicas=2)


@pytest.mark.parametrize("lost", ["no step in common", "emptied folder", "removed folder"])
def test_workers_without_a_common_step_lose_no_checkpoint(tmp_path, capsys, lost):
    cluster_of_two(tmp_path, ((3, 4), (1, 2) if lost == "no step in common" else (3, 4)))
    if lost != "no step in common":
        shutil.rmtree(tmp_path / "checkpoints" / "worker_1")
    if lost == "emptied folder":
        (tmp_path / "checkpoints" / "worker_1").mkdir()
    assert [resumed_at(tmp_path, worker) for worker in (0, 1)] == [4, 4]
    assert "continuing from step 4 of" in capsys.readouterr().out
    assert saved_steps(tmp_path / "checkpoints" / "worker_0") == [3, 4]


def test_without_the_shared_state_nothing_is_continued(tmp_path):
    cluster_of_two(tmp_path, ((1, 2), (1, 2)))
    shutil.rmtree(tmp_path / "checkpoints" / "worker_0")
    with pytest.raises(ValueError, match="worker_0 contains no checkpoint, but other workers"):
        run_folder(tmp_path, worker=1, workers=2, replicas=2)


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
    [(None, "is not a run folder"), ("{", "cannot be read"), ('{"speed": 3}', "unknown settings")],
)
def test_a_folder_that_is_no_run_folder(tmp_path, text, message):
    if text:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path)
