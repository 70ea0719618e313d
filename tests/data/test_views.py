"""Several views of a video: by index tables, by numbers painted on frames, and through batches."""

import collections
import dataclasses
import pathlib

import numpy as np
import pytest

from hvt_jax.data import batches, decode, pipeline, quarantine, readers, sampling, views
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import Problem
from tests.data import painted_videos

_CLIPS = pathlib.Path(__file__).parents[1] / "clips"
_SMALL = sampling.ViewShape(length=4, stride=2, height=64, width=64)


@pytest.fixture
def painted(tmp_path):
    """Three videos of 60, 90 and 5 numbered frames."""
    for name, count in (("a", 60), ("b", 90), ("short", 5)):
        frames = [painted_videos.paint_number(number) for number in range(count)]
        painted_videos.write_video(tmp_path / f"{name}.mp4", frames, "mp4", "libx264", {"g": "10"})
    videos = tuple(Video(f"{name}.mp4", (label,)) for label, name in enumerate(("a", "b", "short")))
    return Dataset(tmp_path, videos, {"class": tuple("abc")})


def _letters(video, start, length, stride, short):
    frames, own = sampling.pick_frames(start, length, stride, len(video), short)
    return "".join(np.array(list(video))[frames]), "".join("01"[int(frame)] for frame in own)


@pytest.mark.parametrize(
    ("video", "start", "short", "spelled", "own"),
    [
        ("abcdefgh", 1, "drop", "bdfh", "1111"),
        ("abcdefgh", 1, "pad", "bdfh", "1111"),
        ("abcde", 0, "loop", "aceb", "1111"),
        ("abcde", 0, "pad", "acee", "1110"),
        ("a", 0, "pad", "aaaa", "1000"),
        ("a", 0, "loop", "aaaa", "1111"),
        ("ab", 1, "pad", "bbbb", "1000"),
    ],
)
def test_short_videos_by_policy(video, start, short, spelled, own):
    assert _letters(video, start, 4, 2, short) == (spelled, own)


def test_windows_of_padded_videos_are_counted_as_those_of_looped_ones():
    for short, windows in (("drop", 0), ("loop", 1), ("pad", 1)):
        assert sampling.count_windows(5, 7, 1, short) == windows
        assert sampling.count_windows(0, 7, 1, short) == 0
    frames, own = sampling.pick_frames(np.array([[0, 2], [5, 6]]), 3, 1, 7, "pad")
    assert frames.shape == own.shape == (2, 2, 3) and frames[1, 1].tolist() == [6, 6, 6]


@pytest.mark.parametrize(
    ("least", "most", "allowed"),
    [
        (0, 0, {(a, b) for a in range(4) for b in range(4)}),
        (2, 0, {(0, 2), (0, 3), (1, 3), (2, 0), (3, 0), (3, 1)}),
        (0, 1, {(a, b) for a in range(4) for b in range(4) if abs(a - b) < 2}),
        (2, 2, {(0, 2), (1, 3), (2, 0), (3, 1)}),
        (9, 0, {(0, 3), (3, 0)}),
        (9, 11, {(0, 3), (3, 0)}),
    ],
)
def test_every_allowed_pair_is_equally_likely(least, most, allowed):
    rng = np.random.default_rng(0)
    draws = 400 * len(allowed)
    seen = collections.Counter(tuple(views.pair_starts(8, 5, least, most, rng).tolist()) for _ in range(draws))
    assert set(seen) == allowed
    assert max(abs(count - 400) for count in seen.values()) < 5 * 20  # five standard deviations


def test_impossible_pairs_and_windows_are_refused():
    rng = np.random.default_rng(0)
    for least, most in ((-1, 0), (3, 2), (0, -1)):
        with pytest.raises(ValueError, match=f"{least} to {most} frames apart"):
            views.pair_starts(9, 3, least, most, rng)
    assert views.pair_starts(2, 3, 0, 0, rng).tolist() == [0, 0]
    with pytest.raises(ValueError, match="window of 9 frames does not fit into one of 8"):
        views.nested_starts(20, 8, 9, rng)
    with pytest.raises(ValueError, match="narrow view of 9 frames does not fit a broad one of 7"):
        views.NarrowBroad(sampling.ViewShape(5, 2, 8, 8), sampling.ViewShape(4, 2, 8, 8))
    with pytest.raises(ValueError, match="zoom of 0.5 to 2"):
        sampling.ViewShape(4, 2, 8, 8, zoom=(0.5, 2.0))
    with pytest.raises(ValueError, match="crops of 9x4 pixels do not fit into 8x8"):
        sampling.crop_offsets((8, 8), (9, 4), np.zeros((1, 2)))


