"""Lists as other tools write them are read as they are meant; what cannot be read is refused in words that help."""

import dataclasses

import pytest

from hvt_jax.data import catalog
from hvt_jax.data.dataset import DataError

_PATHS = [f"v/c{number % 2}/clip{number}.mp4" for number in range(6)]


@pytest.fixture
def lists(tmp_path, data_settings):
    """Return f(text, paths, **fields): settings for a folder with these files, empty ones, and data.csv."""

    def write(text, paths=_PATHS, name="data.csv", **fields):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        (tmp_path / name).write_text(text)
        return dataclasses.replace(data_settings, name="csv", root=str(tmp_path), label="", **fields)

    return write


def _read(settings):
    """Return {path: class name} of both splits."""
    found = {}
    for split in ("train", "test"):
        dataset = catalog.load_dataset(settings, split)
        found |= {video.path: dataset.label_names["class"][video.labels[0]] for video in dataset.videos}
    return found


def _rows(form, paths=_PATHS):
    return "".join(
        form.format(path=path, label="ab"[n % 2], number=n % 2, row=n) + "\n" for n, path in enumerate(paths)
    )


@pytest.mark.parametrize(
    "header",
    [
        "filename,label",
        "file_name,label",
        "video_name,tag",
        "clip_path,class",
        "Video Path,Class Name",
        "video,category",
        "FILE,ACTION",
        "# path,label",
        "name,target",
        "relative-path,label_id",
    ],
)
def test_headers_of_other_tools(lists, header):
    settings = lists(header + "\n" + _rows("{path},{label}"))
    assert _read(settings) == {path: "ab"[n % 2] for n, path in enumerate(_PATHS)}


@pytest.mark.parametrize(
    ("header", "form"),
    [
        (",path,label", "{row},{path},{label}"),
        ("path,label,start,end,caption", '{path},{label},0,1,"a, b"'),
        ("label;split;file;class", "{label};train;{path};x"),
        ("video_id\tpath\tlabel\ttime_start\ttime_end", "id{row}\t{path}\t{label}\t0\t2.5"),
        ("path|label|more", "{path}|{label}|"),
        ("video label split", "{path} {label} train"),
        ("path,label", "{path},{label},"),
    ],
)
def test_further_columns_are_ignored(lists, header, form):
    assert _read(lists(header + "\n" + _rows(form))) == {path: "ab"[n % 2] for n, path in enumerate(_PATHS)}


def test_a_segment_is_found_by_its_name(lists):
    settings = lists("file,class,begin,stop\n" + _rows("{path},{label},0.5,2"))
    videos = [video for split in ("train", "test") for video in catalog.load_dataset(settings, split).videos]
    assert {(video.start_seconds, video.end_seconds) for video in videos} == {(0.5, 2.0)}


_ODD = {
    "commas": [f"v/clip,{n}.mp4" for n in range(6)],
    "blanks": [f"v/my clip {n}.mp4" for n in range(6)],
    "both": [f"v/a, b {n}.mp4" for n in range(6)],
    "numbers": [f"v/clip {n}" for n in range(6)],
}


@pytest.mark.parametrize("names", _ODD)
@pytest.mark.parametrize("form", ["{path} {number}", "{path}\t{number}", "{path};{number}", '"{path}",{number}'])
def test_the_separator_is_what_fits_all_rows_and_finds_the_files(lists, form, names):
    paths = _ODD[names]
    assert _read(lists(_rows(form, paths), paths)) == {path: str(n % 2) for n, path in enumerate(paths)}


@pytest.mark.parametrize("form", ["{path} 20 {number}", "{path},20,{number}"])
def test_frames_are_listed_with_their_number_between(lists, form):
    """As mmaction2 lists folders of frames."""
    paths = [f"walk/{n}" for n in range(6)]
    assert _read(lists(_rows(form, paths), paths)) == {path: str(n % 2) for n, path in enumerate(paths)}


@pytest.mark.parametrize("form", ["{path} 0 -1", "{path},0,-1"])
def test_lists_without_labels_are_one_class(lists, form):
    """As VideoMAE lists videos for pre-training."""
    assert _read(lists(_rows(form))) == dict.fromkeys(_PATHS, "-1")


@pytest.mark.parametrize(
    ("before", "form"),
    [
        ("sep=;\n", "{path};{label}"),
        ("SEP=;;\n", "{path};{label}"),
        ("sep=\t\n", "{path}\t{label}"),
        ('"sep=,"\npath,label\n', "{path},{label}"),
        ("# made by hand, checked twice\n", "{path},{label}"),
        ("#\n# two classes\n# and six videos\n", "{path} {label}"),
        ("path,label\n# from here on: good ones\n", "{path},{label}"),
        ("# Format: video path, class\npath,label\n# path,label\n# video,class\n", "{path},{label}"),
        ("tag,video\n#old rows are below\n", "{label},{path}"),
        ("id,path,label\n", "#{row},{path},{label}"),
    ],
)
def test_comments_and_what_spreadsheets_write(lists, before, form):
    assert _read(lists(before + _rows(form))) == {path: "ab"[n % 2] for n, path in enumerate(_PATHS)}


def test_a_separator_that_is_named_is_obeyed(lists):
    paths = [f"v/a,{n}.mp4" for n in range(6)]
    settings = lists("sep=;\n" + _rows("{path};{label}", paths), paths=[], storage="frames")
    assert _read(settings) == {path: "ab"[n % 2] for n, path in enumerate(paths)}


