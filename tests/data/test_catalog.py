"""Official annotation files as they are found in the wild, hostile ones included: one clear line each."""

import dataclasses
import errno
import logging
import os

import numpy as np
import pytest

from hvt_jax.data import catalog
from hvt_jax.data.catalog import folder, ucf101
from hvt_jax.data.dataset import DataError, SafeFolder

_CLASSES = ("ApplyEyeMakeup", "Archery")


@pytest.fixture
def ucf(tmp_path, data_settings):
    """A folder like UCF101's with empty files for videos, and settings to read it."""
    for name in _CLASSES:
        (tmp_path / "videos" / name).mkdir(parents=True)
        for group in (1, 8):
            (tmp_path / "videos" / name / f"v_{name}_g{group:02d}_c01.avi").touch()
    _write(tmp_path, "classInd.txt", "1 ApplyEyeMakeup\n2 Archery\n")
    _write(
        tmp_path,
        "trainlist01.txt",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nArchery/v_Archery_g08_c01.avi 2\n",
    )
    _write(tmp_path, "testlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nArchery/v_Archery_g01_c01.avi\n")
    return dataclasses.replace(data_settings, name="ucf101", root=str(tmp_path))


def _write(root, name, text):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def _refusal(settings, split="train"):
    with pytest.raises(DataError) as caught:
        catalog.load_dataset(settings, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_official_lists(ucf, split):
    dataset = catalog.load_dataset(ucf, split)
    group = {"train": "g08", "test": "g01"}[split]
    assert [video.path for video in dataset.videos] == [f"videos/{c}/v_{c}_{group}_c01.avi" for c in _CLASSES]
    assert dataset.labels["action"].tolist() == [0, 1] and dataset.labels["action"].dtype == np.int32
    assert dataset.label_names == {"action": _CLASSES} and dataset.primary_label == "action"
    assert all((dataset.root / video.path).is_file() for video in dataset.videos)


def test_the_names_of_the_archive_and_windows_files_are_read_too(ucf, tmp_path):
    before = catalog.load_dataset(ucf, "train")
    rows = (tmp_path / "annotations" / "trainlist01.txt").read_bytes()
    _write(tmp_path, "trainlist01.txt", b"\xef\xbb\xbf" + rows.replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    (tmp_path / "videos").rename(tmp_path / "UCF-101")
    (tmp_path / "annotations").rename(tmp_path / "ucfTrainTestlist")
    after = catalog.load_dataset(ucf, "train")
    assert [video.path for video in after.videos] == [v.path.replace("videos", "UCF-101") for v in before.videos]
    assert after.labels["action"].tolist() == before.labels["action"].tolist()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("../../etc/passwd 1", "leads out of"),
        ("Archery/../../../etc/passwd 2", "leads out of"),
        ("Archery/../ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "listed in row 1 before"),
        ("/etc/passwd 1", "is not a relative path"),
        ("\\\\server\\share.avi 1", "is not a relative path"),
        ("C:\\videos\\a.avi 1", "is not a relative path"),
        ("Archery/\0.avi 2", "NUL byte"),
        ("Archery/way_out.avi 2", "leads out of"),
        ("Juggling/v_Juggling_g01_c01.avi 2", "class 'Juggling'"),
        ("Archery/v_Archery_g08_c01.avi 2", "listed in row 2 before"),
        ("Archery/./v_Archery_g08_c01.avi 2", "listed in row 2 before"),
        ("Archery/v_Archery_g09_c01.avi 1", "has class 1, but its folder is class 2"),
    ],
)
def test_hostile_and_wrong_rows_are_named(ucf, tmp_path, row, words):
    os.symlink("/etc/passwd", tmp_path / "videos" / "Archery" / "way_out.avi")
    rows = (tmp_path / "annotations" / "trainlist01.txt").read_text()
    _write(tmp_path, "trainlist01.txt", rows + "\n" + row + "\n")
    message = _refusal(ucf)
    assert "trainlist01.txt, row 4: " in message and words in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_test_video_must_not_train(ucf, tmp_path, split):
    _write(tmp_path, "testlist01.txt", "Archery/v_Archery_g01_c01.avi\nArchery/./v_Archery_g08_c01.avi\n")
    message = _refusal(ucf, split)
    assert "'Archery/v_Archery_g08_c01.avi' is in " in message and "a test video must not train" in message


def test_the_video_folder_itself_may_be_a_link(ucf, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk") / "UCF"
    (tmp_path / "videos").rename(elsewhere)
    os.symlink(elsewhere, tmp_path / "videos")
    assert len(catalog.load_dataset(ucf, "train")) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \r\n", "is empty"),
        (b"1 ApplyEyeMakeup\n2 Arch\xffry\n", "row 2: is not UTF-8"),
        ("1 ApplyEyeMakeup\n3 Archery\n", "row 2: '3 Archery' is not '2 <class name>'"),
        ("0 ApplyEyeMakeup\n1 Archery\n", "row 1"),
        ("1 Archery\n2 Archery\n", "row 2: class 'Archery' was named before"),
    ],
)
def test_unusable_class_files(ucf, tmp_path, text, words):
    _write(tmp_path, "classInd.txt", text)
    message = _refusal(ucf)
    assert "classInd.txt" in message and words in message