def test_narrow_windows_reach_every_place_inside_broad_ones_and_none_outside():
    rng = np.random.default_rng(0)
    pairs = {views.nested_starts(10, 6, 3, rng) for _ in range(2000)}
    assert pairs == {(broad, broad + inside) for broad in range(5) for inside in range(4)}
    assert {views.nested_starts(4, 6, 3, rng) for _ in range(100)} == {(0, 0), (0, 1)}
    assert views.nested_starts(2, 6, 3, rng) == (0, 0)


@pytest.mark.parametrize(
    ("temporal", "spatial", "starts", "places"),
    [
        (1, 1, [3], [0.5]),
        (1, 3, [3, 3, 3], [0, 0.5, 1]),
        (3, 1, [0, 3, 6], [0.5] * 3),
        (2, 2, [0, 0, 6, 6], [0, 1, 0, 1]),
    ],
)
def test_grid_of_views(temporal, spatial, starts, places):
    start, place = views.grid_of_views(10, 4, temporal, spatial)
    assert start.tolist() == starts and place.tolist() == places


@pytest.mark.parametrize(
    ("resized", "offsets"), [((8, 20), [[0, 0], [0, 6], [0, 12]]), ((21, 8), [[0, 0], [6, 0], [13, 0]])]
)
def test_crops_lie_along_the_longer_side(resized, offsets):
    places = np.repeat([[0.0], [0.5], [1.0]], 2, axis=1)
    assert sampling.crop_offsets(resized, (8, 8), places).tolist() == offsets


def _read_views(reader, group):
    shape = group.shape
    pixels = np.full((len(group.start), shape.length, shape.height, shape.width, 3), 7, np.uint8)
    return pixels, *batches.read_views(reader, group, "drop", pixels)


def test_test_views_are_cut_left_centre_and_right(tmp_path, data_settings):
    frame = np.zeros((64, 192, 3), np.uint8)
    for third, value in enumerate((60, 140, 220)):
        frame[:, 64 * third : 64 * third + 64] = value
    painted_videos.write_video(tmp_path / "wide.mp4", [frame] * 12, "mp4", "libx264")
    painted_videos.write_video(tmp_path / "tall.mp4", [frame.transpose(1, 0, 2)] * 12, "mp4", "libx264")
    plan = views.TestViews(sampling.ViewShape(3, 2, 32, 32), temporal=2, spatial=3)
    for name, crops in (("wide", [[0, 0], [0, 32], [0, 64]]), ("tall", [[0, 0], [32, 0], [64, 0]])):
        with decode.VideoReader(tmp_path / f"{name}.mp4", 30.0) as reader:
            (group,) = plan.cut(12, np.random.default_rng(0)).values()
            pixels, found, own = _read_views(reader, group)
        assert group.start.tolist() == [0, 0, 0, 7, 7, 7] and found.tolist() == crops * 2 and own.all()
        means = pixels.reshape(6, -1).mean(1).reshape(2, 3)
        np.testing.assert_allclose(means, [[60, 140, 220]] * 2, atol=4)


def test_frames_are_read_once_for_all_crops_of_a_window():
    class Counting(readers.Reader):
        info = readers.VideoInfo(20, 25.0, 40, 80, 0.8)
        reads = 0

        def read(self, indices, height, width):
            Counting.reads += 1
            return np.zeros((len(indices), height, width, 3), np.uint8)

    plan = views.TestViews(sampling.ViewShape(3, 2, 20, 20), temporal=4, spatial=3)
    (group,) = plan.cut(20, np.random.default_rng(0)).values()
    assert not _read_views(Counting(30.0), group)[0].any() and Counting.reads == 4


