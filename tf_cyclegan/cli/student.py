"""Train a small generator, a student, to return the images of a trained one, its teacher.

    tf-cyclegan student --run_dir=runs/mine --direction=a2b --output=runs/mine_a2b_student
    tf-cyclegan student --teacher=latest_net_G_A.pth --data_a=photos --output=runs/theirs_student
    tf-cyclegan export tflite --run_dir=runs/mine_a2b_student --size=256 --output=phone

A student of the paper's generator needs about 100 times fewer multiply-adds, for phones and
browsers. --output becomes a run folder, which all commands take. The defaults for the data are the
settings of the teacher's run. Run the same command again to continue from the last checkpoint.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tf_cyclegan.cli import command
from tf_cyclegan.training import config as settings
from tf_cyclegan.training.student_config import StudentConfig, StudentSettings


@dataclass(frozen=True)
class Options:
    """The flags."""

    output: str
    """Folder for the student: a run folder."""
    run_dir: str | None = None
    """The teacher's run folder. Its best generator is used if it has one, and the features of its
    discriminator."""
    teacher: str | None = None
    """Instead of --run_dir, a teacher's generator file, .keras or .pth, or a folder of imported
    weights. Name images to train on: --data_a=photos is enough for --direction=a2b."""
    student: StudentSettings = StudentSettings()
    data: settings.DataSettings = settings.DataSettings()
    """The images. Without a flag, the setting of the teacher's run is used; the defaults shown are
    for a teacher that is a file, for which you also have to name images."""
    machine: settings.MachineSettings = settings.MachineSettings()
    saving: settings.SavingSettings = settings.SavingSettings()


SOURCES = ("dataset", "data_dir", "data_a", "data_b")  # flags that name images


def main(config: StudentConfig) -> int:
    """Trains the student, and returns the exit code: 0, or 128 + the signal that stopped it."""
    from tf_cyclegan.cpu.allocator import keep_freed_memory  # imported here to keep --help fast
    from tf_cyclegan.training.student_loop import train_student

    keep_freed_memory()
    return train_student(config)


def parse(arguments: list[str]) -> StudentConfig:
    """Reads the flags; the defaults for the data are those of the run so far, or the teacher's.

    Raises:
        ValueError: there is no teacher, or more than one, or no images to train on.
    """
    options = command.parse(Options, __doc__, arguments=arguments)
    teacher = options.run_dir or options.teacher
    if teacher is None or (options.run_dir and options.teacher):
        raise ValueError("use either --run_dir or --teacher.")
    folders = (options.output, teacher)
    found = [folder for folder in folders if (Path(folder) / "config.json").exists()]
    if not found and not Path(teacher).exists():
        raise ValueError(f"{teacher} does not exist: name a run folder, or a .keras or .pth file.")
    named = any(getattr(options.data, name) for name in SOURCES)
    if found:
        from tf_cyclegan.training.run_folder import read_config  # late, since it loads TensorFlow

        theirs = vars(read_config(found[0]))
        names = [name for name in vars(options.data) if not (named and name in SOURCES)]
        data = replace(options.data, **{name: theirs[name] for name in names})
        options = command.parse(Options, __doc__, replace(options, data=data), arguments)
    elif not named:
        raise ValueError("name images to train on, for example with --data_a=photos.")
    return to_config(options, teacher)


def to_config(options: Options, teacher: str) -> StudentConfig:
    """Returns the settings of all groups."""
    groups = (options.student, options.data, options.machine, options.saving)
    values = {name: value for group in groups for name, value in vars(group).items()}
    source, target = ("a", "b") if options.student.direction == "a2b" else ("b", "a")
    folder = values[f"data_{source}"]
    if folder and not values[f"data_{target}"]:
        # One folder is enough to copy a teacher.
        values |= {f"data_{target}": folder, "both_domains": False}
    return StudentConfig(**values, run_dir=options.output, teacher=teacher)


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(lambda arguments: main(parse(arguments)), sys.argv[1:], at_once=True)
