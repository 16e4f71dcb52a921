"""Tests the scores of known translations, and the evaluate command through its main()."""

import json
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from cases import write_landscapes

from tf_cyclegan.cli import evaluate as evaluate_command
from tf_cyclegan.data.folders import list_images
from tf_cyclegan.data.image_files import ImageError, ImageSet, read_image, write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.evaluation.scores import evaluate_direction, finite, pixel_features, table
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.run_folder import save_generator

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "evaluate.py"
SIDE = 24


def images(first, count, season):
    names = tuple(str(first + i) for i in range(count))
    return ImageSet(names, lambda i: landscape(first + i, season, SIDE, SIDE, 0))


INPUTS, TRUTH = images(0, 30, "summer"), images(0, 30, "winter")
TARGETS = images(100, 30, "winter")


def lookup(source, result):
    """Returns a translator that looks up the known results."""
    known = {source.read(i).tobytes(): result.read(i) for i in range(len(source))}
    return lambda image: known.get(image.tobytes(), image)


def evaluate(forward, backward, truth=TRUTH):
    return evaluate_direction(forward, backward, INPUTS, TARGETS, truth, pixel_features)


def test_pixel_features_are_small_images():
    gray = np.full((16, 24, 1), 255, np.uint8)
    features = pixel_features([gray, np.zeros((9, 9, 3), np.uint8)])
    assert features.shape == (2, 192) and features.dtype == np.float32
    assert (features[0] == 1).all() and (features[1] == -1).all()


def test_a_perfect_translation():
    scores, columns = evaluate(lookup(INPUTS, TRUTH), lookup(TRUTH, INPUTS))
    assert scores["truth"]["l1"] == scores["cycle"]["l1"] == scores["identity"]["l1"] == 0
    assert scores["truth"]["untranslated"]["l1"] > 0.2
    distance = scores["distance"]
    assert abs(distance["kid"]) < 0.1 * distance["untranslated"]["kid"]
    assert distance["fid"] < 0.5 * distance["untranslated"]["fid"]
    assert not scores["collapse"]["collapsed"]
    assert scores["images"] == {"inputs": 30, "targets": 30, "kid_subset": 15}
    assert list(columns) == ["real", "fake", "cycled", "truth"]
    np.testing.assert_array_equal(columns["fake"][3], TRUTH.read(3))


def test_no_translation_at_all():
    scores, _ = evaluate(lambda image: image, lambda image: image)
    assert scores["distance"]["kid"] == scores["distance"]["untranslated"]["kid"]
    truth = scores["truth"]
    assert truth["l1"] == truth["untranslated"]["l1"] > 0.2


def test_a_generator_of_one_image_is_named():
    scores, _ = evaluate(lambda image: TRUTH.read(0), lambda image: image)
    assert scores["collapse"]["collapsed"]
    assert "collapse" in scores["collapse"]["verdict"]


def test_without_truth():
    scores, columns = evaluate(lambda image: image, lambda image: image, None)
    assert scores["truth"] is None and "truth" not in columns


def test_images_are_read_twice_at_most_and_not_kept(monkeypatch):
    alive, most, reads = [0], [0], []

    class Counted(np.ndarray):
        """An image that counts how many images are in memory."""

        def __array_finalize__(self, obj):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    def counted(images):
        def read(i):
            reads.append((id(images), i))
            return images.read(i).view(Counted)

        return ImageSet(images.names, read)

    sets = [counted(images(first, 60, "summer")) for first in (0, 100, 200)]
    evaluate_direction(lambda p: p, lambda p: p, *sets, pixel_features)
    assert max(Counter(reads).values()) <= 2
    assert most[0] < 60  # including 8 for the contact sheet; a single split has 60


def test_contact_sheets_of_photos_are_small():
    wide = [
        ImageSet(p.names[:8], lambda i, p=p: p.read(i).repeat(40, axis=1))
        for p in (INPUTS, TARGETS, TRUTH)
    ]
    _, columns = evaluate_direction(lambda p: p, lambda p: p, *wide, pixel_features)
    for column in columns.values():
        assert [image.shape for image in column] == [(10, 384, 3)] * 8


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_give_what_they_can(count):
    few = [images(first, count, season) for first, season in ((0, "summer"), (100, "winter"))]
    truth = images(0, count, "winter")
    scores, columns = evaluate_direction(lambda p: p, lambda p: p, *few, truth, pixel_features)
    assert scores["truth"]["l1"] > 0.2 and scores["identity"]["l1"] == 0
    assert len(columns["real"]) == count
    distance, found, why = scores["distance"], scores["collapse"], scores["not_measured"]
    assert found["collapsed"] is None and found["recall"] is None
    assert (distance["kid"] is None) == (distance["fid"] is None) == (count == 1)
    assert (found["inputs"] is None) == (count == 1)
    needed = "use 2 or more images" if count == 1 else "use 6 or more images"
    assert needed in found["verdict"] and needed in why["recall"]
    assert ("kid" in why) == (count == 1)
    assert "not measured" in table({"a2b": scores, "b2a": scores})
    json.dumps(finite(scores), allow_nan=False)


