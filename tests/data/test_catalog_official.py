"""HMDB51, Kinetics, Something-Something, ImageNet and own lists: their files as published, and as nobody wants them."""

import dataclasses
import json
import logging
import os

import numpy as np
import pytest

from hvt_jax.data import catalog, decode
from hvt_jax.data.dataset import DataError
from hvt_jax.data.problems import Problem
from tests.data import painted_videos, read_videos


@pytest.fixture
def make(tmp_path, data_settings):
    """Return f(name, files) that writes files, empty where the content is None, and gives settings to read them."""

    def write(name, files, **fields):
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            content = content or ""
            (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        return dataclasses.replace(data_settings, name=name, root=str(tmp_path), **fields)

    return write


def _load(settings, split="train"):
    """Return {path: class name} of one split."""
    dataset = catalog.load_dataset(settings, split)
    names = dataset.label_names[dataset.primary_label]
    assert all((dataset.root / video.path).is_file() for video in dataset.videos)
    return {video.path: names[video.labels[0]] for video in dataset.videos}


def _refusal(settings, split="train"):
    with pytest.raises(DataError) as caught:
        catalog.load_dataset(settings, split)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)
    return str(caught.value)


_HMDB = {
    "hmdb51_org/wave/a_wave_0.avi": None,
    "hmdb51_org/wave/!b#(x)_wave_1.avi": None,
    "hmdb51_org/brush_hair/c_brush.avi": None,
    "testTrainMulti_7030_splits/wave_test_split1.txt": "a_wave_0.avi 1 \n!b#(x)_wave_1.avi 2 \nunused.avi 0 \n",
    "testTrainMulti_7030_splits/brush_hair_test_split1.txt": "c_brush.avi 1 \n",
    "testTrainMulti_7030_splits/wave_test_split2.txt": "a_wave_0.avi 2 \r\n",
}


def test_hmdb51(make):
    settings = make("hmdb51", _HMDB)
    train = catalog.load_dataset(settings, "train")
    assert train.label_names == {"action": ("brush_hair", "wave")}
    assert _load(settings) == {
        "hmdb51_org/brush_hair/c_brush.avi": "brush_hair",
        "hmdb51_org/wave/a_wave_0.avi": "wave",
    }
    assert _load(settings, "test") == {"hmdb51_org/wave/!b#(x)_wave_1.avi": "wave"}
    assert _load(dataclasses.replace(settings, split=2), "test") == {"hmdb51_org/wave/a_wave_0.avi": "wave"}
    assert "data.split = 3" in _refusal(dataclasses.replace(settings, split=3))
    message = _refusal(dataclasses.replace(settings, root="nowhere"))
    assert "serre-lab" in message and "nowhere/hmdb51_org" in message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("../../etc/passwd 1", "leads out of"),
        ("a\0.avi 1", "NUL byte"),
        ("a_wave_0.avi 3", "is not '<file> <0, 1 or 2>'"),
        ("a_wave_0.avi", "is not '<file> <0, 1 or 2>'"),
        ("a_wave_0.avi 1", "was listed in row 1 before"),
        (b"\xff.avi 1", "is not UTF-8"),
    ],
)
def test_hmdb51_rows_nobody_wants(make, row, words):
    row = row if isinstance(row, bytes) else row.encode()
    name = "testTrainMulti_7030_splits/wave_test_split1.txt"
    message = _refusal(make("hmdb51", {**_HMDB, name: b"a_wave_0.avi 1 \n" + row + b"\n"}))
    assert f"{name}, row 2" in message and words in message


_HEADER = "label,youtube_id,time_start,time_end,split\n"
_KINETICS = {
    "annotations/train.csv": _HEADER
    + 'abseiling,-0b0xQ_1aaa,5,15,train\n"dancing, ""wild""",bbbbbbbbbbb,100.0,110.0,train\n'
    + "zumba,ccccccccccc,0,10,train\n",
    "annotations/validate.csv": "\ufeff" + _HEADER.replace("\n", "\r\n") + "zumba,ddddddddddd,20,30,validate\r\n",
    "train/-0b0xQ_1aaa_000005_000015.mp4": None,
    "train/dancing wild/bbbbbbbbbbb_000100_000110.mkv": None,
    "val/ddddddddddd_000020_000030.mp4": None,
}


