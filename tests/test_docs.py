"""Tests the code blocks of the documentation: Python runs at a small size; all flags exist."""

import configparser
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from cases import LOSSES

import tf_cyclegan as cg
from tf_cyclegan.cli import command, train
from tf_cyclegan.cli.__main__ import COMMANDS
from tf_cyclegan.data.synthetic import landscape

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^ *```(?P<kind>\w+)\n(?P<code>.*?)^ *```",
    re.DOTALL | re.MULTILINE,
)
# Very small images and networks, so that a training run takes only seconds.
TINY = """--load_size=20 --crop_size=16 --filters=2 --blocks=0 --d_filters=2 --d_layers=1
    --max_steps=2 --save_every=0""".split()
SHRINK = {
    "size=286, crop=256": "size=20, crop=16",
    "ResNetGenerator()": "ResNetGenerator(filters=2, blocks=0)",
    "PatchDiscriminator()": "PatchDiscriminator(filters=2, layers=1)",
    "initial_epoch=200, epochs=210": "initial_epoch=2, epochs=3",
    "epochs=200": "epochs=2",
}


def blocks(page, kind):
    """Returns the code blocks of one kind on a page, each with a reason if it is not run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(m["code"], m["reason"]) for m in BLOCK.finditer(text) if m["kind"] == kind]


def commands(code):
    """Splits a shell block into commands, each a list of words."""
    lines = re.sub(r"(\\|\|)\n", " ", code).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def named(words):
    """Splits a tf-cyclegan command into its name and its flags."""
    for count in (2, 1):
        name = " ".join(words[1 : 1 + count])
        if name in COMMANDS:
            return name, words[1 + count :]
    raise AssertionError(f"{words} names no command")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Changes to a folder that contains the images used in the README and the guide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder, season in (("photos", "summer"), ("paintings", "winter"), ("holiday", "summer")):
        Path(folder).mkdir()
        for i in range(3):
            cg.write_image(f"{folder}/{i}.jpg", landscape(i, season, 24, 30))
    cg.write_image("holiday.jpg", landscape(9, "summer", 31, 45))
    return tmp_path


# === Python ===


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_runs(page, home):
    variables: dict = {}
    for code, reason in blocks(page, "python"):
        for full, tiny in SHRINK.items():
            code = code.replace(full, tiny)
        if reason is None:
            exec(code, variables)
    model = keras.saving.load_model("monet.keras")
    assert model.steps_done == 6
    assert {path.name for path in Path("samples").iterdir()} == {"step_0000006.png"}
    photo = cg.read_image("holiday.jpg")
    painted = variables["translate"](photo)
    assert painted.shape == photo.shape
    np.testing.assert_array_equal(cg.read_image("painted.png"), painted)
    if page == "README.md":
        trained = variables["model"]
        assert set(trained.history.history) == LOSSES and int(trained.pool_a[0].seen) == 6
        np.testing.assert_array_equal(painted, cg.translator(trained.a2b)(photo))


# === Shell ===


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_flags_that_exist(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for code, reason in blocks(page, "sh"):
        for words in commands(code):
            if words[0] == "tf-cyclegan":
                parse(*named(words))
            elif words[0] == "make":
                assert set(words[1:]) <= set(targets), words
            elif words[:2] == ["pip", "install"]:
                for name in ",".join(re.findall(r"\[(.+)\]", words[2])).split(","):
                    assert not name or name in extras["options.extras_require"] or reason, words
            elif words[:2] == ["python", "-m"]:
                options = importlib.import_module(words[2]).Options
                command.parse(options, None, arguments=words[3:])
            elif words[0] == "python" and words[1].startswith("scripts/"):
                parse(Path(words[1]).stem.replace("_", "-"), words[2:])
            elif words[0] == "python" and (ROOT / words[1]).is_file():
                monkeypatch.syspath_prepend(ROOT / Path(words[1]).parent)
                options = runpy.run_path(str(ROOT / words[1])).get("Options")
                assert options or reason, words
                if options:
                    command.parse(options, None, arguments=words[2:])
            else:
                assert reason, f"{page}: {words} is not run: say why above the block"


def parse(name, flags):
    module = importlib.import_module(f"tf_cyclegan.cli.{COMMANDS[name][0]}")
    if name in ("train", "translate-many"):
        module.parse(flags)
    else:
        options = command.parse(module.Options, None, arguments=flags)
        if name == "workers":
            train.parse(list(options.train))


@pytest.mark.slow
def test_the_commands_of_the_readme_run(home, monkeypatch, capsys):
    """Runs them in order, in one folder, except those that need a downloaded dataset."""
    ran = []
    for code, reason in blocks("README.md", "sh"):
        for words in commands(code):
            if words[0] != "tf-cyclegan" or reason:
                continue
            name, flags = named(words)
            if name == "train":
                if Path("runs/mine").exists():
                    continue  # the laptop settings, which belong to another run
                flags = [*flags, *TINY]
            if name == "student":
                flags = [*flags, "--filters=2", "--blocks=0", "--max_steps=2"]
            if name == "export tflite":
                flags = ["--size=16" if flag == "--size=256" else flag for flag in flags]
            monkeypatch.setattr(sys, "argv", [name, *flags])
            module = importlib.import_module(f"tf_cyclegan.cli.{COMMANDS[name][0]}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(command, "run", lambda main, options, **_: ran.append(main(options)))
                module.cli()
    assert len(ran) == 10 and set(ran) == {0}, capsys.readouterr()
    assert Path("a2b.onnx").exists() and Path("out/index.html").exists()
