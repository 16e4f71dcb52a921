import os
import sys

import numpy as np
import pytest

from tf_cyclegan.data.folders import folder_images, list_images, load_folders
from tf_cyclegan.data.image_files import DatasetError, ImageError, write_image


def fill(folder, names, shape=(4, 6, 3)):
    """Writes one gray image per name, with a level of 10 times its position in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        write_image(folder / name, np.full(shape, 10 * place, np.uint8))
    return folder


def assert_one_line(error):
    assert "\n" not in str(error.value)


def test_images_are_listed_by_name_and_nothing_else(tmp_path):
    names = ["a 1.JPG", "b.png", "été.jpg", "зима.jpeg", "夏.Webp"]
    fill(tmp_path, [*reversed(names), ".hidden.png"])
    fill(tmp_path / "folder.png", ["inside.png"])
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.name for path in list_images(tmp_path)] == sorted(names)
    assert [path.name for path in list_images(str(tmp_path))] == sorted(names)


def test_folders_without_images_are_errors(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    cases = {"missing": "does not exist", "file": "not a folder", "empty": r"no images \(\.jpg "}
    for name, cause in cases.items():
        with pytest.raises(DatasetError, match=f"{name} .*{cause}") as error:
            list_images(tmp_path / name)
        assert_one_line(error)


def test_folder_images_reads_on_access(tmp_path):
    images = folder_images(fill(tmp_path, ["a.png", "b.png"]))
    assert len(images) == 2
    assert images.names == ("a.png", "b.png")
    np.testing.assert_array_equal(images.read(1), np.full((4, 6, 3), 10))
    write_image(tmp_path / "b.png", np.full((2, 2, 3), 99, np.uint8))
    np.testing.assert_array_equal(images.read(1), np.full((2, 2, 3), 99))


def test_a_bad_file_is_named_when_read(tmp_path):
    fill(tmp_path, ["a.png"])
    (tmp_path / "text.jpg").write_text("no image")
    images = folder_images(tmp_path)
    assert images.read(0).shape == (4, 6, 3)
    with pytest.raises(ImageError, match=r"text\.jpg"):
        images.read(1)


@pytest.mark.parametrize("tests", [[], ["testA", "testB"], ["testB"]])
def test_data_dir(tmp_path, tests):
    for count, split in enumerate(["trainA", "trainB", *tests], start=1):
        fill(tmp_path / split, [f"{split}{i}.png" for i in range(count)])
    fill(tmp_path / "other", ["a.png"])
    splits = load_folders(data_dir=tmp_path)
    assert list(splits) == ["trainA", "trainB", *tests]
    assert [len(images) for images in splits.values()] == list(range(1, len(tests) + 3))
    for split, images in splits.items():
        assert images.names[0] == f"{split}0.png"
        assert images.read(0).shape == (4, 6, 3)


def test_two_folders(tmp_path):
    a, b = fill(tmp_path / "summer", ["a.png"]), fill(tmp_path / "winter", ["b.png", "c.png"])
    splits = load_folders(data_a=a, data_b=b)
    assert {split: images.names for split, images in splits.items()} == {
        "trainA": ("a.png",),
        "trainB": ("b.png", "c.png"),
    }


def test_arguments_that_do_not_fit_together(tmp_path):
    fill(tmp_path / "trainA", ["a.png"])
    fill(tmp_path / "trainB", ["a.png"])
    for folders in ({"data_a": tmp_path}, {"data_b": tmp_path}, {}):
        with pytest.raises(DatasetError, match="give data_a and data_b, or data_dir") as error:
            load_folders(**folders)
        assert_one_line(error)
    for folders in ({"data_a": tmp_path}, {"data_b": tmp_path}):
        with pytest.raises(DatasetError, match="data_dir excludes") as error:
            load_folders(tmp_path, **folders)
        assert_one_line(error)


def test_test_images_alone_are_enough_to_measure(tmp_path):
    for split in ("testA", "testB"):
        fill(tmp_path / split, ["1.png", "2.png"])
    sets = load_folders(tmp_path, paired=True, only_test=True)
    assert set(sets) == {"testA", "testB", "truthA", "truthB"}
    with pytest.raises(DatasetError, match="no folder trainA and no trainB"):
        load_folders(tmp_path)
    with pytest.raises(DatasetError, match="no folder testA and no testB .*: rename them$"):
        load_folders(tmp_path / "testA", only_test=True)
    fill(tmp_path / "pairs" / "val", ["1.png"])
    sets = load_folders(tmp_path / "pairs", side_by_side=True, only_test=True)
    assert set(sets) == {"testA", "testB", "truthA", "truthB"}


def test_run_folders_are_not_searched(tmp_path):
    fill(tmp_path / "day", ["1.png"])
    fill(tmp_path / "run" / "samples", ["step.png"])
    assert len(list_images(tmp_path, recursive=True)) == 2
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run" / "checkpoints").mkdir()
    assert [path.name for path in list_images(tmp_path, recursive=True)] == ["1.png"]


def test_missing_or_empty_splits(tmp_path):
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        load_folders(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no trainA and no trainB|no folder trainA .*none"):
        load_folders(tmp_path)
    fill(tmp_path / "trainB", ["a.png"])
    fill(tmp_path / "summer", ["a.png"])
    with pytest.raises(DatasetError, match="no folder trainA .*summer, trainB") as error:
        load_folders(tmp_path)
    assert_one_line(error)
    for split in ("trainA", "testA"):
        (tmp_path / split).mkdir()
        with pytest.raises(DatasetError, match=f"{split} contains no images"):
            load_folders(tmp_path)
        fill(tmp_path / split, ["a.png"])


def test_pairs_by_name(tmp_path):
    fill(tmp_path / "trainA", ["1_A.jpg", "10_A.jpg", "2_A.jpg"])
    fill(tmp_path / "trainB", ["1_B.png", "10_B.png", "2_B.png"])
    fill(tmp_path / "testA", ["a.png", "b_B.png", "c_a.png"])
    fill(tmp_path / "testB", ["b.png", "c_a.jpg", "a_B.jpg"])
    sets = load_folders(tmp_path, paired=True)
    assert sets["trainB"].names == ("10_B.png", "1_B.png", "2_B.png")
    assert sets["testB"].names == ("a_B.jpg", "b.png", "c_a.jpg")
    assert sets["testB"].read(0)[0, 0, 0] == 20 and sets["testB"].read(1)[0, 0, 0] == 0
    assert sets["truthA"] is sets["testB"] and sets["truthB"] is sets["testA"]
    two = load_folders(data_a=tmp_path / "trainA", data_b=tmp_path / "trainB", paired=True)
    assert list(two) == ["trainA", "trainB"]
    assert "truthA" not in load_folders(tmp_path)


def test_images_without_a_counterpart(tmp_path):
    fill(tmp_path / "trainA", ["1.png", "2.png", "3.png"])
    fill(tmp_path / "trainB", ["1.png", "4.png"])
    message = r"3 images of trainA and trainB have no counterpart \(2, 3, 4\): .*--paired"
    with pytest.raises(DatasetError, match=message) as error:
        load_folders(tmp_path, paired=True)
    assert_one_line(error)
    fill(tmp_path / "trainB", ["1.jpg"])
    with pytest.raises(DatasetError, match="trainB holds two images with the same name") as error:
        load_folders(tmp_path, paired=True)
    assert_one_line(error)


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    fill(tmp_path, ["a.png", ".hidden.png"])
    list_images(fill(tmp_path / "clean", ["a.png"]))
    assert capsys.readouterr().err == ""
    (tmp_path / "notes\n.txt").touch()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "not an image, 4 in all (.hidden.png, broken.jpg, clean/, ..." in message
    assert "--recursive" in message
    list_images(tmp_path, recursive=True)
    message = capsys.readouterr().err
    assert "3 in all" in message and "notes?.txt" in message and "--recursive" not in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(tmp_path, capsys):
    for domain in "AB":
        folder = fill(tmp_path / f"train{domain}", ["a.png"])
        os.rename(folder / "a.png", os.fsencode(folder) + b"/\xe9.png")  # Latin-1
        (folder / os.fsdecode(b"\xe8.txt")).touch()
    sets = load_folders(tmp_path, paired=True)
    assert sets["trainB"].read(0).shape == (4, 6, 3)
    assert "?.txt" in capsys.readouterr().err
    fill(tmp_path / "trainA", ["b.png"])
    os.rename(tmp_path / "trainA" / "b.png", os.fsencode(tmp_path / "trainA") + b"/\xea.png")
    with pytest.raises(DatasetError, match=r"no counterpart \(\?\)") as error:
        load_folders(tmp_path, paired=True)
    str(error.value).encode()


def test_sub_folders(tmp_path):
    fill(tmp_path / "x", ["1.png", "2.png"])
    fill(tmp_path / "x" / "y", ["1.png"])
    fill(tmp_path / "x" / ".cache", ["3.png"])
    fill(tmp_path / "elsewhere", ["4.png"])
    (tmp_path / "x" / "loop").symlink_to(tmp_path / "x")
    (tmp_path / "x" / "link").symlink_to(tmp_path / "elsewhere")
    images = folder_images(tmp_path / "x", recursive=True)
    assert images.names == ("1.png", "2.png", "link/4.png", "y/1.png")
    assert images.read(1)[0, 0, 0] == 10 and images.read(3)[0, 0, 0] == 0
    assert folder_images(tmp_path / "x").names == ("1.png", "2.png")
    found = list_images(tmp_path / "x", recursive=True, without=tmp_path / "x" / "y")
    assert [path.name for path in found] == ["1.png", "2.png", "4.png"]


def test_pairs_in_sub_folders_and_in_both_forms_of_unicode(tmp_path):
    fill(tmp_path / "trainA", ["\u00e91.png"])
    fill(tmp_path / "trainB", ["e\u03011.png"])
    for day in ("mon", "tue"):
        fill(tmp_path / "trainA" / day, ["1_A.png"])
        fill(tmp_path / "trainB" / day, ["1_B.png"])
    sets = load_folders(tmp_path, paired=True, recursive=True)
    assert sets["trainA"].names == ("mon/1_A.png", "tue/1_A.png", "\u00e91.png")
    assert sets["trainB"].names == ("mon/1_B.png", "tue/1_B.png", "e\u03011.png")
    fill(tmp_path / "trainB", ["\u00e91.png"])
    with pytest.raises(DatasetError, match=r"trainB holds two .*e\u03011\.png, \u00e91\.png"):
        load_folders(tmp_path, paired=True)


def side_by_side(folder, names):
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        image = np.full((8, 16, 3), 10 * place, np.uint8)
        image[:, 8:] += 100
        write_image(folder / name, image)


@pytest.mark.parametrize("test", ["test", "val", None])
def test_two_images_in_one(tmp_path, test):
    side_by_side(tmp_path / "train", ["1.png", "2.png"])
    if test:
        side_by_side(tmp_path / test, ["3.png"])
    sets = load_folders(tmp_path, side_by_side=True)
    tests = ["testA", "testB", "truthA", "truthB"] if test else []
    assert list(sets) == ["trainA", "trainB", *tests]
    assert sets["trainA"].names == sets["trainB"].names == ("1.png", "2.png")
    np.testing.assert_array_equal(sets["trainA"].read(1), np.full((8, 8, 3), 10))
    np.testing.assert_array_equal(sets["trainB"].read(1), np.full((8, 8, 3), 110))
    if test:
        assert sets["truthA"] is sets["testB"] and sets["truthB"] is sets["testA"]


def test_what_is_not_two_images_in_one(tmp_path):
    fill(tmp_path / "train", ["odd.png"], (8, 15, 3))
    fill(tmp_path / "train", ["tall.png"], (8, 6, 3))
    sets = load_folders(tmp_path, side_by_side=True)
    for index, message in enumerate((r"odd\.png: 15 x 8 .*width is odd", r"tall\.png.* than wide")):
        with pytest.raises(ImageError, match=message + ".*leave --side_by_side out") as error:
            sets["trainB"].read(index)
        assert_one_line(error)
    for folders in ({"data_a": tmp_path, "data_b": tmp_path}, {"data_dir": tmp_path / "train"}):
        with pytest.raises(DatasetError, match="give data_dir alone|has no folder train ") as error:
            load_folders(**folders, side_by_side=True)
        assert_one_line(error)
