"""Reports the results of an experiment as a page in Markdown, with tables and a figure."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_cyclegan.data.image_files import ImageSet
from tf_cyclegan.evaluation.contact_sheets import contact_sheet
from tf_cyclegan.evaluation.scores import resized

# Column -> its keys in one direction of evaluation.json, and the digits to show.
COLUMNS = {
    "truth L1": ("truth", "l1", 3),
    "PSNR": ("truth", "psnr", 1),
    "SSIM": ("truth", "ssim", 3),
    "color": ("color", "truth", 1),
    "KID": ("distance", "kid", 3),
    "cycle L1": ("cycle", "l1", 3),
    "identity L1": ("identity", "l1", 3),
    "identity color": ("color", "identity", 1),
    "d spread": ("d_spread", None, 3),
    "collapsed": ("collapse", "collapsed", 0),
}
SHOWN = 3  # inputs of each direction on the figure
NARROWEST = 192  # pixels of a column, wide enough for the variants' names above it


def late_spread(values: list[float]) -> float | None:
    """Measures how much a loss drifts late in a training run.

    This is the standard deviation of its means over 20 equal parts of the last quarter.

    Args:
        values: the loss of each step; without any, the result is None.
    """
    if not values:
        return None
    parts = np.array_split(values[-max(len(values) // 4, 20) :], 20)
    return float(np.std([part.mean() for part in parts if len(part)]))


def figure(
    sets: dict[str, ImageSet],
    translators: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]],
    resize: int | None = None,
) -> np.ndarray:
    """Draws test inputs, each variant's translations, and the ground truth: a2b above b2a.

    Args:
        sets: the images of a run, as `load_run_images` returns them.
        translators: variant -> direction -> the function that translates an image.
        resize: scale inputs first so that their longer side has this many pixels.

    Returns:
        uint8 `[h, w, 3]`.
    """
    if resize:
        sets = {name: resized(images, resize) for name, images in sets.items()}
    sheets = []
    for direction, letter in (("a2b", "A"), ("b2a", "B")):
        real = sets.get(f"test{letter}", sets[f"train{letter}"])
        first = real.read(0).shape
        shown = [i for i in range(len(real)) if real.read(i).shape == first][:SHOWN]
        columns = {"real": [real.read(i) for i in shown]}
        for variant, both in translators.items():
            columns[variant] = list(map(both[direction], columns["real"]))
        if f"truth{letter}" in sets:
            columns["truth"] = [sets[f"truth{letter}"].read(i) for i in shown]
        sheets.append(contact_sheet(columns, scale=-(-NARROWEST // first[1])))
    width = min(sheet.shape[1] for sheet in sheets)  # images of b may be narrower
    return np.concatenate([sheet[:, :width] for sheet in sheets])


def page(
    title: str, question: str, command: str, results: dict[str, list[dict]], drawn: bool = True
) -> str:
    """Describes an experiment in Markdown: a table for each direction, and figure.png.

    Args:
        title, question: the experiment's name, and the question that it answers.
        command: the command that reproduces it.
        results: variant -> the content of evaluation.json for each seed.
        drawn: whether there is a figure.png.
    """
    runs = next(iter(results.values()))
    protocol, seeds = runs[0]["protocol"], [run["protocol"]["seed"] for run in runs]
    counts = runs[0]["a2b"]["images"]
    means = f"Means over {len(seeds)} seeds, ranges in brackets" if len(seeds) > 1 else "One seed"
    lines = [
        f"# {title}\n\n{question}\n\n```sh\n{command}\n```\n",
        f"{means}, on the {protocol['split']} split "
        f"({counts['inputs']} and {counts['targets']} images; {protocol['sizes']}), "
        f"after {protocol['step']} steps. "
        f"KID is computed on {protocol['features']}. `d spread` is how much the loss of the "
        "target domain's discriminator varies in the last quarter of the training run.",
    ]
    for direction in ("a2b", "b2a"):
        table = {
            column: [cell([run[direction] for run in runs], *where) for runs in results.values()]
            for column, where in COLUMNS.items()
        }
        # Empty columns are left out, such as those of an unknown ground truth.
        table = {column: cells for column, cells in table.items() if any(cells)}
        lines.append(f"\n## {direction}\n")
        lines.append(f"| | {' | '.join(table)} |\n{'|---' * (len(table) + 1)}|")
        before = [untranslated(runs[0][direction], *COLUMNS[column]) for column in table]
        lines.append(f"| untranslated | {' | '.join(before)} |")
        for variant, cells in zip(results, zip(*table.values(), strict=True), strict=True):
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    if drawn:
        lines.append("\n![Inputs, each variant's translations, and the truth](figure.png)\n")
        lines.append(f"*Seed {seeds[0]}: a2b above, b2a below.*")
    return "\n".join(lines) + "\n"


def untranslated(scores: dict[str, Any], group: str, name: str | None, digits: int) -> str:
    """Formats the same number for the untranslated inputs; empty if there is none."""
    values = scores[group].get("untranslated", {}) if isinstance(scores[group], dict) else {}
    return f"{values[name]:.{digits}f}" if name in values else ""


def cell(runs: list[dict[str, Any]], group: str, name: str | None, digits: int) -> str:
    """Formats mean and range of a number over the seeds, or counts True; empty for None."""
    groups = [run[group] for run in runs]
    values = [g if name is None or g is None else g[name] for g in groups]
    if None in values:
        return ""
    if isinstance(values[0], bool):
        return f"{sum(values)} of {len(values)}"
    # + 0.0 turns -0.0 into 0.0 for small negative numbers.
    mean, low, high = (
        f"{round(float(value), digits) + 0.0:.{digits}f}"
        for value in (np.mean(values), min(values), max(values))
    )
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"