def test_missing_parts_say_what_to_do(ucf, tmp_path):
    _write(tmp_path, "testlist01.txt", "")
    assert "testlist01.txt: is empty" in _refusal(ucf, "test")
    message = _refusal(dataclasses.replace(ucf, split=3))
    assert "data.split = 3" in message and "there is trainlist01.txt" in message
    (tmp_path / "videos" / "Archery").rename(tmp_path / "Archery")
    (tmp_path / "videos" / "ApplyEyeMakeup").rename(tmp_path / "ApplyEyeMakeup")
    assert "none of its videos is there" in _refusal(ucf)
    message = _refusal(dataclasses.replace(ucf, root=str(tmp_path / "nowhere")))
    for word in ("nowhere", "https://www.crcv.ucf.edu/data/UCF101.php", "unrar", "ucfTrainTestlist"):
        assert word in message
    message = _refusal(dataclasses.replace(ucf, name="digits", root="nowhere"))
    assert "python -m hvt_jax make_digits --root=nowhere" in message
    assert "one of csv, digits, folder" in _refusal(dataclasses.replace(ucf, name="ucf"))


def test_digits_has_two_label_sets_and_either_may_be_first(data_settings, digits_root):
    dataset = catalog.load_dataset(data_settings, "train")
    assert list(dataset.label_names) == ["motion", "digit"] and len(dataset) == 32
    assert dataset.label_names["motion"][0] == "Clockwise" and dataset.label_names["digit"] == tuple("0123456789")
    other = catalog.load_dataset(dataclasses.replace(data_settings, label="digit"), "train")
    assert other.primary_label == "digit"
    for name in ("motion", "digit"):
        np.testing.assert_array_equal(other.labels[name], dataset.labels[name])
    assert [video.labels[0] for video in other.videos] == other.labels["digit"].tolist()
    assert "label sets motion, digit" in _refusal(dataclasses.replace(data_settings, label="action"))
    as_ucf = ucf101.load(data_settings, "train")  # nothing in the reader knows that the videos are synthetic
    np.testing.assert_array_equal(as_ucf.labels["action"], dataset.labels["motion"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist; make it with"),
        ("video,digit\n", "has no row for v_"),
        ("video,digit\nv.avi,12\n", "row 2: needs"),
        ("v,d\na,1\n", "row 1: needs one column 'video'"),
        (b"video,digit\nv\xff.avi,1\n", "row 2: is not UTF-8"),
        ("video,digit\nv.avi," + "1" * 200_000 + "\n", "row 2"),
    ],
)
def test_unusable_factors(ucf, tmp_path, content, words):
    if content is not None:
        (tmp_path / "factors.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = _refusal(dataclasses.replace(ucf, name="digits"))
    assert "factors.csv" in message and words in message


def _touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def _load_folder(settings, root, split):
    dataset = folder.load(dataclasses.replace(settings, root=str(root)), split)
    names = dataset.label_names["class"]
    return {video.path: names[video.labels[0]] for video in dataset.videos}


def test_folder_of_class_folders(tmp_path, data_settings):
    paths = [
        f"{name}/{take}/{i}.{suffix}" for name in "ab" for take in "xy" for i in range(10) for suffix in ("mp4", "MKV")
    ]
    _touch(tmp_path, *paths, "a/notes.txt", ".hidden/1.mp4", "a/._1.mp4")
    train, test = (_load_folder(data_settings, tmp_path, split) for split in ("train", "test"))
    assert sorted([*train, *test]) == sorted(paths) and 8 <= len(test) <= 24
    assert all(name == path[0] for path, name in {**train, **test}.items())
    _touch(tmp_path, *(f"c/{i}.webm" for i in range(30)))
    assert train.keys() <= _load_folder(data_settings, tmp_path, "train").keys()


def test_flat_folder_and_own_split(tmp_path, data_settings):
    _touch(tmp_path / "flat", "a.mp4", "b.avi")
    both = [_load_folder(data_settings, tmp_path / "flat", split) for split in ("train", "test")]
    assert [len(split) for split in both] == [1, 1] and {**both[0], **both[1]} == {"a.mp4": "all", "b.avi": "all"}
    _touch(tmp_path / "own", "train/run/1.mp4", "train/walk/2.mp4", "test/walk/3.mp4")
    assert _load_folder(data_settings, tmp_path / "own", "train") == {
        "train/run/1.mp4": "run",
        "train/walk/2.mp4": "walk",
    }
    assert _load_folder(data_settings, tmp_path / "own", "test") == {"test/walk/3.mp4": "walk"}


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "val"), ("Train", "VALID"), ("TRAIN", "Validation"), ("training", "testing"), ("train", "eval")]
    + [("Training", "dev")],
)
def test_folders_of_splits_by_other_names(tmp_path, data_settings, caplog, train, test):
    _touch(tmp_path, f"{train}/run/1.mp4", f"{train}/walk/2.mp4", f"{test}/walk/3.mp4", "other/run/4.mp4")
    splits = [_load_folder(data_settings, tmp_path, split) for split in ("train", "test")]
    assert splits == [{f"{train}/run/1.mp4": "run", f"{train}/walk/2.mp4": "walk"}, {f"{test}/walk/3.mp4": "walk"}]
    assert caplog.messages == [f"{tmp_path}: 1 video(s) are not in {train} or {test} and left out"]