def test_tags_and_names_with_a_hash_stay(lists):
    """Even where no file is on the disk that could tell."""
    assert set(_read(lists("tag,video\n" + _rows("#{label},{path}"))).values()) == {"#a", "#b"}
    paths = [f"#{n}.mp4" for n in range(6)]
    assert len(_read(lists(_rows("{path},{number}", paths), paths=[], storage="frames"))) == 6


def test_numbers_below_zero_are_numbers(lists):
    settings = lists("".join(f"{path},{label}\n" for path, label in zip(_PATHS, [10, 2, -1] * 2, strict=True)))
    assert catalog.load_dataset(settings, "train").label_names["class"] == ("-1", "2", "10")


def test_comments_are_counted_once(lists, caplog):
    caplog.set_level("INFO", "hvt_jax")
    settings = lists("# one\n#, two, three\n" + _rows("{path},{label}"))
    _read(settings)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{settings.root}/data.csv: 2 rows that begin with # are comments and left out"]


def test_names_that_begin_like_a_comment(lists):
    paths = [f"#{n} of 6.mp4" for n in range(6)]
    assert _read(lists(_rows("{path},{number}", paths), paths)) == {path: str(n % 2) for n, path in enumerate(paths)}


def test_absolute_paths_in_the_root_and_backslashes(lists, tmp_path):
    wanted = {path: str(n % 2) for n, path in enumerate(_PATHS)}
    assert _read(lists(_rows(str(tmp_path) + "/{path} {number}"))) == wanted
    assert _read(lists(_rows("{path},{number}").replace("/", "\\"))) == wanted
    assert _read(lists(_rows("v/../{path},{number}"))) == wanted  # climbs, but not out
    (tmp_path / "link").symlink_to(tmp_path)
    settings = lists(_rows(str(tmp_path) + "/{path} {number}"))
    assert _read(dataclasses.replace(settings, root=str(tmp_path / "link"))) == wanted
    (tmp_path / "v/back\\slash.mp4").touch()  # a name, on Linux
    assert "v/back\\slash.mp4" in _read(lists(_rows("{path},{number}") + "v/back\\slash.mp4,1\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("elsewhere/x.mp4,a\n", "none of its videos is there"),
        ("/elsewhere/x.mp4,a\n", "is not a relative path; make it relative to data.root"),
        ("C:\\data\\x.mp4,a\n", "is not a relative path; make it relative to data.root"),
        ("../x.mp4,a\n", "this list may be forged"),
        (
            "clip_uri,gt\n" + _rows("{path},{label}"),
            "row 1: clip_uri, gt seems to be a header; name the columns path and",
        ),
        (_rows("{path},{label},x"), "row 1: has the columns v/c0/clip0.mp4, a, x (separated by commas)"),
        (_rows("{path},{label}") + "a.mp4\n", "row 7: has 1 columns, but needs 2, separated by commas"),
        ("# one\n# two\npath,path,label\n" + _rows("{path},{path},{label}"), "row 3: has two columns 'path', the path"),
        ("sep=;\n", "names its separator and has no rows; list some videos"),
        ("path,path,label\n" + _rows("{path},{path},{label}"), "row 1: has two columns 'path', the path; rename one"),
    ],
)
def test_refusals_say_what_to_do_and_accuse_of_climbing_only(lists, text, words):
    with pytest.raises(DataError) as caught:
        _read(lists(text))
    assert words in str(caught.value) and ("forged" in str(caught.value)) == ("../" in text)


def test_names_of_the_lists_themselves(lists, tmp_path):
    lists(_rows("{path},{label}", _PATHS[:4]), name="train.txt")
    settings = lists(_rows("{path}\t{label}", _PATHS[4:]), name="val.tsv")
    assert [len(catalog.load_dataset(settings, split)) for split in ("train", "test")] == [4, 2]
    (tmp_path / "val.tsv").unlink()
    assert len(catalog.load_dataset(settings, "train")) == 4  # enough for a scan; a run asks for both
    with pytest.raises(DataError, match=r"train.txt: has no test.csv \(or val.csv\) beside it"):
        catalog.load_dataset(settings, "test")


def test_links_are_followed_when_the_config_says_so(lists, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/x.mp4").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/c").symlink_to(tmp_path / "disk")
    settings = dataclasses.replace(lists("", name="unused"), root=str(tmp_path / "data"))
    for name in ("train", "test"):
        (tmp_path / "data" / f"{name}.csv").write_text("c/x.mp4,a\n" if name == "train" else "c/./x.mp4,a,1,2\n")
    with pytest.raises(
        DataError, match=r"reached by a link that leads out of .*; .* data.follow_links = True"
    ) as caught:
        catalog.load_dataset(settings, "train")
    assert "forged" not in str(caught.value)
    (tmp_path / "data/test.csv").unlink()
    assert len(catalog.load_dataset(dataclasses.replace(settings, follow_links=True), "train")) == 1


@pytest.mark.parametrize(
    "folders", [("train_256", "val_256"), ("videos/train", "videos/test"), ("a/Training", "a/eval")]
)
def test_folders_that_look_like_splits_and_are_none_are_named(lists, caplog, folders):
    settings = dataclasses.replace(lists("", [f"{folder}/x.mp4" for folder in folders], "unused"), name="folder")
    assert len(_read(settings)) == 2
    assert [record for record in caplog.records if " and ".join(folders) in record.getMessage()]


def test_one_folder_that_looks_like_a_split_is_a_class(lists, caplog):
    settings = dataclasses.replace(lists("", ["train_station/x.mp4", "bus/y.mp4"], "unused"), name="folder")
    assert set(_read(settings).values()) == {"train_station", "bus"}
    assert not [record for record in caplog.records if "taken for classes" in record.getMessage()]
