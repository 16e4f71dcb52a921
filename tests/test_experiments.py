"""Tests the tables of experiments, and the experiments command with a budget of a few steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tf_cyclegan.cli import command, evaluate, experiments, train
from tf_cyclegan.data.image_files import read_image
from tf_cyclegan.evaluation.experiment_report import cell, late_spread, page
from tf_cyclegan.training.callbacks import read_losses
from tf_cyclegan.training.checkpoint_files import saved_steps

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def test_a_cell_holds_mean_and_range():
    runs = [{"truth": {"l1": value}} for value in (0.1, 0.2, 0.6)]
    assert cell(runs, "truth", "l1", 2) == "0.30 (0.10 to 0.60)"
    assert cell(runs[:1], "truth", "l1", 3) == "0.100"
    assert cell([{"d_spread": 0.5}], "d_spread", None, 1) == "0.5"
    assert cell([*runs, {"truth": None}], "truth", "l1", 2) == ""
    assert cell([{"d_spread": None}], "d_spread", None, 1) == ""
    assert cell([{"d_spread": -0.04}, {"d_spread": 0.06}], "d_spread", None, 1) == (
        "0.0 (0.0 to 0.1)"
    )
    collapses = [{"collapse": {"collapsed": value}} for value in (True, False, True)]
    assert cell(collapses, "collapse", "collapsed", 0) == "2 of 3"


def test_the_spread_is_that_of_the_last_quarter():
    # The last quarter of 160 steps is split into 20 parts of 2 steps.
    alternating = [9.0 * (i % 2) for i in range(120)] + [float(i % 2) for i in range(40)]
    assert late_spread(alternating) == 0  # all parts have equal means
    assert late_spread([5.0] * 120 + [0.0] * 20 + [1.0] * 20) == 0.5
    assert late_spread([]) is None


def test_a_page_leaves_empty_columns_out():
    empty = dict.fromkeys(("truth", "identity"))
    scores = empty | {
        "images": {"inputs": 4, "targets": 5},
        "color": {"truth": None, "identity": None},
        "distance": {"kid": 0.25, "untranslated": {"kid": 0.75}},
        "cycle": {"l1": 0.5},
        "collapse": {"collapsed": True},
        "d_spread": None,
    }
    protocol = {"split": "test", "seed": 7, "step": 30, "features": "pixels", "sizes": "each small"}
    run = {"protocol": protocol, "a2b": scores, "b2a": scores}
    text = page("losses", "Why?", "python this.py", {"one": [run], "two": [run]})
    assert (
        "| | KID | cycle L1 | collapsed |\n|---|---|---|---|\n| untranslated | 0.750 |  |  |\n"
        in text
    )
    assert text.count("| two | 0.250 | 0.500 | 1 of 1 |") == 2
    assert "(4 and 5 images; each small), after 30 steps" in text
    assert "python this.py" in text and "Seed 7" in text


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in this process, where TensorFlow is already loaded.

    Returns:
        A function that takes flags and returns the exit code and the printed text.
    """
    monkeypatch.chdir(tmp_path)

    def call(name, *flags, result=None):
        print("tf-cyclegan", name, *flags)
        if name == "train":
            assert train.main(train.parse(list(flags))[1]) == 0
        else:
            options = command.parse(evaluate.Options, None, arguments=list(flags))
            assert evaluate.main(options) == 0

    monkeypatch.setattr(experiments, "call", call)

    def run(*flags):
        capsys.readouterr()
        code = experiments.main(command.parse(experiments.Options, None, arguments=list(flags)))
        return code, capsys.readouterr().out

    return run


