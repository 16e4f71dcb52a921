import numpy as np
import pytest

from tf_cyclegan.data.folders import folder_pictures, list_pictures, load_folders
from tf_cyclegan.data.pictures import DatasetError, PictureError, write_picture


def fill(folder, names, shape=(4, 6, 3)):
    """Writes one gray picture per name, its level being 10 times its place."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        write_picture(folder / name, np.full(shape, 10 * place, np.uint8))
    return folder


def assert_one_line(error):
    assert "\n" not in str(error.value)


def test_pictures_are_listed_by_name_and_nothing_else(tmp_path):
    names = ["a 1.JPG", "b.png", "été.jpg", "зима.jpeg", "夏.Webp"]
    fill(tmp_path, [*reversed(names), ".hidden.png"])
    fill(tmp_path / "folder.png", ["inside.png"])
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in list_pictures(tmp_path)] == sorted(names)
    assert [path.name for path in list_pictures(str(tmp_path))] == sorted(names)


def test_folders_without_pictures_are_errors(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    cases = {"missing": "does not exist", "file": "not a folder", "empty": r"no pictures \(\.jpg "}
    for name, cause in cases.items():
        with pytest.raises(DatasetError, match=f"{name} .*{cause}") as error:
            list_pictures(tmp_path / name)
        assert_one_line(error)


def test_folder_pictures_reads_on_access(tmp_path):
    pictures = folder_pictures(fill(tmp_path, ["a.png", "b.png"]))
    assert len(pictures) == 2
    assert pictures.names == ("a.png", "b.png")
    np.testing.assert_array_equal(pictures.read(1), np.full((4, 6, 3), 10))
    write_picture(tmp_path / "b.png", np.full((2, 2, 3), 99, np.uint8))
    np.testing.assert_array_equal(pictures.read(1), np.full((2, 2, 3), 99))


def test_a_bad_file_is_named_when_read(tmp_path):
    fill(tmp_path, ["a.png"])
    (tmp_path / "text.jpg").write_text("no picture")
    pictures = folder_pictures(tmp_path)
    assert pictures.read(0).shape == (4, 6, 3)
    with pytest.raises(PictureError, match=r"text\.jpg"):
        pictures.read(1)


@pytest.mark.parametrize("tests", [[], ["testA", "testB"], ["testB"]])
def test_data_dir(tmp_path, tests):
    for count, split in enumerate(["trainA", "trainB", *tests], start=1):
        fill(tmp_path / split, [f"{split}{i}.png" for i in range(count)])
    fill(tmp_path / "other", ["a.png"])
    splits = load_folders(data_dir=tmp_path)
    assert list(splits) == ["trainA", "trainB", *tests]
    assert [len(pictures) for pictures in splits.values()] == list(range(1, len(tests) + 3))
    for split, pictures in splits.items():
        assert pictures.names[0] == f"{split}0.png"
        assert pictures.read(0).shape == (4, 6, 3)


def test_two_folders(tmp_path):
    a, b = fill(tmp_path / "summer", ["a.png"]), fill(tmp_path / "winter", ["b.png", "c.png"])
    splits = load_folders(data_a=a, data_b=b)
    assert {split: pictures.names for split, pictures in splits.items()} == {
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


def test_missing_or_empty_splits(tmp_path):
    with pytest.raises(DatasetError, match="nowhere is no folder"):
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
        with pytest.raises(DatasetError, match=f"{split} holds no pictures"):
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


def test_pictures_without_a_counterpart(tmp_path):
    fill(tmp_path / "trainA", ["1.png", "2.png", "3.png"])
    fill(tmp_path / "trainB", ["1.png", "4.png"])
    message = r"3 pictures of trainA and trainB have no counterpart \(2, 3, 4\): .*--paired"
    with pytest.raises(DatasetError, match=message) as error:
        load_folders(tmp_path, paired=True)
    assert_one_line(error)
    fill(tmp_path / "trainB", ["1.jpg"])
    with pytest.raises(DatasetError, match="trainB holds two pictures of one name") as error:
        load_folders(tmp_path, paired=True)
    assert_one_line(error)
