"""Turn the results of run.py into a run folder, for translate, evaluate and the exporters.

    python -m benchmarks.xla.bring_back --program=program --results=trained --run_dir=runs/mine

The run folder gets config.json, a2b.keras, b2a.keras, losses.csv and the contact sheet. It has no
checkpoint, so training cannot continue in it.
"""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

from tf_cyclegan.cli import command


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags."""

    program: str
    """Folder that write_program wrote."""
    results: str
    """Folder that `run.py train` wrote."""
    run_dir: str
    """New run folder."""


def main(options: Options) -> int:
    """Writes the run folder, and returns the exit code."""
    import numpy as np  # imported here to keep --help fast

    from benchmarks.xla.write_program import variable_names
    from tf_cyclegan.files import write_text
    from tf_cyclegan.training.config import Config
    from tf_cyclegan.training.factory import make_generator
    from tf_cyclegan.training.run_folder import save_generator

    program, results, run_dir = map(Path, (options.program, options.results, options.run_dir))
    if run_dir.exists() and any(run_dir.iterdir()):
        raise ValueError(f"{run_dir} is not empty: use another --run_dir.")
    config = Config(**json.loads((program / "program.json").read_text())["config"])
    result = json.loads((results / "result.json").read_text())
    generators = {}
    for name in ("a2b", "b2a"):
        arrays = {}
        for file in result["files"]:
            if file.startswith(f"{name}_"):
                with np.load(results / file) as piece:
                    arrays |= piece
        generator = make_generator(config, 3, 3)
        variables = variable_names(generator)
        if {k: v.shape for k, v in arrays.items()} != {k: v.shape for k, v in variables.items()}:
            raise ValueError(f"{results} does not hold the weights of {program}'s {name}.")
        for key, variable in variables.items():
            variable.assign(arrays[key].astype(np.float32))
        generators[name] = generator

    (run_dir / "samples").mkdir(parents=True)
    for name, generator in generators.items():
        save_generator(generator, run_dir / f"{name}.keras")
    with np.load(results / "losses.npz") as file, open(run_dir / "losses.csv", "w") as table:
        rows = csv.writer(table)
        rows.writerow(result["losses"])
        rows.writerows(
            [int(row[0]), *(f"{value:.6g}" for value in row[1:])] for row in file["losses"]
        )
    shutil.copy(results / "sheet.png", run_dir / "samples" / f"step_{result['steps']:07d}.png")
    shutil.copy(results / "result.json", run_dir)
    write_text(run_dir / "config.json", config.to_json())
    print(f"{run_dir}: {result['steps']} steps of batch {result['batch']}, on {result['device']}")
    return 0


if __name__ == "__main__":
    command.run(main, command.parse(Options, __doc__))
