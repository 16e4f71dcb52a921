"""Tests tf-cyclegan student: objective, resuming, teachers of every kind, and the run folder."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import UNTUNED, write_landscapes

from tf_cyclegan.cli import evaluate, student, translate
from tf_cyclegan.cyclegan import CycleGAN
from tf_cyclegan.data.image_files import read_image
from tf_cyclegan.generators import UNetGenerator
from tf_cyclegan.inference.translator import find_generator, translator
from tf_cyclegan.interop import save_torch
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy
from tf_cyclegan.training.loop import train
from tf_cyclegan.training.run_folder import RunFolder, read_config, save_generator
from tf_cyclegan.training.student_config import StudentConfig
from tf_cyclegan.training.student_loop import load_teacher, make_distillation, train_student

TINY = Config(
    load_size=20, crop_size=16, filters=3, blocks=1, d_filters=4, d_layers=1, pool_size=0, seed=1
)
SMALL = {"filters": 2, "blocks": 1, "epochs": 2, "decay_epochs": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_landscapes(tmp_path_factory.mktemp("photos") / "data", (3, 3), (20, 24))


@pytest.fixture(scope="module")
def teacher(photos, tmp_path_factory):
    """A run folder with a checkpoint."""
    return make_teacher(tmp_path_factory.mktemp("runs") / "teacher", data_dir=str(photos))


def make_teacher(path, **changes):
    config = dataclasses.replace(TINY, **changes)
    shapes = [(16, 16, channels) for channels in (config.channels_a, config.channels_b)]
    model = make_cyclegan(config, make_strategy("one"), *shapes, steps_per_epoch=2)
    with RunFolder(path, config, {}) as folder:
        folder.attach(model)
        model.step.assign(5)
        folder.save()
    return path


def parse(flags):
    return student.parse([*flags, *(f"--{name}={value}" for name, value in SMALL.items())])


def run(*flags):
    return train_student(parse(flags))


def same(one, two):
    pairs = zip(one.get_weights(), two.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def distillation(teacher, strategy="one", **changes):
    """Returns a strategy and a compiled model."""
    config = StudentConfig(**(SMALL | changes), teacher=str(teacher), seed=3)
    strategy = make_strategy(strategy)
    with strategy.scope():
        parts = load_teacher(teacher, config)[:2]
    return strategy, make_distillation(config, strategy, *parts, steps_per_epoch=3)


def batch(seed, n=2, size=16):
    rng = np.random.default_rng(seed)
    return tuple(rng.uniform(-1, 1, (n, size, size, 3)).astype(np.float32) for _ in "ab")


# === The objective ===


def ssim(one, other):
    """The SSIM of two images in [-1, 1], from that of their gray levels in [0, 255]."""
    levels = [(image + 1) * 127.5 for image in (one, other)]
    return float(tf.image.ssim(*levels, max_val=255.0))


def features_by_hand(discriminator, x):
    found = []
    for layer in discriminator.stack.layers:
        x = layer(x)
        if isinstance(layer, keras.layers.LeakyReLU):
            found.append(x.numpy())
    return found


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_the_losses_are_those_of_the_definition(teacher, direction):
    weights = {"lambda_teacher": 2.0, "lambda_ssim": 3.0, "lambda_features": 5.0}
    _, model = distillation(teacher, direction=direction, lambda_adversarial=7.0, **weights)
    real_a, real_b = batch(0)
    own, other = (real_a, real_b) if direction == "a2b" else (real_b, real_a)
    images = np.concatenate([own, other])
    fakes = model.student(images).numpy()
    targets = find_generator(teacher, direction)(images).numpy()
    whole = find_whole(teacher)
    d = whole.d_b if direction == "a2b" else whole.d_a
    found = model.train_step((tf.constant(real_a), tf.constant(real_b)))
    pairs = zip(features_by_hand(d, fakes), features_by_hand(d, targets), strict=True)
    real, fake = d(other).numpy(), d(fakes[:2]).numpy()
    expected = {
        "teacher": 2 * np.abs(fakes - targets).mean(),
        "ssim": 3 * (1 - np.mean([ssim(x, y) for x, y in zip(fakes, targets, strict=True)])),
        "features": 5 * np.mean([np.abs(one - two).mean() for one, two in pairs]),
        f"g_adv_{direction}": 7 * ((fake - 1) ** 2).mean(),
        f"d_{direction[-1]}": ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
        "learning_rate": 1e-3,
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, 1e-5)


def find_whole(run_dir):
    """Returns the CycleGAN of a run folder with its checkpoint."""
    config = read_config(run_dir)
    shape = (16, 16, 3)
    model = make_cyclegan(config, make_strategy("one"), shape, shape, steps_per_epoch=2)
    with RunFolder(run_dir, config, {}) as folder:
        folder.attach(model)
    return model


def test_only_the_student_and_the_critic_are_trained(teacher):
    _, model = distillation(teacher, lambda_adversarial=1.0)
    before = find_whole(teacher)
    start = model.student.get_weights()
    for number in range(2):
        model.train_step(tuple(map(tf.constant, batch(number))))
    assert same(model.teacher, before.a2b) and same(model.discriminator, before.d_b)
    assert not same(model.critic, before.d_b)
    assert any(
        np.abs(a - b).max() > 0 for a, b in zip(start, model.student.get_weights(), strict=True)
    )
    assert model.steps_done == 2


def test_a_student_comes_closer_to_its_teacher(teacher):
    _, model = distillation(teacher, filters=4, learning_rate=0.01, epochs=100)
    step = tf.function(model.train_step, autograph=False)
    images = tuple(map(tf.constant, batch(0)))
    losses = [float(step(images)["teacher"]) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def test_without_both_domains_only_the_inputs_count(teacher):
    _, model = distillation(teacher, both_domains=False, lambda_features=0.0)
    real_a, real_b = batch(0)
    fakes = model.student(real_a).numpy()
    targets = model.teacher(real_a).numpy()
    losses = model.train_step((tf.constant(real_a), tf.constant(real_b)))
    assert float(losses["teacher"]) == pytest.approx(np.abs(fakes - targets).mean(), 1e-5)


@pytest.mark.slow
def test_two_replicas_equal_one_with_both_batches(teacher):
    results = []
    for name in ("one", "mirrored"):
        strategy, model = distillation(teacher, name, lambda_adversarial=0.5)
        sgd = keras.optimizers.SGD  # Adam hides a wrong scale
        with strategy.scope():
            model.compile(sgd(0.05), sgd(0.05), 1.0, 1.0, 1.0, 0.5)

        @tf.function(autograph=False)
        def step(real, strategy=strategy, model=model):
            return strategy.run(model.train_step, args=(real,))

        data = tf.data.Dataset.from_tensor_slices(batch(0, 4)).batch(4).with_options(UNTUNED)
        for real in strategy.experimental_distribute_dataset(data.repeat(2)):
            step(real)
        results.append([*model.student.get_weights(), *model.critic.get_weights()])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=2e-6)


# === The command ===


def test_the_student_is_an_ordinary_run_folder(teacher, photos, tmp_path, capsys):
    out = tmp_path / "student"
    assert run(f"--run_dir={teacher}", f"--output={out}", "--sample_every=3") == 0
    printed = capsys.readouterr().out
    assert "times fewer multiply-adds" in printed and f"{out}/a2b.keras" in printed
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "step_0000003.png",
        "step_0000006.png",
    ]
    header = (out / "losses.csv").read_text().splitlines()[0]
    assert header == "step,features,learning_rate,ssim,teacher"
    assert same(find_generator(out / "teacher", "a2b"), find_generator(teacher, "a2b"))
    network = find_generator(out, "a2b")
    assert (network.filters, network.blocks, network.kernel) == (2, 1, 5) and network.separable

    flags = translate.Options(
        run_dir=str(out), output=str(tmp_path / "fakes"), input=(str(photos / "trainA"),)
    )
    assert translate.main(flags) == 0
    fake = read_image(tmp_path / "fakes" / "0.png")
    np.testing.assert_array_equal(fake, translator(network)(read_image(photos / "trainA/0.png")))

    assert evaluate.main(evaluate.Options(run_dir=str(out))) == 0
    scores = json.loads((out / "evaluation/evaluation.json").read_text())
    assert scores["a2b"]["distance"]["kid"] is not None and scores["a2b"]["cycle"] is None
    assert "b2a" not in scores


@pytest.mark.parametrize("direction", ["a2b", pytest.param("b2a", marks=pytest.mark.slow)])
def test_a_run_that_stops_continues_bit_for_bit(teacher, tmp_path, direction):
    own = tmp_path / "teacher"
    shutil.copytree(teacher, own)
    flags = [f"--run_dir={own}", f"--direction={direction}", "--lambda_adversarial=1"]
    assert run(*flags, f"--output={tmp_path}/whole", "--max_steps=5") == 0
    (tmp_path / "parts" / "teacher").mkdir(parents=True)  # of a start that saved no checkpoint
    shutil.copy(teacher / "a2b.keras", tmp_path / "parts/teacher/d_a.keras")
    assert run(*flags, f"--output={tmp_path}/parts", "--max_steps=2") == 0
    shutil.rmtree(own)  # the student has a copy
    assert run(*flags, f"--output={tmp_path}/parts", "--max_steps=5") == 0
    whole, parts = (tmp_path / name / f"{direction}.keras" for name in ("whole", "parts"))
    assert same(find_generator(whole, direction), find_generator(parts, direction))
    tables = [(tmp_path / name / "losses.csv").read_text() for name in ("whole", "parts")]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 6


def test_the_best_generator_is_the_teacher(teacher, tmp_path):
    own = tmp_path / "run"
    shutil.copytree(teacher, own)
    (own / "best").mkdir()
    shutil.copy(teacher / "b2a.keras", own / "best" / "a2b.keras")  # another network
    loaded, discriminator, source = load_teacher(own, StudentConfig(teacher=str(own)))
    assert source == own / "best" and same(loaded, find_generator(teacher, "b2a"))
    assert same(discriminator, find_whole(teacher).d_b)


def test_a_file_is_a_teacher_without_a_discriminator(teacher, photos, tmp_path):
    for name in ("a2b.keras", "G_A.pth"):
        file = tmp_path / name
        if name.endswith("pth"):
            pytest.importorskip("torch", reason="PyTorch is not installed")
            save_torch(find_generator(teacher, "a2b"), file)
        else:
            shutil.copy(teacher / name, file)
        out = tmp_path / f"student_{name}"
        flags = [f"--teacher={file}", f"--data_a={photos}/trainA", f"--output={out}"]
        assert run(*flags, "--load_size=20", "--crop_size=16", "--max_steps=2") == 0
        assert not read_config(out).both_domains
        header = (out / "losses.csv").read_text().splitlines()[0]
        assert header == "step,learning_rate,ssim,teacher"


def test_a_saved_cyclegan_is_a_teacher_with_a_discriminator(teacher, tmp_path):
    whole = find_whole(teacher)
    whole.save(tmp_path / "model.keras")
    config = StudentConfig(teacher=str(tmp_path / "model.keras"), direction="b2a")
    loaded, discriminator, _ = load_teacher(tmp_path / "model.keras", config)
    assert same(loaded, whole.b2a) and same(discriminator, whole.d_a)


def test_a_teacher_of_pairs_has_a_discriminator_that_sees_the_input(tmp_path):
    pairs = {"lambda_l1": 10.0, "pool_size": 0, "paired": True, "channels_b": 1}
    path = make_teacher(tmp_path / "pix2pix", lambda_identity=0.0, **pairs)
    _, model = distillation(path, both_domains=False, channels_b=1)
    real_a, real_b = batch(0)
    losses = model.train_step((tf.constant(real_a), tf.constant(real_b[..., :1])))
    assert model.discriminator.input_channels == 4
    images = [model.student(real_a), model.teacher(real_a)]
    seen = [tf.concat([real_a, image], -1) for image in images]
    assert float(losses["features"]) > 0 and seen[0].shape[-1] == 4
    with pytest.raises(ValueError, match="teacher of pairs needs pairs: use --lambda_adversarial"):
        distillation(path, both_domains=False, channels_b=1, lambda_adversarial=1.0)


def test_the_defaults_for_the_data_are_the_teachers(teacher, photos):
    config = parse([f"--run_dir={teacher}", "--output=out", "--crop_size=12"])
    assert (config.data_dir, config.load_size, config.crop_size) == (str(photos), 20, 12)
    assert config.teacher == str(teacher) and str(config.run_folder) == "out"
    assert StudentConfig.from_json(config.to_json()) == config


NO_IMAGE_TERMS = ("--lambda_ssim=0", "--lambda_teacher=0")


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "use either --run_dir or --teacher"),
        (["--run_dir={run}", "--teacher={run}"], "use either --run_dir or --teacher"),
        (["--run_dir={tmp}/none"], "none does not exist: name a run folder"),
        (["--run_dir={run}", "--upsampling=transpose"], "transpose needs --no_separable"),
        (["--run_dir={run}", "--channels_a=1"], "images of 3 channels to 3: use --channels_a=3"),
        (["--run_dir={run}", "--crop_size=8"], "windows of 11 pixels: use --crop_size=12"),
        (["--run_dir={run}", "--lambda_ssim=-1"], "lambda_ssim is -1.0: use 0 or more"),
        (
            ["--run_dir={run}", "--lambda_ssim=0", "--lambda_teacher=0", "--lambda_features=0"],
            "All weights are 0",
        ),
        (
            ["--teacher={run}/a2b.keras", "--data_a={photos}/trainA", *NO_IMAGE_TERMS],
            "All weights are 0",
        ),
        (["--teacher={run}/a2b.keras"], "name images to train on, for example with --data_a"),
        (
            ["--run_dir={run}", "--data_a={photos}/trainA", "--lambda_adversarial=1"],
            "Images of domain b are missing: add --data_b",
        ),
        (["--run_dir={run}", "--direction=b2a", "--data_a={photos}/trainA"], "data_b"),
        (
            ["--teacher={run}/b2a.keras", "--data_dir={tmp}/none"],
            "is named after b2a: use the direction b2a",
        ),
        (["--teacher={run}/a2b.keras", "--data_dir={tmp}/none"], "none is not a folder"),
        (
            ["--teacher={run}/a2b.keras", "--data_dir={photos}", "--lambda_features=1"],
            "The teacher has no discriminator: use --lambda_features=0",
        ),
    ],
)
def test_wrong_flags_are_named_and_nothing_is_written(teacher, photos, tmp_path, flags, message):
    flags = [flag.format(run=teacher, tmp=tmp_path, photos=photos) for flag in flags]
    with pytest.raises(ValueError, match=message):
        run(*flags, f"--output={tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_needs_another_crop_is_refused(photos, tmp_path):
    network = UNetGenerator(filters=2, depth=5)
    network.build((None, None, None, 3))
    save_generator(network, tmp_path / "a2b.keras")
    flags = [f"--teacher={tmp_path}/a2b.keras", f"--data_dir={photos}", f"--output={tmp_path}/out"]
    with pytest.raises(ValueError, match="crop_size 20 is not a multiple of 32, as the teacher"):
        run(*flags, "--load_size=20", "--crop_size=20")
    with pytest.raises(ValueError, match="multiples of 32: use a --preprocess with crop"):
        run(*flags, "--preprocess=none")


def test_a_crop_that_the_teachers_discriminator_cannot_see_is_refused(photos, tmp_path):
    path = make_teacher(tmp_path / "run", d_layers=3, data_dir=str(photos))
    with pytest.raises(ValueError, match="discriminator: use --crop_size=24 or more"):
        make_and_run = [f"--run_dir={path}", f"--output={tmp_path}/out", "--load_size=24"]
        run(*make_and_run, "--crop_size=20")


@pytest.mark.slow
def test_images_of_different_sizes_need_one_domain(teacher, tmp_path):
    for size in ((20, 24), (24, 20)):
        write_landscapes(tmp_path / f"{size[0]}", (1, 1), size)
    for folder in ("trainA", "trainB"):
        shutil.copy(tmp_path / "24" / folder / "0.png", tmp_path / "20" / folder / "1.png")
    flags = [f"--run_dir={teacher}", f"--data_dir={tmp_path}/20", "--preprocess=none"]
    with pytest.raises(ValueError, match="differ in size: use --no_both_domains"):
        run(*flags, f"--output={tmp_path}/out")
    assert run(*flags, f"--output={tmp_path}/out", "--no_both_domains") == 0


def test_other_images_replace_those_of_the_teacher(teacher, photos):
    config = parse([f"--run_dir={teacher}", "--output=out", f"--data_a={photos}/trainA"])
    assert (config.data_dir, config.data_a) == (None, f"{photos}/trainA")
    assert config.data_b == config.data_a and not config.both_domains and config.crop_size == 16


@pytest.mark.slow
def test_a_student_of_one_folder_is_not_evaluated_on_its_inputs(teacher, photos, tmp_path):
    flags = [f"--run_dir={teacher}", f"--data_a={photos}/trainA", f"--output={tmp_path}/out"]
    assert run(*flags, "--max_steps=1") == 0
    with pytest.raises(ValueError, match="images of one domain: name those of both with --data_d"):
        evaluate.main(evaluate.Options(run_dir=str(tmp_path / "out")))
    with pytest.raises(ValueError, match="has only a2b.keras: use --direction=a2b"):
        find_generator(tmp_path / "out", "b2a")


def test_errors_of_the_run_folder_name_the_flag_of_this_command(teacher, tmp_path):
    flags = [f"--run_dir={teacher}", f"--output={tmp_path}/out"]
    assert run(*flags, "--max_steps=1") == 0
    with pytest.raises(ValueError, match="other settings .*, or another --output"):
        student.main(parse([*flags, "--lambda_ssim=2"]))
    with pytest.raises(ValueError, match="holds a student for a2b, not for b2a: use another --out"):
        student.main(parse([*flags, "--direction=b2a"]))
    flags[0] = f"--teacher={teacher}/a2b.keras"
    with pytest.raises(ValueError, match="other settings .--teacher=.*, or another --output"):
        student.main(parse([*flags, "--max_steps=2"]))


def test_a_run_folder_of_the_other_kind_is_not_continued(teacher, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(teacher, out)
    with pytest.raises(ValueError, match="training run of a CycleGAN, not of a student: use anot"):
        run(f"--run_dir={teacher}", f"--output={out}")
    assert run(f"--run_dir={teacher}", f"--output={tmp_path}/student", "--max_steps=1") == 0
    theirs = dataclasses.replace(read_config(teacher), run_dir=str(tmp_path / "student"))
    with pytest.raises(ValueError, match="training run of a student, not of a CycleGAN"):
        train(theirs)


def test_a_discriminator_that_was_never_trained_is_not_used(tmp_path):
    path = make_teacher(tmp_path / "run", lambda_adversarial=0.0)
    assert load_teacher(path, StudentConfig(teacher=str(path)))[1] is None


def test_a_cyclegan_can_have_separable_generators(photos, tmp_path):
    config = dataclasses.replace(
        TINY, data_dir=str(photos), run_dir=str(tmp_path / "run"), upsampling="resize",
        separable=True, kernel=3, max_steps=1, epochs=1, decay_epochs=0,
    )  # fmt: skip
    assert train(config) == 0
    assert find_generator(tmp_path / "run", "a2b").separable
    assert isinstance(find_whole(tmp_path / "run"), CycleGAN)
