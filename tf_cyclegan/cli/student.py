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
    weights. Name images to train on, such as --data_a=photos."""
    student: StudentSettings = StudentSettings()
    data: settings.DataSettings = settings.DataSettings()
    machine: settings.MachineSettings = settings.MachineSettings()
    saving: settings.SavingSettings = settings.SavingSettings()


def main(config: StudentConfig) -> int:
    """Trains the student, and returns the exit code: 0, or 128 + the signal that stopped it."""
    from tf_cyclegan.cpu.allocator import keep_freed_memory  # imported here to keep --help fast
    from tf_cyclegan.training.student import train_student

    keep_freed_memory()
    return train_student(config)


def parse(arguments: list[str]) -> StudentConfig:
    """Reads the flags; the defaults for the data are those of the teacher's run folder."""
    options = command.parse(Options, __doc__, arguments=arguments)
    if options.run_dir and (Path(options.run_dir) / "config.json").exists():
        from tf_cyclegan.training.run_folder import read_config  # late, since it loads TensorFlow

        theirs = vars(read_config(options.run_dir))
        data = replace(options.data, **{name: theirs[name] for name in vars(options.data)})
        options = replace(options, data=data)
        options = command.parse(Options, __doc__, options, arguments)
    return to_config(options)


def to_config(options: Options) -> StudentConfig:
    """Returns the settings of all groups.

    Raises:
        ValueError: there is no teacher, or more than one.
    """
    if (options.run_dir is None) == (options.teacher is None):
        raise ValueError("use either --run_dir or --teacher.")
    groups = (options.student, options.data, options.machine, options.saving)
    values = {name: value for group in groups for name, value in vars(group).items()}
    if (options.data.data_a is None) != (options.data.data_b is None):
        # One folder of images is enough to copy a teacher.
        folder = options.data.data_a or options.data.data_b
        values |= {"data_a": folder, "data_b": folder, "both_domains": False}
    teacher = options.run_dir or options.teacher or ""
    return StudentConfig(**values, run_dir=options.output, teacher=teacher)


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(lambda arguments: main(parse(arguments)), sys.argv[1:])