@pytest.mark.parametrize(("name", "size"), [("decord_rot0", (320, 568)), ("decord_rot90", (568, 320))])
def test_turned_videos_are_cut_along_their_longer_side(name, size):
    with decode.VideoReader(_CLIPS / f"{name}.mov", 30.0) as reader:
        assert reader.upright_size() == size
        plan = views.TestViews(sampling.ViewShape(2, 1, 64, 64), temporal=1, spatial=3)
        (group,) = plan.cut(reader.info.num_frames, np.random.default_rng(0)).values()
        pixels, crops, _ = _read_views(reader, group)
        resized = (64, 114) if size[1] > size[0] else (114, 64)
        whole = reader.read(sampling.pick_frames(group.start[0], 2, 1, reader.info.num_frames, "drop")[0], *resized)
    assert crops.tolist() == [[round(p * (resized[0] - 64)), round(p * (resized[1] - 64))] for p in (0, 0.5, 1)]
    for view, (top, left) in zip(pixels, crops, strict=True):
        np.testing.assert_array_equal(view, whole[:, top : top + 64, left : left + 64])


def test_a_central_test_view_is_the_clip_that_evaluation_sees(painted, data_settings):
    plan = views.test_views(data_settings)
    (one,) = pipeline.evaluation_batches(painted, data_settings, plan, batch_size=4)
    (other,) = pipeline.evaluation_batches(painted, data_settings, batch_size=4)
    np.testing.assert_array_equal(one["video"][:, 0], other["video"])
    np.testing.assert_array_equal(one["start"][:, 0], other["start"])
    for name in ("label", "index", "valid", "problem"):
        np.testing.assert_array_equal(one[name], other[name])


def test_test_views_of_every_video_once_and_padding(painted, data_settings):
    settings = dataclasses.replace(data_settings, height=64, width=64, test_views_temporal=3, short_videos="pad")
    first, last = pipeline.evaluation_batches(painted, settings, views.test_views(settings), batch_size=2)
    assert first["video"].shape == (2, 3, 4, 64, 64, 3) and first["frame_valid"].all()
    assert first["start"].tolist() == [[0, 26, 53], [0, 42, 83]]
    for starts, clips in zip(first["start"], first["video"], strict=True):
        for start, clip in zip(starts, clips, strict=True):
            assert painted_videos.read_numbers(clip) == [start, start + 2, start + 4, start + 6]
    assert last["index"].tolist() == [2, -1] and last["valid"].tolist() == [True, False]
    assert last["frame_valid"][0].tolist() == [[True, True, True, False]] * 3 and not last["frame_valid"][1].any()
    assert [painted_videos.read_numbers(clip) for clip in last["video"][0]] == [[0, 2, 4, 4]] * 3


def _take(count, dataset, settings, plan, **options):
    options = {"batch_size": 3, "seed": 5, "start_step": 0, **options}
    steps = pipeline.train_batches(dataset, settings, plan, **options)
    return [next(steps) for _ in range(count)]


def _numbers(clip, scale=1):
    return painted_videos.read_numbers(clip.repeat(scale, 1).repeat(scale, 2))


def test_pairs(painted, data_settings):
    taken = _take(6, painted, data_settings, views.Pair(_SMALL, min_distance=10))
    seen = set()
    for batch in taken:
        assert sorted(batch["index"]) == [0, 1, 2] and batch["valid"].all()
        for index, (first, second), (one, two) in zip(batch["index"], batch["start"], batch["video"], strict=True):
            assert (abs(first - second) >= 10) == (index != 2)
            looped = [frame % 5 for frame in (0, 2, 4, 6)]
            assert _numbers(one) == (looped if index == 2 else [first + 2 * frame for frame in range(4)])
            assert _numbers(two) == (looped if index == 2 else [second + 2 * frame for frame in range(4)])
            seen.add((int(index), int(first), int(second)))
    assert len(seen) > 10  # anew in every epoch
    again = _take(2, painted, data_settings, views.Pair(_SMALL, min_distance=10), start_step=4)
    for name in ("video", "start", "index"):
        np.testing.assert_array_equal(again[1][name], taken[5][name])
    assert (
        _take(1, painted, data_settings, views.Pair(_SMALL), seed=6)[0]["start"].tolist() != taken[0]["start"].tolist()
    )


