"""Starts a training run from the weights of another one, or of the authors' code: --init_from."""

from pathlib import Path

import keras
import tensorflow as tf

from tf_cyclegan.cyclegan import CycleGAN
from tf_cyclegan.inference.translator import direction_of
from tf_cyclegan.interop import AUTHORS, load_discriminator, load_generator
from tf_cyclegan.training.checkpoint_files import find_damage, read_checkpoint, saved_steps
from tf_cyclegan.training.run_folder import read_config
from tf_cyclegan.training.student_config import StudentConfig

IGNORED = ("name", "trainable", "dtype", "dropout")  # of a network's config: weights do not depend


def initialize(model: CycleGAN, source: str) -> list[str]:
    """Sets the weights of those networks that the source has; the others keep theirs.

    Args:
        model: a built `CycleGAN`.
        source: a run folder (both generators, and the discriminators of its last checkpoint); a
            folder with a2b.keras and b2a.keras, or with the authors' latest_net_G_A.pth and so on;
            or one file: a saved `CycleGAN`, or a generator whose name has a2b, b2a, G_A or G_B.

    Returns:
        The names of the networks that were set.

    Raises:
        ValueError: there are no networks, or one has another architecture than the model's.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: start from a run folder, or from a .keras or .pth file."
        )
    found = _in_folder(path) if path.is_dir() else _in_file(path)
    for name, network in found.items():
        _copy(network, getattr(model, name), name, path)
    names = list(found)
    if path.is_dir() and not {"d_a", "d_b"} & found.keys() and not _is_student(path):
        names += read_discriminators(path, d_a=model.d_a, d_b=model.d_b)
    for name, average in model.averages.items():
        average.set_weights(getattr(model, name).get_weights())
    return names


def _is_student(path: Path) -> bool:
    """Returns whether a folder is a student's run, whose discriminator is of one domain only."""
    return (path / "config.json").exists() and isinstance(read_config(path), StudentConfig)


def _in_folder(path: Path) -> dict[str, keras.Model]:
    found = {}
    for name, theirs in AUTHORS.items():
        ours = path / f"{name}.keras"
        file = ours if ours.exists() else path / f"latest_net_{theirs}.pth"
        if file.exists():
            found[name] = (load_generator if theirs[0] == "G" else load_discriminator)(file)
    if not {"a2b", "b2a"} & found.keys():
        raise ValueError(
            f"{path} contains no generators: name a run folder with a checkpoint, or a "
            "folder with a2b.keras or latest_net_G_A.pth."
        )
    return found


def _in_file(path: Path) -> dict[str, keras.Model]:
    network = load_generator(path)
    if isinstance(network, CycleGAN):
        return network.networks() | network.generators()
    direction = direction_of(path)
    if direction is None:
        raise ValueError(
            f"the name of {path} does not tell its direction: rename it to a2b{path.suffix} or "
            f"b2a{path.suffix}, or put it into a folder under that name."
        )
    return {direction: network}


def _copy(source: keras.Model, target: keras.Model, name: str, path: Path) -> None:
    there, here = (
        {k: v for k, v in network.get_config().items() if k not in IGNORED}
        for network in (source, target)
    )
    if type(source) is not type(target):
        there, here = {"class": type(source).__name__}, {"class": type(target).__name__}
    differing = {
        k: (there.get(k), here.get(k)) for k in there | here if there.get(k) != here.get(k)
    }
    if not differing:
        shapes = [[tuple(w.shape) for w in n.get_weights()] for n in (source, target)]
        if shapes[0] == shapes[1]:
            target.set_weights(source.get_weights())
            return
        differing = {"input channels": (source.input_channels, target.input_channels)}
    text = ", ".join(f"{k} is {there}, here {here}" for k, (there, here) in differing.items())
    raise ValueError(
        f"{name} of {path} is another network than this run's ({text}): use the same settings, "
        "such as --filters and --blocks."
    )


def read_discriminators(run_dir: Path, **discriminators: keras.Model) -> list[str]:
    """Sets the weights of discriminators from the newest checkpoint of a run folder.

    Args:
        run_dir: the run folder.
        discriminators: built networks by name, `d_a` and `d_b` or one of them.

    Returns:
        The names of the networks that were set: none if there is no checkpoint.

    Raises:
        ValueError: the checkpoint is damaged, or it is of other networks.
    """
    folder = run_dir / "checkpoints" / "worker_0"
    step = max(saved_steps(folder), default=None)
    if step is None:
        return []
    if damage := find_damage(folder, step):
        raise ValueError(
            f"{folder}/ckpt-{step} cannot be read ({damage}): if that run is in progress, try "
            "again; otherwise restore it from a backup."
        )
    try:
        read_checkpoint(tf.train.Checkpoint(**discriminators), folder, step)
    except ValueError as error:
        raise ValueError(
            f"the discriminators of {run_dir} are other networks than this run's ({error}): use "
            "the same --d_filters, --d_layers and --d_norm, or name a folder that holds only the "
            "generators."
        ) from None
    return list(discriminators)