def test_images_too_small_for_one_measure_have_the_others():
    sets = [ImageSet(p.names, lambda i, p=p: p.read(i)[:10]) for p in (INPUTS, TARGETS, TRUTH)]
    scores, _ = evaluate_direction(lambda p: p, lambda p: p, *sets, pixel_features)
    assert scores["truth"]["ssim"] is None and "fewer than 11" in scores["not_measured"]["ssim"]
    assert scores["truth"]["psnr"] > 0 and scores["distance"]["kid"] is not None


def failing(images, where, error=ImageError):
    def read(i):
        if i in where:
            raise error(f"{images.names[i]}: cannot be decoded")
        return images.read(i)

    return ImageSet(images.names, read)


def without(images, where):
    kept = [i for i in range(len(images)) if i not in where]
    return ImageSet(tuple(images.names[i] for i in kept), lambda i: images.read(kept[i]))


def test_broken_images_are_left_out_with_their_counterparts():
    def same(image):
        return image

    broken = failing(INPUTS, {3, 29}), failing(TARGETS, {0}), failing(TRUTH, {7})
    scores, columns = evaluate_direction(same, same, *broken, pixel_features)
    left_out = scores["images"].pop("left_out")
    assert list(left_out) == ["3", "7", "29", "100"] and "decoded" in left_out["7"]
    gone = {3, 7, 29}
    sound = without(INPUTS, gone), without(TARGETS, {0}), without(TRUTH, gone)
    expected, others = evaluate_direction(same, same, *sound, pixel_features)
    assert scores == expected
    np.testing.assert_array_equal(columns["truth"], others["truth"])


def test_a_pair_of_two_sizes_and_no_image_at_all():
    sizes = ImageSet(TRUTH.names, lambda i: TRUTH.read(i)[: SIDE - (i == 4)])
    scores, _ = evaluate_direction(lambda p: p, lambda p: p, INPUTS, TARGETS, sizes, pixel_features)
    assert list(scores["images"]["left_out"]) == ["4"]
    assert "resize both to one size" in scores["images"]["left_out"]["4"]
    for broken in ((failing(INPUTS, range(30)), TARGETS), (INPUTS, failing(TARGETS, range(30)))):
        with pytest.raises(ValueError, match="none of 30 images can be measured .*decoded"):
            evaluate_direction(lambda p: p, lambda p: p, *broken, None, pixel_features)


# === The command ===


