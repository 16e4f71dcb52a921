"""Tables of experiments, and scripts/experiments.py on a budget of a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tf_cyclegan.data.image_files import read_image
from tf_cyclegan.evaluation.experiment_report import cell, late_spread, page

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
    # 160 steps: the last 40 are 20 parts of 2.
    alternating = [9.0 * (i % 2) for i in range(120)] + [float(i % 2) for i in range(40)]
    assert late_spread(alternating) == 0  # all parts are alike
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
    assert "(4 and 5 images; sizes: each small), 30 steps" in text
    assert "python this.py" in text and "Seed 7" in text


def run(folder, *flags):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "experiments.py", *flags],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


def test_an_experiment_is_run_once_and_drawn(tmp_path):
    train = (
        "--train=--max_steps=2 --load_size=24 --crop_size=24 --filters=2 --blocks=1 --d_filters=2 "
        "--cache=none"
    )
    done = run(tmp_path, "identity", "--seeds", "3", train)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tf-cyclegan train --max_steps=2") == 2
    folder = tmp_path / "docs" / "experiments" / "identity"
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["without", "with identity"]
    assert results["without"][0]["protocol"]["step"] == 2
    assert results["without"][0]["a2b"]["truth"]["l1"] > 0
    assert results["without"][0]["a2b"] != results["with identity"][0]["a2b"]
    assert "| with identity | 0." in (folder / "README.md").read_text()
    assert read_image(folder / "figure.png").shape[1] > 4 * 120

    again = run(tmp_path, "identity", "--seeds", "3", train)
    assert again.returncode == 0 and "tf-cyclegan train" not in again.stdout
    # Some variants alone, of which all are there, and no images.
    some = ["losses", "--variants", "CycleGAN", "CycleGAN with identity", "--seeds", "3", train]
    done = run(tmp_path, *some, "--no_figure", "--output=here")
    assert done.returncode == 0 and "tf-cyclegan train" not in done.stdout, done.stderr
    page = (tmp_path / "here/README.md").read_text()
    assert "| CycleGAN | " in page and "| GAN alone" not in page and "figure.png" not in page
    assert "--variants CycleGAN 'CycleGAN with identity' --seeds 3 '--train=--max_steps=2" in page
    assert "--no_figure --output=here\n" in page
    assert not (tmp_path / "here/figure.png").exists()


@pytest.mark.parametrize("flags", [["losses", "--train=--epochs=-1"], ["identity", "--train=--no"]])
def test_a_training_that_fails_is_named(tmp_path, flags):
    done = run(tmp_path, *flags)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: tf-cyclegan train --")
    assert not (tmp_path / "docs").exists()


def test_an_unknown_variant_is_refused(tmp_path):
    done = run(tmp_path, "losses", "--variants", "cycle")
    assert done.returncode == 1
    assert done.stderr == (
        "error: no variant cycle: choose from cycle alone, GAN alone, GAN + forward cycle, "
        "GAN + backward cycle, CycleGAN, CycleGAN with identity.\n"
    )


# === docs/experiments: what the pages say is what was measured ===


def published():
    return sorted((ROOT / "docs" / "experiments").glob("*/results.json"))


@pytest.mark.parametrize("path", published(), ids=lambda path: path.parent.name)
def test_a_published_page_follows_from_its_numbers(path):
    text = (path.parent / "README.md").read_text()
    title, question = text.splitlines()[0].removeprefix("# "), text.splitlines()[2]
    command = text.split("```sh\n")[1].split("\n```")[0]
    drawn = (path.parent / "figure.png").exists()
    assert page(title, question, command, json.loads(path.read_text()), drawn) == text
