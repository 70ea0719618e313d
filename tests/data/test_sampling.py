"""Index tables with letters for frames, and the numbers of the original."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvt_jax.data import sampling, views
from tests import golden_files


def _spell(video, start, length, stride):
    return "".join(np.array(list(video))[sampling.pick_frames(start, length, stride, len(video), "loop")[0]])


@pytest.mark.parametrize(
    ("video", "length", "stride", "step", "short", "windows"),
    [
        ("abcdefghij", 3, 2, 2, "drop", ["ace", "ceg", "egi"]),
        ("abcdefghij", 3, 2, 3, "drop", ["ace", "dfh"]),
        ("abcdefghij", 3, 4, 1, "drop", ["aei", "bfj"]),
        ("abcdefghij", 1, 5, 4, "drop", ["a", "e", "i"]),
        ("abcde", 3, 2, 1, "drop", ["ace"]),
        ("abcd", 3, 2, 1, "drop", []),
        ("abcd", 3, 2, 1, "loop", ["aca"]),
        ("abc", 4, 2, 1, "loop", ["acba"]),
        ("a", 3, 2, 1, "loop", ["aaa"]),
    ],
)
def test_windows_spelled_with_letters(video, length, stride, step, short, windows):
    table = sampling.sliding_windows([len(video)], length, stride, step, short)
    assert [_spell(video, start, length, stride) for start in table.start] == windows


def _draw_windows(table, most, rng):
    """At most so many windows of each video, drawn as the original does; what trains here is `nth_window_start`."""
    kept = []
    for windows in np.split(np.arange(len(table)), np.flatnonzero(np.diff(table.video)) + 1):
        if most and len(windows) > most:
            windows = windows[np.sort(rng.choice(len(windows), most, replace=False))]
        kept.append(windows)
    chosen = np.concatenate(kept)
    return sampling.WindowTable(table.video[chosen], table.start[chosen])


@golden_files.each_misc_item("sliding_windows")
def test_windows_equal_the_original(key, golden):
    case = golden
    table = sampling.sliding_windows(case["lengths"], case["length"], case["frequency"], case["step"])
    if case["np_seed"] is not None:
        # The original draws when it is built and again when an epoch begins; its numbers are those of the epoch.
        rng = np.random.RandomState(case["np_seed"])
        _draw_windows(table, case["max_seq_per_video"], rng)
        table = _draw_windows(table, case["max_seq_per_video"], rng)
    kept = sorted(set(table.video.tolist()))
    assert [f"v{video}" for video in kept] == case["result"]["videos_kept"]
    assert [kept.index(video) for video in table.video] == case["result"]["mapping"]
    assert table.start.tolist() == case["result"]["offset"]
    assert sampling.window_span(case["length"], case["frequency"]) == case["result"]["s_window"]


@pytest.mark.parametrize(("frames", "span", "start"), [(10, 4, 3), (11, 4, 3), (4, 4, 0), (3, 4, 0)])
def test_center_window(frames, span, start):
    assert sampling.center_start(frames, span) == start


@pytest.mark.parametrize(
    ("frames", "span", "count", "starts"),
    [(10, 4, 1, [3]), (10, 4, 2, [0, 6]), (10, 4, 3, [0, 3, 6]), (5, 4, 3, [0, 0, 1]), (3, 4, 2, [0, 0])],
)
def test_uniform_windows(frames, span, count, starts):
    assert views.uniform_starts(frames, span, count).tolist() == starts


def test_numbered_draws_use_every_window_before_one_comes_again():
    starts = [sampling.nth_window_start(30, 9, 4, number, np.random.default_rng(7)) for number in range(12)]
    assert sorted(starts[:6]) == [0, 4, 8, 12, 16, 20]
    assert starts[6:] == starts[:6]
    assert starts[:6] != sorted(starts[:6])


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 9), st.integers(1, 30))
def test_windows_lie_inside_and_no_further_one_would(frames, length, stride, step):
    starts = sampling.sliding_windows([frames], length, stride, step).start
    span = sampling.window_span(length, stride)
    assert all(start + span <= frames for start in starts)
    assert len(starts) * step + span > frames


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (4, 0)])
def test_impossible_windows_are_refused_with_their_numbers(length, stride):
    with pytest.raises(ValueError, match=f"{length} frames with stride {stride}"):
        sampling.window_span(length, stride)