def test_one_folder_of_a_split_alone_is_refused(tmp_path, data_settings):
    _touch(tmp_path, "train/run/1.mp4", "train/walk/2.mp4")
    assert len(_load_folder(data_settings, tmp_path, "train")) == 2  # enough for a scan; a run asks for both
    with pytest.raises(DataError, match=r"has train but no test \(or val\) with videos; add it, give the folder train"):
        _load_folder(data_settings, tmp_path, "test")
    (tmp_path / "train").rename(tmp_path / "Val")
    with pytest.raises(DataError, match="has Val but no train with videos"):
        _load_folder(data_settings, tmp_path, "train")
    _touch(tmp_path, "val/run/3.mp4", "train/run/1.mp4")
    with pytest.raises(DataError, match="has Val and val; keep one of them"):
        _load_folder(data_settings, tmp_path, "train")
    _touch(tmp_path, "test/run/4.mp4")  # goes before them
    assert list(_load_folder(data_settings, tmp_path, "test")) == ["test/run/4.mp4"]


def test_links_that_are_not_followed_are_counted_in_one_line(tmp_path, data_settings, caplog):
    _touch(tmp_path / "disk", *(f"c/{number}.mp4" for number in range(5)))
    _touch(tmp_path / "root", *(f"a/{number}.mp4" for number in range(10)))
    os.symlink(tmp_path / "disk" / "c", tmp_path / "root" / "c")
    os.symlink(tmp_path / "disk" / "c" / "1.mp4", tmp_path / "root" / "a" / "link.mp4")
    os.symlink(tmp_path / "root" / "a" / "1.mp4", tmp_path / "root" / "a" / "within.mp4")
    both = [_load_folder(data_settings, tmp_path / "root", split) for split in ("train", "test")]
    assert {path for split in both for path in split} == {f"a/{name}.mp4" for name in (*range(10), "within")}
    (line,) = caplog.messages
    assert "2 links to folders or out of it are left out, such as" in line and "root/a/link.mp4;" in line