def test_kinetics_counts_what_is_missing_in_one_line(make, caplog):
    settings = make("kinetics400", _KINETICS)
    with caplog.at_level(logging.INFO, "hvt_jax"):
        train = _load(settings)
    assert train == {
        "train/-0b0xQ_1aaa_000005_000015.mp4": "abseiling",
        "train/dancing wild/bbbbbbbbbbb_000100_000110.mkv": 'dancing, "wild"',
    }
    (line,) = caplog.messages
    assert "train.csv: 1 of 3 videos are missing (33.33 %)" in line and "\n" not in line
    assert _load(settings, "test") == {"val/ddddddddddd_000020_000030.mp4": "zumba"}
    assert len(catalog.load_dataset(settings, "test").label_names["action"]) == 3
    assert "has no annotations/test.csv or" in _refusal(dataclasses.replace(settings, split=2), "test")
    assert "must be 1" in _refusal(dataclasses.replace(settings, split=3), "test")


def test_kinetics_without_a_single_video(make):
    lists = {name: content for name, content in _KINETICS.items() if name.endswith(".csv")}
    assert "none of its 3 videos is in" in _refusal(make("kinetics400", lists))
    message = _refusal(make("kinetics400", {"train/a.txt": None}))
    assert "not even -0b0xQ_1aaa_000005_000015; there is none" in message
    message = _refusal(make("kinetics400", {"train/of my own.mp4": None, "train/eeeeeeeeeee_1_2.mp4": None}))
    assert "not even -0b0xQ_1aaa_000005_000015; there are 2 others, such as train/eeeeeeeeeee_1_2.mp4" in message


@pytest.mark.parametrize(
    "form", ["{0}_{1}_{2}.mp4", "{0}.webm", "v_{0}.mp4", "some class/{0}_{1:06d}_{2:06d}.mkv", "{0}_{1}.0_{2}.0.mp4"]
)
def test_kinetics_by_other_names(make, form):
    lists = {name: content for name, content in _KINETICS.items() if name.endswith(".csv")}
    clips = [("-0b0xQ_1aaa", 5, 15), ("bbbbbbbbbbb", 100, 110), ("ccccccccccc", 0, 10)]
    settings = make("kinetics400", lists | {f"train/{form.format(*clip)}": None for clip in clips})
    assert sorted(_load(settings).values()) == ["abseiling", 'dancing, "wild"', "zumba"]


@pytest.mark.parametrize(
    "place", ["train/replacement_for_corrupted_k400", "replacement/replacement_for_corrupted_k400"]
)
def test_kinetics_replacements_go_before_what_they_replace(make, place, caplog):
    name = "-0b0xQ_1aaa_000005_000015.mp4"
    settings = make("kinetics400", {**_KINETICS, f"{place}/{name}": "whole"})
    with caplog.at_level(logging.INFO, "hvt_jax"):
        assert f"{place}/{name}" in _load(settings) and f"train/{name}" not in _load(settings)
    assert "1 videos are taken from folders called replacement" in caplog.text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("zumba,../../../etc,1,2,train", "no YouTube id"),
        ("zumba,#NAME?,1,2,train", "spreadsheet"),
        ("zumba,ccccccccccc,0,10,train", "was listed in row 2 before"),
        ("waltz,ccccccccccc,0,10,train", "was listed in row 2 before"),
        (",eeeeeeeeeee,0,10,train", "has no label"),
        ("zumba,eeeeeeeeeee,10,0,train", "no seconds in order"),
        ("zumba,eeeeeeeeeee,nan,1e999,train", "no seconds in order"),
        ("zumba,eeeeeeeeeee,0,10", "has 4 columns"),
        ('zumba,"eeeeeeeeeee,0,10,train', "is no CSV"),
    ],
)
def test_kinetics_rows_nobody_wants(make, row, words):
    text = _HEADER + "zumba,ccccccccccc,0,10,train\n" + row + "\n"
    files = {"annotations/train.csv": text, "train/ccccccccccc_000000_000010.mp4": None}
    message = _refusal(make("kinetics400", files))
    assert "train.csv, row 3" in message and words in message


def test_kinetics_labels_of_validation_must_be_those_of_training(make):
    text = _HEADER + "waltz,ddddddddddd,20,30,validate\n"
    message = _refusal(make("kinetics400", {**_KINETICS, "annotations/validate.csv": text}), "test")
    assert "validate.csv, row 2: class 'waltz' is not in train.csv" in message
    assert "needs one column 'label'" in _refusal(make("kinetics400", {"annotations/train.csv": "id,label2\n1,2\n"}))


