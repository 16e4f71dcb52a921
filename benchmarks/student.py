"""Compare students with their teacher, and with the same small network trained as a CycleGAN.

    python benchmarks/student.py --run_dir=runs/mine --features=squeezenet.h5 --output=students \\
        --student="--filters=12 --epochs=10 --decay_epochs=10" \\
        --control="--data_dir=photos --filters=12 --blocks=6 --kernel=5 --separable \\
        --upsampling=resize --epochs=3 --decay_epochs=3"

For each random seed, trains a student of each direction of the teacher in --run_dir, and a CycleGAN
with the flags in --control: choose its epochs so that it takes about as long as both students.
tf-cyclegan evaluate measures all of them and the teacher on the test images. Run it on an idle
machine. What is finished is not repeated.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import report
from quality import cell, command, evaluation, timed

from tf_cyclegan.files import write_text

QUIET = ("--sample_every=0", "--watch_every=0", "--save_every=0")


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """The run folder of the teacher."""
    output: str
    """Folder for the run folders and students.json."""
    student: str = ""
    """Flags of tf-cyclegan student: network, losses and length."""
    control: str = ""
    """Flags of tf-cyclegan train: data, the students' network and length. Without it, no CycleGAN
    is trained."""
    features: str = "pixels"
    """As in tf-cyclegan evaluate."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds."""


def main(options: Options) -> int:
    """Trains and evaluates what is missing, prints, writes, and returns the exit code."""
    output, record = Path(options.output), Path(options.output) / "flags.txt"
    flags = f"{options.run_dir}\n{options.student}\n{options.control}\n{options.features}\n"
    if record.exists() and record.read_text() != flags:
        raise ValueError(f"{output} has runs with other flags: use another --output.")
    output.mkdir(parents=True, exist_ok=True)
    write_text(record, flags)
    best = Path(options.run_dir) / "best"  # what students learn from, if it exists
    source = best if best.exists() else Path(options.run_dir)
    teacher = scores(source, options.features, output / "teacher")
    results: dict[str, list[dict]] = {"teacher": [teacher], "student": [], "CycleGAN": []}
    for seed in options.seeds:
        folder = output / f"seed_{seed}"
        found: dict[str, object] = {"seconds": 0.0}
        for direction in teacher:
            run = folder / direction
            own = [f"--run_dir={options.run_dir}", f"--direction={direction}", f"--output={run}"]
            own += [*shlex.split(options.student), f"--seed={seed}", *QUIET]
            found["seconds"] += timed(run, command, "student", *own)["seconds"]
            found |= scores(run, options.features)
        results["student"].append(found)
        if options.control:
            run = folder / "control"
            own = [*shlex.split(options.control), f"--seed={seed}", f"--run_dir={run}", *QUIET]
            found = {"seconds": timed(run, command, "train", *own)["seconds"]}
            found |= scores(run, options.features)
            results["CycleGAN"].append(found)
    rows = []
    for name, runs in results.items():
        columns = [[run["seconds"] for run in runs if "seconds" in run]]
        for measure in ("kid", "l1", "ssim"):
            for direction in teacher:
                found = [run[direction] for run in runs]
                columns.append([values[measure] for values in found if measure in values])
        rows.append([name, *(cell(column) if column else "" for column in columns)])
    heads = [f"{measure} {d}" for measure in ("KID", "truth L1", "SSIM") for d in teacher]
    report.print_table(["", "seconds", *heads], rows)
    write_text(output / "students.json", json.dumps(results, indent=2) + "\n")
    print(f"written to {output / 'students.json'}")
    return 0


def scores(run: Path, features: str, folder: Path | None = None) -> dict[str, dict[str, float]]:
    """Returns what is known of KID and the distance to the ground truth, by direction."""
    measured = evaluation(run, features, folder)
    found = {}
    for direction in [name for name in ("a2b", "b2a") if name in measured]:
        truth = measured[direction]["truth"] or {}
        values = {"kid": measured[direction]["distance"]["kid"]}
        values |= {name: truth.get(name) for name in ("l1", "ssim")}
        found[direction] = {name: value for name, value in values.items() if value is not None}
    return found


if __name__ == "__main__":
    report.run(main, Options, __doc__)