def test_an_experiment_is_run_once_and_drawn(run, tmp_path):
    flags = (
        "--train=--max_steps=2 --load_size=24 --crop_size=24 --filters=2 --blocks=0 --d_filters=2 "
        "--d_layers=1 --cache=none"
    )
    code, printed = run("identity", "--seeds", "3", flags)
    assert code == 0 and printed.count("tf-cyclegan train --max_steps=2") == 2
    folder = tmp_path / "docs" / "experiments" / "identity"
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["without", "with identity"]
    assert results["without"][0]["protocol"]["step"] == 2
    assert results["without"][0]["a2b"]["truth"]["l1"] > 0
    assert results["without"][0]["a2b"] != results["with identity"][0]["a2b"]
    assert "| with identity | 0." in (folder / "README.md").read_text()
    assert read_image(folder / "figure.png").shape[1] > 4 * 120

    code, printed = run("identity", "--seeds", "3", flags)
    assert code == 0 and "tf-cyclegan train" not in printed
    # Only some variants, all of which already have results, and no figure.
    some = ["losses", "--variants", "CycleGAN", "CycleGAN with identity", "--seeds", "3", flags]
    code, printed = run(*some, "--no_figure", "--output=here")
    assert code == 0 and "tf-cyclegan train" not in printed
    page = (tmp_path / "here/README.md").read_text()
    assert "| CycleGAN | " in page and "| GAN alone" not in page and "figure.png" not in page
    assert "--variants CycleGAN 'CycleGAN with identity' --seeds 3 '--train=--max_steps=2" in page
    assert "--no_figure --output=here\n" in page
    assert not (tmp_path / "here/figure.png").exists()


def test_a_training_run_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = experiments.Options("losses", train="--epochs=-1")
    with pytest.raises(ValueError, match=r"tf-cyclegan train --epochs=-1 .* failed with exit code"):
        experiments.main(options)
    assert not (tmp_path / "docs").exists()


def test_ctrl_c_lets_the_training_run_save(tmp_path):
    flags = "--load_size=24 --crop_size=24 --filters=2 --blocks=0 --d_filters=2 --d_layers=1"
    job = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "experiments.py", "identity", f"--train={flags}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group, as of a terminal
        # In the background of a shell, SIGINT would stay ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = experiments.run_folder("--lambda_identity=0", 0, experiments.Options("", train=flags))
    losses = tmp_path / folder / "losses.csv"
    while not losses.exists() or not read_losses(losses):
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)
    error = job.communicate(timeout=60)[1]
    assert job.returncode == 130 and "Traceback" not in error
    assert saved_steps(tmp_path / folder / "checkpoints" / "worker_0")


def test_each_text_of_flags_has_a_folder_of_its_own():
    texts = ("", " ", "--a=1 --b=2", "--a=1_--b=2", "--a=1-2", 90 * "x", 91 * "x", "a/b", "..")
    names = [experiments.named_after(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) < 100 and "/" not in name and name.strip(".") for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": 0}, "resize is 0: use 1 or more"),
        ({"features": "netwrok.h5"}, "netwrok.h5"),
        ({"output": f"{__file__}/out"}, "cannot be written"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(monkeypatch, changes, message):
    monkeypatch.setattr(experiments, "call", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises((ValueError, OSError), match=message):
        experiments.main(experiments.Options("identity", **changes))


def test_an_unknown_variant_is_refused():
    message = r"no variant cycle: choose from cycle alone, GAN alone, GAN \+ forward cycle, "
    with pytest.raises(ValueError, match=message):
        experiments.main(experiments.Options("losses", variants=("cycle",)))


# === docs/experiments: the pages agree with the measured results ===


def published():
    return sorted((ROOT / "docs" / "experiments").glob("*/results.json"))


@pytest.mark.parametrize("path", published(), ids=lambda path: path.parent.name)
def test_a_published_page_follows_from_its_numbers(path):
    text = (path.parent / "README.md").read_text()
    title, question = text.splitlines()[0].removeprefix("# "), text.splitlines()[2]
    command = text.split("```sh\n")[1].split("\n```")[0]
    drawn = (path.parent / "figure.png").exists()
    assert page(title, question, command, json.loads(path.read_text()), drawn) == text
