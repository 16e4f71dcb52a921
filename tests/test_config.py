import ast
import dataclasses
import inspect
import json
import math
import re

import pytest

from tf_cyclegan.cli import translate_many
from tf_cyclegan.cli.train import parse
from tf_cyclegan.training import config as module
from tf_cyclegan.training.config import PRESETS, SYNTHETIC, Config

DEMO, PIX2PIX = Config(**PRESETS["demo"]), PRESETS["pix2pix"]
FIELDS = [field.name for field in dataclasses.fields(Config)]


def test_defaults_and_demo_pass():
    Config().check()
    DEMO.check()
    assert Config().synthetic and DEMO.synthetic


@pytest.mark.parametrize("config", [Config(), DEMO, Config(data_dir="été 夏", max_steps=3)])
def test_json_round_trip(config):
    text = config.to_json()
    assert Config.from_json(text) == config
    assert len(text.splitlines()) == len(FIELDS) + 2


def test_json_of_another_version_or_of_something_else():
    with pytest.raises(ValueError, match=r"unknown settings colour, size: another version"):
        Config.from_json('{"size": 1, "crop_size": 64, "colour": 2}')
    for text in ("[]", "3", "not json", ""):
        with pytest.raises(ValueError):
            Config.from_json(text)
    assert Config.from_json('{"crop_size": 64}') == Config(crop_size=64)
    assert Config.from_json('{"ema": 0, "val_dir": null}') == Config(ema=0)
    for name, value in {"crop_size": "64", "run_dir": 5, "flip": 1, "cache": "ram"}.items():
        with pytest.raises(
            ValueError, match=f"^{name} is {value!r}, which is not a valid value: restore"
        ):
            Config.from_json(json.dumps({name: value}))
    before_presets = Config.from_json('{"model": "pix2pix", "lambda_l1": 100.0}')
    assert before_presets == Config(lambda_l1=100.0)
    for before, now in (("true", "memory"), ("false", "none"), ('"disk"', "disk")):
        assert Config.from_json(f'{{"cache": {before}}}') == Config(cache=now)


# Start of the error message, with the cause and a flag that helps: settings that cannot work.
REFUSED = {
    "batch_size is 0: use 1 or more": {"batch_size": 0},
    "load_size is -1: use 1 or more": {"load_size": -1},
    "crop_size is 0: use 1 or more": {"crop_size": 0},
    "keep_checkpoints is 0: use 1 or more": {"keep_checkpoints": 0},
    "epochs and decay_epochs are both 0": {"epochs": 0, "decay_epochs": 0},
    "cache is True: use memory, disk or none": {"cache": True},
    "max_steps is 0: use 1 or more": {"max_steps": 0},
    "max_images is 0: use 1 or more": {"max_images": 0},
    "crop_size 512 is larger than load_size 286: use --load_size=512": {"crop_size": 512},
    "crop_size 254 is not a multiple of 4, .*use --crop_size=252": {"crop_size": 254},
    "crop_size 192 is not a multiple of 128, .*use --crop_size=128": {
        "crop_size": 192,
        "generator": "unet",
        "depth": 7,
    },
    "crop_size 128 .*use --crop_size=256, or a smaller --depth": {
        "crop_size": 128,
        "generator": "unet",
    },
    "d_layers is 7: use 1 to 5": {"d_layers": 7},
    "learning_rate is inf: use a finite": {"learning_rate": math.inf},
    "save_minutes is nan: use a finite": {"save_minutes": math.nan},
    "seed is 4294967296: use less": {"seed": 2**32},
    "beta_1 is 1.0: use 0 or more and less": {"beta_1": 1.0},
    r"the name of b'runs/caf.xe9' is not valid UTF-8: use another --run_dir": {
        "run_dir": "runs/caf\udce9"
    },
    "crop_size 20 is too small .*use --crop_size=24 or more": {"crop_size": 20},
    "crop_size 4 is too small .*use --crop_size=8 or more": {
        "crop_size": 4,
        "discriminator": "pixel",
    },
    "The identity loss .*use --lambda_identity=0": {"channels_b": 1},
    "lambda_l1 needs pairs: add --paired": {"lambda_l1": 1.0, "data_dir": "x", "pool_size": 0},
    "lambda_l1 cannot be used with an image pool: use --pool_size=0": {"lambda_l1": 1.0},
    "dropout is 1.0: use .* less than 1": {"dropout": 1.0},
    "dropout is -0.1: use 0 or more": {"dropout": -0.1},
    "ema is 1.0: use 0 or more and less than 1": {"ema": 1.0},
    "color_jitter is -0.5: use 0 or more": {"color_jitter": -0.5},
    "val_share is 0.0: use more than 0": {"val_share": 0.0},
    "val_dir, val_features and patience need --evaluate_every=1": {"patience": 3},
    "d_augment has 'blur': use one or more of translation": {"d_augment": "color,blur"},
    "d_steps is 0: use 1 or more": {"d_steps": 0},
    "patience cannot stop a cluster of workers: use --patience=0": {
        "patience": 1,
        "evaluate_every": 1,
        "strategy": "multiworker",
    },
    "recompute would apply dropout, .*--no_recompute": {"recompute": True, "dropout": 0.5},
    "recompute would .* batch norm.*--no_recompute": {"recompute": True, "norm": "batch"},
} | {
    f"{name} is -1: use 0 or more": {name: -1}
    for name in (
        "pool_size epochs decay_epochs seed sample_every save_every save_minutes learning_rate "
        "lambda_adversarial lambda_cycle_a lambda_cycle_b lambda_identity lambda_l1 patience "
        "d_learning_rate gradient_penalty gradient_center rotate evaluate_every"
    ).split()
}