@pytest.fixture(scope="module")
def script():
    return evaluate_command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Writes a run folder with untrained generators for the embedded dataset."""
    path = tmp_path_factory.mktemp("run")
    for seed, direction in enumerate(("a2b", "b2a")):
        keras.utils.set_random_seed(seed)
        generator = ResNetGenerator(filters=2, blocks=0)
        generator.build((None, None, None, 3))
        generator.set_weights([10 * weight for weight in generator.get_weights()])
        save_generator(generator, path / f"{direction}.keras")
    (path / "config.json").write_text(Config(load_size=SIDE, crop_size=SIDE, seed=3).to_json())
    return path


def leaves(scores, path=""):
    for name, value in scores.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}/{name}")
        else:
            yield f"{path}/{name}", value


def test_script_fills_every_column_and_gives_the_same_numbers_twice(script, run, capsys):
    assert script.main(script.Options(str(run))) == 0
    printed = capsys.readouterr().out
    folder = run / "evaluation"
    first = (folder / "evaluation.json").read_text()
    result = json.loads(first)
    assert set(result) == {"protocol", "a2b", "b2a"}
    for direction in ("a2b", "b2a"):
        values = dict(leaves(result[direction]))
        assert None not in values.values()
        assert len(values) > 20
        assert read_image(folder / f"{direction}.png").shape[1] > 4 * SIDE
        assert result[direction]["collapse"]["verdict"] in printed
    assert "not known" not in printed and "KID" in printed
    protocol = result["protocol"]
    assert protocol["split"] == "test" and protocol["seed"] == 3 and protocol["step"] is None
    assert script.main(script.Options(str(run))) == 0
    assert (folder / "evaluation.json").read_text() == first


def test_script_on_a_folder_without_tests_or_truth(script, run, tmp_path, capsys):
    for domain, season in (("A", "summer"), ("B", "winter")):
        (tmp_path / f"train{domain}").mkdir()
        for i in range(7):
            image = landscape(i, season, SIDE, SIDE + 4 * (i % 2), 0)
            write_image(tmp_path / f"train{domain}" / f"{i}.png", image)
    assert len(list_images(tmp_path / "trainA")) == 7
    flags = {"data_dir": str(tmp_path), "output": str(tmp_path / "out")}
    with pytest.raises(ValueError, match="resize is 0: use 1 or more"):
        script.main(script.Options(str(run), **flags, resize=0))
    assert script.main(script.Options(str(run), **flags, resize=20)) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["protocol"]["split"] == "train" and result["protocol"]["epoch"] is None
    assert result["protocol"]["sizes"] == "longer side 20 pixels, antialiased bicubic"
    assert result["a2b"]["truth"] is None
    printed = capsys.readouterr().out
    assert "not known" in printed and "no test images: measuring on training images" in printed


def test_script_names_a_broken_image_and_measures_the_others(script, run, tmp_path, capsys):
    for domain, season in (("A", "summer"), ("B", "winter")):
        (tmp_path / f"train{domain}").mkdir()
        for i in range(4):
            write_image(tmp_path / f"train{domain}" / f"{i}.png", landscape(i, season, SIDE, SIDE))
    broken = tmp_path / "trainB" / "3.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    flags = {"data_dir": str(tmp_path), "output": str(tmp_path / "out")}
    assert script.main(script.Options(str(run), **flags)) == 1
    captured = capsys.readouterr()
    assert captured.err.count("left out 3.png: ") == 2
    assert "recall is not measured: " in captured.out
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["a2b"]["images"]["targets"] == result["b2a"]["images"]["inputs"] == 3
    assert list(result["a2b"]["images"]["left_out"]) == ["3.png"]
    assert result["b2a"]["distance"]["kid"] is not None


def test_script_on_pairs_of_photos_and_label_maps(script, run, tmp_path, capsys):
    """Reduces every winter image to two colors, which are the classes of the palette."""
    black_or_white = "000000\nffffff\n"
    (tmp_path / "palette.txt").write_text(black_or_white)
    for split in ("train", "test"):
        for domain, season in (("A", "summer"), ("B", "winter")):
            folder = tmp_path / f"{split}{domain}"
            folder.mkdir()
            for i in range(7):
                image = landscape(i, season, SIDE, SIDE, 0)
                if domain == "B":
                    image = np.where(image > 160, 255, 0).astype(np.uint8)[..., [0, 0, 0]]
                write_image(folder / f"{9 - i}_{domain}.png", image)
    flags = {"data_dir": str(tmp_path), "output": str(tmp_path / "out")}
    with pytest.raises(ValueError, match="--palette needs true label maps: add --paired"):
        script.main(script.Options(str(run), **flags, palette="facades"))
    palette = str(tmp_path / "palette.txt")
    assert script.main(script.Options(str(run), **flags, paired=True, palette=palette)) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["a2b"]["truth"]["untranslated"]["l1"] > 0.2
    assert set(result["a2b"]["labels"]) == {"pixel_accuracy", "class_accuracy", "iou"}
    assert 0 < result["a2b"]["labels"]["pixel_accuracy"] < 1
    assert "labels" not in result["b2a"] and result["b2a"]["truth"]["l1"] > 0
    assert "class IoU" in capsys.readouterr().out


def test_script_on_pairs_side_by_side(script, run, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for i in range(7):
            pair = [landscape(i, season, SIDE, SIDE, 0) for season in ("summer", "winter")]
            write_image(tmp_path / split / f"{i}.png", np.concatenate(pair, axis=1))
    flags = {"data_dir": str(tmp_path), "output": str(tmp_path / "out"), "side_by_side": True}
    assert script.main(script.Options(str(run), **flags)) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["protocol"]["split"] == "test"
    assert result["a2b"]["truth"]["untranslated"]["l1"] > 0.1


def test_script_on_gray_networks_of_no_run(script, run, tmp_path):
    for direction in ("a2b", "b2a"):
        generator = ResNetGenerator(filters=2, blocks=0, channels=1)
        generator.build((None, None, None, 1))
        save_generator(generator, tmp_path / f"{direction}.keras")
    data = write_landscapes(tmp_path / "photos", (3, 3), (16, 16))
    output = tmp_path / "out"
    options = script.Options(str(tmp_path), data_dir=str(data), output=str(output))
    assert script.main(options) == 0
    assert json.loads((output / "evaluation.json").read_text())["a2b"]["cycle"]["l1"] > 0


def test_scores_become_json_where_images_are_equal():
    scores = {"a2b": {"cycle": {"psnr": float("inf"), "l1": 0.0}, "truth": None}, "step": 3}
    result = finite(scores)
    assert result == {"a2b": {"cycle": {"psnr": None, "l1": 0.0}, "truth": None}, "step": 3}
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    "flags, cause",
    [
        ({"run_dir": "missing"}, "missing does not exist: name the folder"),
        ({"run_dir": "{run}/a2b.keras", "dataset": "synthetic/summer2winter"}, "direction is unkn"),
        ({"run_dir": "{bare}"}, "no data of its own: use --data_dir"),
        ({"run_dir": "{run}", "features": "missing.h5"}, "missing.h5"),
    ],
)
def test_the_command_fails_in_one_line_and_writes_nothing(run, tmp_path, flags, cause):
    for direction in ("a2b", "b2a"):
        (tmp_path / f"{direction}.keras").write_bytes((run / f"{direction}.keras").read_bytes())
    flags = {name: value.format(run=run, bare=tmp_path) for name, value in flags.items()}
    options = evaluate_command.Options(**flags, output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=cause) as error:
        evaluate_command.main(options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
