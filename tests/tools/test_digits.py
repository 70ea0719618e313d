"""Only the order of frames tells the motions of a pair apart, and equal specs give equal files."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import default
from hvt_jax.data import catalog
from hvt_jax.data.dataset import DataError
from hvt_jax.settings import read_settings
from hvt_jax.tools import digits_files, moving_digits
from tests.data import read_videos

_IMAGE = np.random.default_rng(0).random((8, 8)).astype(np.float32)
_SPEC = digits_files.DigitsSpec(num_videos=16, size=32, codec="mpeg4", seed=3)


def _contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "digits"
    assert digits_files.make_digits(root, _SPEC)
    return root


@pytest.mark.parametrize("pair", moving_digits.PAIRS)
def test_the_motions_of_a_pair_are_exact_reversals(pair):
    for seed in range(5):
        (forward, track), (backward, _) = (moving_digits.render(_IMAGE, motion, 64, seed) for motion in pair)
        np.testing.assert_array_equal(forward, backward[::-1])
        assert len(np.unique(forward.reshape(len(forward), -1), axis=0)) == moving_digits.NUM_FRAMES  # it does move
        assert 0 <= track.start < 1


@pytest.mark.parametrize("codec", digits_files.CODECS)
@pytest.mark.parametrize("pair", moving_digits.PAIRS)
def test_they_still_are_after_encoding(tmp_path, pair, codec):
    decoded = []
    for motion in pair:
        video, _ = moving_digits.render(_IMAGE, motion, 64, seed=1)
        (tmp_path / motion).write_bytes(digits_files.encode_video(video, codec))
        decoded.append(read_videos.decode_frames(tmp_path / motion, np.arange(moving_digits.NUM_FRAMES), 64, 64))
        assert np.abs(decoded[-1] - video.astype(int)).mean() < 6
    np.testing.assert_array_equal(decoded[0], decoded[1][::-1])


@pytest.mark.parametrize("pair", moving_digits.PAIRS)
def test_no_window_of_frames_gives_the_motion_away(pair):
    """Unordered statistics of a window that is not in the middle have the same means under both motions."""
    window, statistics = np.arange(1, 30, 4), {}
    for offset, motion in enumerate(pair):
        tracks = [
            moving_digits.draw_track(motion, np.random.default_rng(10_000 * offset + seed)) for seed in range(1500)
        ]
        ways = np.array([[track.x[window], track.y[window], track.size[window]] for track in tracks])
        statistics[motion] = np.concatenate([ways.mean(2), ways.std(2), ways.min(2), ways.max(2), ways[:, :, 0]], 1)
    first, second = statistics.values()
    spread = np.sqrt((first.var(0) + second.var(0)) / 1500) + 1e-12
    assert (np.abs(first.mean(0) - second.mean(0)) / spread).max() < 4


def test_motions_go_where_their_names_say():
    for seed in range(20):
        tracks = {
            motion: moving_digits.draw_track(motion, np.random.default_rng(seed)) for motion in moving_digits.MOTIONS
        }
        step = {motion: np.diff([track.x, track.y, track.size], axis=1) for motion, track in tracks.items()}
        assert np.median(step["Right"][0]) > 0 > np.median(step["Left"][0])
        assert np.median(step["Down"][1]) > 0 > np.median(step["Up"][1])  # y counts rows, from the top
        assert np.median(step["Grow"][2]) > 0 > np.median(step["Shrink"][2])
        for motion, sign in (("Clockwise", 1), ("CounterClockwise", -1)):
            x, y = tracks[motion].x, tracks[motion].y
            x, y = x - (x.max() + x.min()) / 2, y - (y.max() + y.min()) / 2
            assert np.median(np.sign(x[:-1] * np.diff(y) - y[:-1] * np.diff(x))) == sign


def test_the_digit_is_drawn_where_the_track_says():
    for seed in range(10):
        video, track = moving_digits.render(np.ones((8, 8), np.float32), "Clockwise", 64, seed)
        bright = video.min(-1) > 155
        for frame, x, y in zip(bright, track.x, track.y, strict=True):
            rows, columns = np.nonzero(frame)
            assert abs(rows.mean() + 0.5 - 64 * y) < 1 and abs(columns.mean() + 0.5 - 64 * x) < 1
        assert 0.7 < np.sqrt(bright.sum((1, 2))).mean() / (64 * track.size[0]) < 1.3


@pytest.mark.parametrize("num_videos", [16, 99, 1000])
def test_plan_is_balanced_and_shares_no_handwriting_between_splits(num_videos):
    labels = np.arange(1797) % 10
    clips = moving_digits.plan_clips(num_videos, 0, labels)
    assert len(clips) == len({clip.name for clip in clips}) == num_videos
    num_groups = max(clip.group for clip in clips)
    splits = [
        [clip for clip in clips if moving_digits.is_test_group(clip.group, num_groups) is part]
        for part in (True, False)
    ]
    for part in splits:
        per_motion = [sum(clip.motion == motion for clip in part) for motion in moving_digits.MOTIONS]
        assert min(per_motion) > 0 and max(per_motion) - min(per_motion) <= 1
        for motion in moving_digits.MOTIONS:
            counts = np.bincount([clip.digit for clip in part if clip.motion == motion], minlength=10)
            assert counts.max() - counts.min() <= 1
    assert not {clip.sample for clip in splits[0]} & {clip.sample for clip in splits[1]}
    assert all(labels[clip.sample] == clip.digit for clip in clips)
    if num_videos == 1000:
        assert (len(splits[0]), len(splits[1])) == (280, 720)


def test_files_have_the_layout_of_ucf101(made):
    lists = {
        name: (made / "annotations" / f"{name}01.txt").read_text().splitlines() for name in ("trainlist", "testlist")
    }
    classes = (made / "annotations" / "classInd.txt").read_text().splitlines()
    assert classes == [f"{number} {motion}" for number, motion in enumerate(sorted(moving_digits.MOTIONS), start=1)]
    paths = [row.split(" ")[0] for row in lists["trainlist"]] + lists["testlist"]
    assert sorted(paths) == sorted(path.relative_to(made / "videos").as_posix() for path in made.rglob("*.avi"))
    assert "Up/v_Up_g01_c01.avi" in lists["testlist"] and "Up/v_Up_g02_c01.avi 8" in lists["trainlist"]
    with (made / "factors.csv").open() as file:
        factors = {row["video"]: row for row in csv.DictReader(file)}
    assert list(factors["v_Up_g01_c01.avi"])[:6] == ["video", "digit", "motion", "speed", "start", "seed"]
    in_split = {
        name: {factors[pathlib.Path(row.split(" ")[0]).name]["sample"] for row in rows} for name, rows in lists.items()
    }
    assert not in_split["trainlist"] & in_split["testlist"]
    info = read_videos.probe(made / "videos" / paths[0].rstrip())
    assert (info.num_frames, info.fps, info.height, info.width) == (40, 25, 32, 32)


def test_equal_specs_give_equal_bytes_and_other_seeds_do_not(made, tmp_path):
    assert digits_files.make_digits(tmp_path / "again", _SPEC)
    assert _contents(tmp_path / "again") == _contents(made)
    digits_files.make_digits(tmp_path / "other", dataclasses.replace(_SPEC, seed=4))
    assert _contents(tmp_path / "other")["factors.csv"] != _contents(made)["factors.csv"]


def test_a_finished_folder_is_left_alone_and_an_interrupted_one_is_continued(made, tmp_path):
    root = tmp_path / "digits"
    shutil.copytree(made, root)
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    assert not digits_files.make_digits(root, _SPEC)
    assert all(path.stat().st_mtime == 1 for path in root.rglob("*"))
    manifest = json.loads((root / "digits.json").read_text())
    (root / "digits.json").write_text(json.dumps({**manifest, "complete": False}))
    shutil.rmtree(root / "videos" / "Up")
    (root / "factors.csv").unlink()
    (root / "videos" / "Left" / "v_Left_g01_c01.avi").unlink()
    (root / "videos" / "Left" / "v_Left_g01_c01.avi.tmp").write_bytes(b"half a vid")
    assert digits_files.make_digits(root, _SPEC)
    assert _contents(root) == _contents(made)
    assert (root / "videos" / "Left" / "v_Left_g02_c01.avi").stat().st_mtime == 1


def test_what_is_missing_or_empty_in_a_finished_folder_is_made_again(made, tmp_path):
    root = tmp_path / "digits"
    shutil.copytree(made, root)
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    shutil.rmtree(root / "videos" / "Up")
    (root / "videos" / "Left" / "v_Left_g01_c01.avi").write_bytes(b"")
    (root / "annotations" / "testlist01.txt").unlink()
    said = []
    assert digits_files.make_digits(root, _SPEC, said.append)
    assert _contents(root) == _contents(made) and said[-1] == 16
    assert (root / "videos" / "Left" / "v_Left_g02_c01.avi").stat().st_mtime == 1
    assert not digits_files.make_digits(root, _SPEC)


def test_a_death_while_the_first_file_was_written_refuses_nothing(made, tmp_path):
    (tmp_path / "digits.json.tmp").write_text('{"form')
    assert digits_files.make_digits(tmp_path, _SPEC)
    assert _contents(tmp_path) == _contents(made)


def test_names_are_those_of_the_plan():
    for num_videos in (16, 99, 1000):
        planned = moving_digits.plan_clips(num_videos, 0, np.arange(1797) % 10)
        assert sorted(moving_digits.clip_names(num_videos)) == sorted((clip.motion, clip.name) for clip in planned)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "was made with seed=3, not 4; use another --root"),
        ({"codec": "h264"}, "was made with codec=mpeg4, not h264"),
        ({"num_videos": 15}, "--num_videos=15"),
        ({"size": 33}, "--size=33"),
        ({"size": 16}, "--size=16"),
        ({"codec": "vp9"}, "--codec=vp9"),
        ({"seed": -1}, "--seed=-1"),
    ],
)
def test_other_and_impossible_specs_are_refused(made, change, words):
    before = _contents(made)
    with pytest.raises(DataError, match=words):
        digits_files.make_digits(made, dataclasses.replace(_SPEC, **change))
    assert _contents(made) == before


def test_folders_of_others_are_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("my only copy")
    with pytest.raises(DataError, match="holds something else"):
        digits_files.make_digits(tmp_path, _SPEC)
    for content in ("{", "[1]"):
        (tmp_path / "digits.json").write_text(content)
        with pytest.raises(DataError, match="is damaged"):
            digits_files.make_digits(tmp_path, _SPEC)
    assert (tmp_path / "thesis.txt").read_text() == "my only copy"


def _command(*arguments):
    command = [sys.executable, "-m", "hvt_jax", "make_digits", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_command(tmp_path):
    arguments = (f"--root={tmp_path}/d", "--num_videos=16", "--size=32", "--codec=h264")
    first, second = _command(*arguments), _command(*arguments)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "16 videos written" in first.stdout and "16 videos were there already" in second.stdout
    assert len(list((tmp_path / "d").rglob("*.mp4"))) == 16
    (tmp_path / "file").touch()
    refused = {
        (f"--root={tmp_path}/d", "--num_videos=24"): "num_videos=16, not 24",
        (f"--root={tmp_path}/file/d",): f"{tmp_path}/file/d cannot be written: Not a directory; name another folder",
        ("--sise=3",): "Unknown command line flag 'sise'. Did you mean: size ?",
        ("--root=",): "--root is empty",
        ("stray",): "unknown argument 'stray'; options begin with --",
    }
    for arguments, words in refused.items():
        done = _command(*arguments)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and line.startswith("error: ") and words in line


def test_ctrl_c_ends_it_with_one_line(tmp_path):
    # Where the tests run in the background of a script it would be ignored, also by what they start.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-m", "hvt_jax", "make_digits", f"--root={tmp_path}/d"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", heed, *words], **pipes, text=True, start_new_session=True)
    while not list(tmp_path.rglob("*.avi")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes, those that encode too
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (
        130,
        "error: interrupted; run the same command again to go on where it stopped\n",
    )
    assert 0 < len(list(tmp_path.rglob("*.avi"))) < 1000


def test_the_command_does_not_wait_for_jax():
    program = "import sys, hvt_jax.commands.make_digits; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_split_2_chooses_settings_by_other_handwriting_and_never_by_test_videos(tmp_path):
    digits_files.make_digits(tmp_path / "digits", digits_files.DigitsSpec(200, 32, "mpeg4", 0))
    settings = dataclasses.replace(read_settings(default.get_config()).data, root=str(tmp_path / "digits"))
    splits = {(number, part): _paths(settings, number, part) for number in (1, 2) for part in ("train", "test")}
    assert splits[2, "train"] | splits[2, "test"] == splits[1, "train"]
    assert not splits[2, "train"] & splits[2, "test"] and len(splits[2, "test"]) == 32
    with open(tmp_path / "digits" / "factors.csv", newline="") as rows:
        sample = {row["video"]: row["sample"] for row in csv.DictReader(rows)}
    written = {key: {sample[path.rsplit("/")[-1]] for path in paths} for key, paths in splits.items()}
    assert not written[2, "train"] & written[2, "test"] and not written[2, "test"] & written[1, "test"]


def _paths(settings, split, part):
    return {video.path for video in catalog.load_dataset(dataclasses.replace(settings, split=split), part).videos}