def test_links_are_followed_when_the_config_says_so(tmp_path, data_settings):
    """Out of the root, and in circles without end."""
    _touch(tmp_path / "disk", *(f"{name}/{number}.mp4" for name in "ab" for number in range(5)))
    (tmp_path / "root").mkdir()
    for name in "ab":
        os.symlink(tmp_path / "disk" / name, tmp_path / "root" / name)
    os.symlink(tmp_path / "root", tmp_path / "disk" / "a" / "again")
    with pytest.raises(
        DataError, match="no video there; .*; 2 links are not followed without data.follow_links = True"
    ):
        _load_folder(data_settings, tmp_path / "root", "train")
    settings = dataclasses.replace(data_settings, follow_links=True)
    both = [_load_folder(settings, tmp_path / "root", split) for split in ("train", "test")]
    assert {path: name for split in both for path, name in split.items()} == {
        f"{name}/{number}.mp4": name for name in "ab" for number in range(5)
    }


def test_what_is_left_out_is_counted_with_its_endings(tmp_path, data_settings, caplog):
    kept = ("a.mp4", "b.M4V", "c.f4v", "d.y4m", "e.ivf", "f.qt", "g.m2v", "h.mpe")
    _touch(tmp_path, *kept, "i.webp", "j.webp", "k.apng", "README", ".hidden.webp", "manifest.jsonl")
    with caplog.at_level(logging.INFO, "hvt_jax"):
        both = [_load_folder(data_settings, tmp_path, split) for split in ("train", "test")]
    assert {path for split in both for path in split} == set(kept)
    (line,) = caplog.messages
    assert line.endswith(": 4 files with other endings are left out: 2 .webp, 1 .apng, 1 without ending")


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, data_settings, monkeypatch):
    _touch(tmp_path, *(f"{name}/{number}.mp4" for name in "ab" for number in range(5)))
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="/b: Permission denied; what is in it would be lost, make it readable"):
        _load_folder(data_settings, tmp_path, "train")


@pytest.mark.parametrize("name", ["csv", "folder", "imagenet"])
def test_a_split_that_does_not_exist_is_refused(data_settings, name):
    assert f"data.split = 2, but {name} has one split only" in _refusal(
        dataclasses.replace(data_settings, name=name, split=2)
    )


def test_folder_without_videos(tmp_path, data_settings):
    with pytest.raises(DataError, match="no such folder"):
        _load_folder(data_settings, tmp_path / "nowhere", "train")
    (tmp_path / "notes.txt").touch()
    os.symlink("/etc/passwd", tmp_path / "way_out.mp4")
    with pytest.raises(DataError, match="no video there; known endings: .*mp4"):
        _load_folder(data_settings, tmp_path, "train")
    _touch(tmp_path, "only.mp4")
    with pytest.raises(DataError, match=r"1 video\(s\) leave none"):
        [_load_folder(data_settings, tmp_path, split) for split in ("train", "test")]


@pytest.mark.parametrize("name", ["", ".", "a/..", "a/../..", "..", "/a", "a\0b"])
def test_safe_folder_refuses(tmp_path, name):
    assert SafeFolder(tmp_path).reason_against(name)


@pytest.mark.parametrize("name", ["a", "a/b.avi", "-a.avi", "a b.avi", "ä.avi", "..a", "10:30 run.avi"])
def test_safe_folder_allows(tmp_path, name):
    assert not SafeFolder(tmp_path).reason_against(name)