_LABELS = json.dumps({"Pushing something": "1", "Lifting something, then dropping it": "0"})
_SSV2 = {
    "labels/labels.json": _LABELS,
    "labels/train.json": json.dumps(
        [
            {"id": "78687", "label": "pushing a cup", "template": "Pushing [something]", "placeholders": ["a cup"]},
            {"id": "42", "label": "x", "template": "Lifting [something], then dropping it", "placeholders": []},
        ]
    ),
    "labels/validation.json": json.dumps([{"id": "7", "template": "Pushing [something]"}]),
    "labels/test-answers.csv": "9;Lifting something, then dropping it\n8;Pushing something\n",
    "20bn-something-something-v2/78687.webm": None,
    "20bn-something-something-v2/7.webm": None,
    "20bn-something-something-v2/9.webm": None,
}


def test_ssv2(make, caplog):
    settings = make("ssv2", _SSV2)
    assert _load(settings) == {"20bn-something-something-v2/78687.webm": "Pushing something"}
    assert "train.json: 1 of 2 videos are missing (50.00 %)" in caplog.text
    train = catalog.load_dataset(settings, "train")
    assert train.label_names == {"action": ("Lifting something, then dropping it", "Pushing something")}
    assert _load(settings, "test") == {"20bn-something-something-v2/7.webm": "Pushing something"}
    answers = _load(dataclasses.replace(settings, split=2), "test")
    assert answers == {"20bn-something-something-v2/9.webm": "Lifting something, then dropping it"}


def test_ssv2_under_its_older_names(make, tmp_path):
    settings = make("ssv2", _SSV2)
    before = _load(settings)
    for name in ("labels", "train", "validation"):
        (tmp_path / "labels" / f"{name}.json").rename(tmp_path / f"something-something-v2-{name}.json")
    assert _load(settings) == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train", [{"id": "../../x", "template": "Pushing [something]"}], "train.json, entry 1: '../../x' is no video"),
        (
            "train",
            [{"id": "7", "template": "Eating [something]"}],
            "entry 1: class 'Eating something' is not in labels",
        ),
        ("train", [{"id": "7", "template": ""}], "entry 1: has no label"),
        ("train", [{"id": "7"}], "entry 1: has no label"),
        ("train", [{"id": ["7"], "template": "Pushing [something]"}], "entry 1: needs an id"),
        ("train", ["7"], "is not what Something-Something has"),
        ("train", [{"id": "7", "template": "Pushing [something]"}] * 2, "entry 2: video 7 was listed in 1 before"),
        ("train", [], "is not what Something-Something has"),
        ("train", b"[" * 100_000, "is no JSON"),
        ("train", b"{", "is no JSON"),
        ("labels", b'{"a": "0", "a": "1"}', "entry 2: 'a' or its number 1 was there before"),
        ("labels", {"a": "0", "b": "2"}, "its 2 numbers are not 0 to 1"),
        ("labels", {"a": "zero"}, "entry 1: 'a' has the number 'zero'"),
    ],
)
def test_ssv2_entries_nobody_wants(make, name, content, words):
    content = content if isinstance(content, bytes) else json.dumps(content)
    assert words in _refusal(make("ssv2", {**_SSV2, f"labels/{name}.json": content}))


def test_imagenet_class_folders_and_flat_validation(make, tmp_path):
    files = {f"{part}/{name}/x_{part}.JPEG": None for part in ("train", "val") for name in ("n02", "n01")}
    settings = make("imagenet", {**files, "train/n01/notes.txt": None})
    assert _load(settings) == {"train/n01/x_train.JPEG": "n01", "train/n02/x_train.JPEG": "n02"}
    assert _load(settings, "test") == {"val/n01/x_val.JPEG": "n01", "val/n02/x_val.JPEG": "n02"}
    os.symlink("/etc/passwd", tmp_path / "train" / "n01" / "way_out.JPEG")
    os.symlink(tmp_path / "train" / "n02" / "x_train.JPEG", tmp_path / "train" / "n01" / "link.JPEG")
    assert list(_load(settings)) == ["train/n01/link.JPEG", "train/n01/x_train.JPEG", "train/n02/x_train.JPEG"]
    make("imagenet", {"val/n03/y.JPEG": None})
    assert "class 'n03' is not in train" in _refusal(settings, "test")
    os.rename(tmp_path / "val", tmp_path / "old")
    make("imagenet", {"val/ILSVRC2012_val_00000001.JPEG": None})
    assert "LOC_val_solution.csv" in _refusal(settings, "test")
    rows = "ImageId,PredictionString\nILSVRC2012_val_00000001,n02 85 1 499 272 n02 1 2 3 4\n"
    make("imagenet", {"LOC_val_solution.csv": rows})
    assert _load(settings, "test") == {"val/ILSVRC2012_val_00000001.JPEG": "n02"}
    assert "image-net.org" in _refusal(dataclasses.replace(settings, root="nowhere"))