def test_narrow_and_broad_views(painted, data_settings):
    narrow, broad = sampling.ViewShape(4, 1, 64, 64), sampling.ViewShape(8, 4, 32, 32)
    for batch in _take(4, painted, data_settings, views.NarrowBroad(narrow, broad)):
        assert batch["video"]["narrow"].shape == (3, 1, 4, 64, 64, 3)
        assert batch["video"]["broad"].shape == (3, 1, 8, 32, 32, 3)
        for row, index in enumerate(batch["index"]):
            outer, inner = (
                _numbers(batch["video"][name][row, 0], 64 // shape.height)
                for name, shape in (("broad", broad), ("narrow", narrow))
            )
            start = int(batch["start"]["broad"][row, 0])
            count = (60, 90, 5)[index]
            assert outer == [(start + 4 * frame) % count for frame in range(8)]
            assert index == 2 or (outer[0] <= inner[0] and inner[-1] <= outer[-1])
            assert inner == list(range(inner[0], inner[0] + 4))


def test_global_and_local_views(painted, data_settings):
    plan = views.MultiCrop(
        sampling.ViewShape(6, 3, 64, 64, zoom=(1.0, 1.0)), 2, sampling.ViewShape(3, 1, 24, 24, zoom=(1.5, 2.0)), 4
    )
    (batch,) = _take(1, painted, dataclasses.replace(data_settings, num_workers=1), plan)
    shapes = {name: clips.shape for name, clips in batch["video"].items()}
    assert shapes == {"global": (3, 2, 6, 64, 64, 3), "local": (3, 4, 3, 24, 24, 3)}
    long = batch["index"] < 2
    for clips, starts in zip(batch["video"]["global"][long], batch["start"]["global"][long], strict=True):
        assert [_numbers(clip) for clip in clips] == [[start + 3 * frame for frame in range(6)] for start in starts]
    crops = batch["crop"]["local"].reshape(-1, 2)
    assert crops.min() >= 0 and crops.max() <= 24 and len(set(map(tuple, crops))) > 8
    local, (top, left) = batch["video"]["local"][0, 0], batch["crop"]["local"][0, 0]
    sides = range(36, 49)
    with decode.VideoReader(painted.root / painted.videos[batch["index"][0]].path, 30.0) as reader:
        frames = sampling.pick_frames(batch["start"]["local"][0, 0], 3, 1, reader.info.num_frames, "loop")[0]
        wholes = [reader.read(frames, side, side)[:, top : top + 24, left : left + 24] for side in sides]
    assert any(np.array_equal(local, whole) for whole in wholes)


def test_dropped_and_damaged_videos(painted, data_settings, tmp_path):
    (tmp_path / "half.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:3000])
    dataset = dataclasses.replace(painted, videos=(*painted.videos, Video("half.mp4", (0,)), Video("none.mp4", (0,))))
    dropping = dataclasses.replace(data_settings, short_videos="drop")
    plan = views.Pair(_SMALL, min_distance=70)
    assert {index for batch in _take(3, dataset, dropping, plan) for index in batch["index"]} == {1}
    with pytest.raises(DataError, match="none of 5 videos has the 207 frames"):
        _take(1, dataset, dropping, views.Pair(_SMALL, min_distance=200))
    (batch,) = pipeline.evaluation_batches(dataset, dropping, views.Pair(_SMALL), batch_size=5)
    assert batch["valid"].tolist() == [True, True, False, False, False] and batch["label"].tolist() == [0, 1, 2, 0, 0]
    assert batch["problem"][2] == Problem.TOO_SHORT and batch["problem"][4] == Problem.MISSING
    assert not batch["video"][2:].any() and len(quarantine.find_bad(dataset, batch, 0)) == 3


@pytest.mark.parametrize("hosts", [1, 3])
def test_hosts_and_processes_change_nothing(painted, data_settings, hosts):
    plan = views.Pair(_SMALL)
    alone = _take(3, painted, data_settings, plan)
    settings = dataclasses.replace(data_settings, num_workers=2 if hosts == 1 else 0)
    parts = [_take(3, painted, settings, plan, host=host, hosts=hosts) for host in range(hosts)]
    for step, batch in enumerate(alone):
        for name, whole in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), whole)