@pytest.mark.parametrize("message, settings", REFUSED.items())
def test_refused_settings_name_flag_and_remedy(message, settings):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        Config(**settings).check()
    text = str(error.value)
    assert "\n" not in text
    assert any(name in text for name in [*settings, "--lambda_identity"])
    for flag, value in re.findall(r"--(\w+)=(\d+)", text):  # checks that the suggested flag works
        Config(**settings | {flag: int(value)}).check()


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_size": 512, "preprocess": "crop"},
        {"crop_size": 510, "preprocess": "none"},
        {"crop_size": 510, "preprocess": "scale_width", "load_size": 300},
        {"crop_size": 128, "generator": "unet", "depth": 7},
        {"crop_size": 24},
        {"crop_size": 12, "d_layers": 2},
        {"channels_b": 1, "lambda_identity": 0},
        {"pool_size": 0, "save_every": 0, "sample_every": 0, "save_minutes": 0},
        {"epochs": 0},
        PIX2PIX,
        {"lambda_l1": 1.0, "data_dir": "x", "pool_size": 0, "side_by_side": True},
        PIX2PIX | {"data_dir": "pairs", "channels_b": 1},
        {"decay_epochs": 0},
    ],
)
def test_accepted_settings(settings):
    Config(**settings).check()


@pytest.mark.parametrize(
    "settings, name",
    [
        ({}, "runs/summer2winter"),
        ({"dataset": SYNTHETIC}, "runs/summer2winter"),
        ({"dataset": "cycle_gan/maps"}, "runs/maps"),
        ({"dataset": "cycle_gan/maps", "data_dir": "somewhere/tfds"}, "runs/maps"),
        ({"data_dir": "my data/photos/"}, "runs/photos"),
        ({"data_a": "夏", "data_b": "x/冬"}, "runs/夏-冬"),
        ({"dataset": "cycle_gan/maps", "run_dir": "elsewhere/x"}, "elsewhere/x"),
    ],
)
def test_run_folder(settings, name):
    assert Config(**settings).run_folder.as_posix() == name


def test_run_folder_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Config(data_dir=".").run_folder.as_posix() == f"runs/{tmp_path.name}"


def test_home_is_expanded_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    names = ("run_dir", "data_dir", "data_a", "data_b")
    config = Config(**dict.fromkeys(names, "~/x"))
    assert {getattr(config, name) for name in names} == {"/home/me/x"}
    assert Config.from_json('{"data_dir": "~/photos"}').data_dir == "/home/me/photos"


def test_multiple_is_what_the_generators_need():
    assert Config().multiple == 4
    assert Config(generator="unet", depth=5).multiple == 32


def test_every_setting_says_what_it_is():
    described = {}
    for group in ast.parse(inspect.getsource(module)).body:
        if isinstance(group, ast.ClassDef):
            for before, after in zip(group.body, group.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                    described[before.target.id] = ast.literal_eval(after.value)
    assert list(described) == FIELDS
    assert all(text.strip().endswith(".") for text in described.values())


def test_a_preset_changes_the_defaults_of_the_other_flags():
    assert parse([]) == ("demo", DEMO)
    assert parse(["--dataset", SYNTHETIC, "--epochs=3"])[1] == dataclasses.replace(
        DEMO, dataset=SYNTHETIC, epochs=3
    )
    assert parse(["--preset=paper"]) == ("paper", Config())
    assert parse(["--data_dir=x"]) == ("paper", Config(data_dir="x"))
    name, config = parse(["--data_dir=x", "--preset=pix2pix", "--lambda_l1=10"])
    assert name == "pix2pix"
    assert config == Config(**PIX2PIX | {"data_dir": "x", "lambda_l1": 10.0})


def test_home_is_expanded_in_the_flags_of_every_command(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse(["--run_dir=~/x"])[1].run_dir == "/home/me/x"
    flags = ["--run_dir=~/x", "--input=~/photos", "--output=~/out", "--runner=DirectRunner"]
    options, beam_flags = translate_many.parse(flags)
    assert (options.run_dir, options.input, options.output) == (
        "/home/me/x", "/home/me/photos", "/home/me/out",
    )  # fmt: skip
    assert beam_flags == ["--runner=DirectRunner"]


def test_help_shows_groups_and_the_defaults_of_the_preset(capsys):
    for flags, size in (([], 286), (["--preset=demo"], 72)):
        with pytest.raises(SystemExit) as end:
            parse([*flags, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert re.search(rf"--load_size INT[^-]*\(default:\s+.?\s*{size}\)", text)
        titles = "data networks objective optimization validation machine run_folder".split()
        positions = [text.index(f" {title} options ") for title in titles]
        assert positions == sorted(positions)
