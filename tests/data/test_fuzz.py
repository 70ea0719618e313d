"""Videos damaged on purpose: nothing crashes or hangs, every one is delivered whole or reported.

A small part of `python -m tests.fuzz_videos`.
"""

import dataclasses

import av
import numpy as np
import pytest

from hvt_jax.data.problems import Problem, VideoError
from tests.data import fuzz, painted_videos, read_videos


# Three of every kind, and for `make test-long` what `python -m tests.fuzz_videos` runs.
@pytest.mark.parametrize("count", [36, pytest.param(300, marks=pytest.mark.long)])
def test_every_case_is_delivered_or_reported(tmp_path, data_settings, count):
    settings = dataclasses.replace(data_settings, max_bad_fraction=1.0)
    outcomes = fuzz.run(tmp_path, count, 1, settings)
    cases, good, bad, converted, failed, delivered, reported, crashed, hung = fuzz.row_of(outcomes)
    assert (cases, good + bad, delivered + reported, crashed, hung) == (count, count, count, 0, 0)
    assert converted + failed == count
    assert delivered > 6 and reported > 6
    for outcome in outcomes:
        if not outcome.entry.problem:  # what a scan has found good is whole in training
            assert outcome.is_whole and outcome.failure == "", outcome
        if outcome.mutation in ("wrong suffix", "renamed") and "corrupted" not in outcome.path:
            assert outcome.is_whole, outcome
        if outcome.mutation == "empty":
            assert outcome.problem is Problem.EMPTY and outcome.entry.problem.startswith("empty: ")


def test_equal_seeds_give_equal_damage(tmp_path):
    one, other = (fuzz.make_cases(tmp_path / name, 24, 3) for name in "ab")
    assert one == other
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in one)


@pytest.mark.parametrize(
    ("container", "codec", "no_scene_cuts"), [("avi", "mpeg4", "1000000000"), ("mp4", "libx264", "0")]
)
def test_frames_that_the_decoder_painted_over_are_not_delivered(tmp_path, container, codec, no_scene_cuts):
    walk = np.random.default_rng(0).integers(-9, 10, (24, 64, 64, 3)).cumsum(0) + 128
    options = {"g": "8", "bf": "0", "b": "2M", "sc_threshold": no_scene_cuts}
    path = painted_videos.write_video(tmp_path / "video", walk.clip(0, 255).astype(np.uint8), container, codec, options)
    whole = read_videos.decode_frames(path, np.arange(24), 64, 64)
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        start, size = packets[10].pos, packets[10].size
    content = bytearray(path.read_bytes())
    for place in range(start + size // 3, start + size // 2):
        content[place] ^= 0x5A
    path.write_bytes(content)
    delivered = []
    for number in range(24):
        try:
            frame = read_videos.decode_frames(path, [number], 64, 64)[0]
        except VideoError as error:
            assert error.problem in (Problem.DAMAGED, Problem.UNREADABLE)
        else:
            delivered.append(number)
            np.testing.assert_array_equal(frame, whole[number])
    assert delivered == [*range(10), *range(16, 24)]  # up to the next keyframe nothing is whole