def test_own_lists(make):
    files = {"train.csv": "a.mp4,run\nsub/b c.mp4,walk\n", "test.csv": "c.mp4,walk\n"}
    videos = dict.fromkeys(("a.mp4", "sub/b c.mp4", "c.mp4"))
    settings = make("csv", {**files, **videos})
    assert _load(settings) == {"a.mp4": "run", "sub/b c.mp4": "walk"} and _load(settings, "test") == {"c.mp4": "walk"}
    make("csv", {"train.csv": "\ufefflabel;path\r\n10;a.mp4\r\n9;c.mp4\r\n", "test.csv": "sub/b c.mp4;10\r\n"})
    assert _load(settings) == {"a.mp4": "10", "c.mp4": "9"} and _load(settings, "test") == {"sub/b c.mp4": "10"}
    assert catalog.load_dataset(settings, "test").label_names == {"class": ("9", "10")}
    make("csv", {"train.csv": "a.mp4 0\n", "test.csv": "c.mp4 0\n"})
    assert _load(settings) == {"a.mp4": "0"}
    make("csv", {"test.csv": "a.mp4,0\n"})
    assert "test.csv, row 1: 'a.mp4' is in row 1 of train.csv too" in _refusal(settings, "test")
    make("csv", {"test.csv": "./a.mp4,0\n"})
    assert "test.csv, row 1: './a.mp4' is in row 1 of train.csv too" in _refusal(settings)
    make("csv", {"train.csv": "a.mp4,run,1,6\n", "test.csv": "a.mp4,run,0,5\n"})
    assert "a test video must not train" in _refusal(settings)
    make("csv", {"test.csv": "a.mp4,run,6,0\n"})
    assert _load(settings, "test") == {"a.mp4": "run"}


def test_own_list_without_a_split_keeps_segments_of_a_video_together(make):
    rows = [f"{number}.mp4,x,{start},{start + 1.5}" for number in range(40) for start in (0, 2)]
    settings = make("csv", {"data.csv": "\n".join(rows), **{f"{number}.mp4": None for number in range(40)}})
    train, test = (catalog.load_dataset(settings, split) for split in ("train", "test"))
    assert len(train) + len(test) == 80 and 4 <= len(test) <= 36
    assert not {video.path for video in train.videos} & {video.path for video in test.videos}
    assert {(v.start_seconds, v.end_seconds) for v in train.videos} == {(0.0, 1.5), (2.0, 3.5)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("../a.mp4,x,0,1", "leads out of"),
        ("/etc/passwd,x,0,1", "is not a relative path"),
        ("b\0.mp4,x,0,1", "NUL byte"),
        ("way_out.mp4,x,0,1", "leads out of"),
        ("a.mp4,x,0,1", "was listed in row 2 before; remove"),
        (".//a.mp4,x,0,1", "'a.mp4' was listed in row 2 before; remove"),
        ("a.mp4,y,0,1", "was listed in row 2 before with another label"),
        ("b.mp4,,0,1", "has no label"),
        ("b.mp4,x", "has 2 columns, but needs 4"),
        ("b.mp4,x,2,1", "is no segment"),
        ("b.mp4,x,-1,1", "is no segment"),
        ("b.mp4,x,nan,1", "is no segment"),
        ("b.mp4,x,one,1", "is no segment"),
        (b"\xff.mp4,x,0,1", "is not UTF-8"),
        ('"b.mp4,x,0,1', "is no CSV"),
    ],
)
def test_own_rows_nobody_wants(make, tmp_path, row, words):
    os.symlink("/etc/passwd", tmp_path / "way_out.mp4")
    row = row if isinstance(row, bytes) else row.encode()
    files = {"train.csv": b"path,label,start,end\r\na.mp4,x,0,1\r\n" + row, "test.csv": "t.mp4,x\n"}
    message = _refusal(make("csv", {**files, "a.mp4": None, "t.mp4": None}))
    assert "train.csv, row 3: " in message and words in message


def test_lists_that_are_none(make):
    settings = make("csv", {})
    assert "has neither train.csv and test.csv nor data.csv" in _refusal(settings)
    assert "needs path,label" in _refusal(make("csv", {"data.csv": "a.mp4\n"}))
    assert "is empty" in _refusal(make("csv", {"data.csv": "\n\n"}))
    assert "a header and no rows" in _refusal(make("csv", {"data.csv": "path,label\n"}))
    assert "none of its videos is there" in _refusal(make("csv", {"data.csv": "a.mp4,1\nb.mp4,2\n"}))


def test_pictures_are_videos_of_one_frame(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :, 0], pixels[24:, 32:, 1] = 220, 180
    picture = image.fromarray(pixels)
    turned = image.Exif()
    turned[0x112] = 6
    kinds = {
        "rgb.JPEG": picture,
        "grey.jpg": picture.convert("L"),
        "cmyk.jpg": picture.convert("CMYK"),
        "alpha.png": picture.convert("RGBA"),
        "palette.png": picture.convert("P"),
        "number%03d.jpg": picture,
    }
    for name, kind in kinds.items():
        kind.save(tmp_path / name, **({} if name.endswith("png") else {"quality": 95}))
    picture.save(tmp_path / "a_png.JPEG", format="PNG")
    picture.save(tmp_path / "odd_exif.jpg", exif=b"Exif\0\0" + bytes(range(200)), quality=95)
    grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, -1)
    for path in tmp_path.iterdir():
        assert read_videos.probe(path).num_frames == 1, path
        frames = read_videos.decode_frames(path, [0, 0], 48, 64)
        assert frames.shape == (2, 48, 64, 3)
        expected = grey if path.name.startswith("grey") else pixels
        assert np.abs(frames[1].astype(int) - expected).mean() < 8, path
    picture.save(tmp_path / "turned.jpg", exif=turned, quality=95)
    upright = read_videos.decode_frames(tmp_path / "turned.jpg", [0], 64, 48)[0]
    assert np.abs(upright.astype(int) - np.rot90(pixels, -1)).mean() < 8


def test_pictures_without_their_end_are_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    for name, options in (("a.jpg", {}), ("b.jpg", {"progressive": True}), ("c.png", {})):
        image.fromarray(noise).save(tmp_path / name, **options)
        whole = (tmp_path / name).read_bytes()
        for share in (0.9, 0.5, 0.01):
            (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(decode.VideoError):
                read_videos.decode_frames(tmp_path / name, [0], 32, 32)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(decode.VideoError):
        read_videos.probe(tmp_path / "text.jpg")


def test_a_run_of_painted_frames_is_read_by_its_list(make, tmp_path):
    """From a row of a list to the pixels of its segment."""
    from hvt_jax.data import pipeline

    frames = [painted_videos.paint_number(number) for number in range(100)]
    painted_videos.write_video(tmp_path / "a.mp4", frames, "mp4", "libx264", {"g": "10"})
    rows = "a.mp4,x,0,1\na.mp4,x,2.0,3.0\na.mp4,x,3.5,0\na.mp4,x,3.8,9\na.mp4,x,7,9\n"
    settings = make("csv", {"train.csv": rows, "test.csv": "b.mp4,x\n"}, height=64, width=64, window_step=1)
    dataset = catalog.load_dataset(settings, "train")
    assert pipeline.count_frames(dataset, settings) == [25, 25, 12, 5, 0]
    (batch,) = pipeline.evaluation_batches(dataset, settings, batch_size=5)
    assert batch["valid"].tolist() == [True] * 4 + [False]
    numbers = [painted_videos.read_numbers(video) for video in batch["video"][:4]]
    assert numbers == [[9, 11, 13, 15], [59, 61, 63, 65], [90, 92, 94, 96], [95, 97, 99, 96]]
    batches = pipeline.train_batches(dataset, settings, batch_size=5, seed=0, start_step=0)
    for batch in (next(batches) for _ in range(6)):
        for index, video, valid in zip(batch["index"], batch["video"], batch["valid"], strict=True):
            bounds = [(0, 25), (50, 75), (88, 100), (95, 100), (0, 0)][index]
            assert valid == (index != 4) and all(
                bounds[0] <= n < bounds[1] for n in painted_videos.read_numbers(video) if valid
            )


def test_folders_of_frames_with_their_lists(make):
    """Frames that others extracted: `annotations/<split>.csv` names folders, which hold the frames from number 1 on."""
    import simplejpeg

    from hvt_jax.data import pipeline

    jpegs = [simplejpeg.encode_jpeg(painted_videos.paint_number(number), quality=95) for number in range(30)]
    files = {f"walk/{name}/{number:05d}.jpg": jpeg for name in "ab" for number, jpeg in enumerate(jpegs, start=1)}
    lists = {"annotations/train.csv": "walk/a,walk\nwalk/gone,walk\n", "annotations/test.csv": "walk/b,walk\n"}
    settings = make("csv", files | lists, height=64, width=64, storage="frames")
    (batch,) = pipeline.evaluation_batches(catalog.load_dataset(settings, "train"), settings, batch_size=2)
    assert batch["valid"].tolist() == [True, False] and batch["problem"][1] == Problem.MISSING
    assert painted_videos.read_numbers(batch["video"][0]) == [11, 13, 15, 17]
