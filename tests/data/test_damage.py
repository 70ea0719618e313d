"""Whatever is wrong with a file ends as a `VideoError` of the right kind, in time."""

import io
import os
import pathlib
import time

import av
import numpy as np
import pytest

from hvt_jax.data import containers, decode, indexing
from hvt_jax.data.problems import Problem, VideoError
from tests.data import painted_videos, read_videos

_CLIPS = pathlib.Path(__file__).parents[1] / "clips"
_KINDS = [("avi", "mpeg4"), ("matroska", "libx264"), ("mp4", "libx264"), ("webm", "libvpx-vp9")]
_FRAMES = [painted_videos.paint_number(i) for i in range(60)]


def _sound():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


_BAD_FILES = {
    "empty.avi": (b"", Problem.EMPTY),
    "one_byte.mkv": (b"\0", Problem.UNREADABLE),
    "text.mp4": (b"not a video\n" * 500, Problem.UNREADABLE),
    "page.webm": (b"<!doctype html><html><body>404</body></html>" * 50, Problem.UNREADABLE),
    "random.avi": (np.random.default_rng(0).bytes(50_000), Problem.UNREADABLE),
    "play_list.mp4": (b"#EXTM3U\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n", Problem.UNREADABLE),
    "concat_list.avi": (b"ffconcat version 1.0\nfile 'other.mp4'\n", Problem.UNREADABLE),
    "header_only.avi": (b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(1000), Problem.UNREADABLE),
    "sound.mp4": (_sound(), Problem.NO_VIDEO_STREAM),
}


@pytest.mark.parametrize("name", _BAD_FILES)
def test_no_video_at_all(tmp_path, name):
    content, problem = _BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    painted_videos.write_video(tmp_path / "other.mp4", _FRAMES, "mp4", "libx264")  # a play list must not reach it
    for read in (read_videos.probe, lambda path: read_videos.decode_frames(path, [0], 32, 32)):
        with pytest.raises(VideoError) as caught:
            read(tmp_path / name)
        assert caught.value.problem is problem


def test_nothing_there_and_nothing_to_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.avi")
    for name in ("missing.avi", "pipe.avi", ".", "nul\0byte.avi"):
        with pytest.raises(VideoError) as caught:
            read_videos.probe(tmp_path / name)
        assert caught.value.problem is Problem.MISSING


def test_damage_in_the_middle_spoils_only_what_follows():
    assert read_videos.decode_frames(_CLIPS / "decord_corrupted.mp4", [0, 25], 32, 32).shape == (2, 32, 32, 3)
    with pytest.raises(VideoError, match="cannot be decoded") as caught:
        read_videos.decode_frames(_CLIPS / "decord_corrupted.mp4", np.arange(50), 32, 32)
    assert caught.value.problem is Problem.UNREADABLE


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_truncated_files_are_named_though_the_decoder_is_content(tmp_path, kind, share):
    frames = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), np.uint8)  # far larger than the header
    path = painted_videos.write_video(tmp_path / "video", frames, *kind, {"g": "12"})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(VideoError) as caught:
        read_videos.decode_frames(path, [0], 32, 32)
    assert caught.value.problem in (Problem.TOO_FEW_FRAMES, Problem.UNREADABLE)
    if kind[0] == "avi" and share > 0.1:
        assert "truncated" in str(caught.value) and "of 60 frames" in str(caught.value)
        assert 0 < caught.value.frames < 60 * share + 2


def test_frames_that_the_decoder_leaves_out_are_missed(tmp_path):
    path = painted_videos.write_video(tmp_path / "video", _FRAMES, "mp4", "libx264", {"g": "60"})
    with decode.VideoReader(path, 10.0) as reader:
        original = reader._decoded
        reader._decoded = lambda *skipped: (item for n, item in enumerate(original(*skipped)) if n not in (30, 31))
        assert painted_videos.read_numbers(reader.read([10, 29, 32], 64, 64)) == [10, 29, 32]
        with pytest.raises(VideoError, match="1 of 3 frames") as caught:
            reader.read([10, 30, 50], 64, 64)
    assert caught.value.problem is Problem.TOO_FEW_FRAMES and caught.value.frames == 1


def test_time_runs_out_in_the_middle_of_decoding(tmp_path):
    big = np.random.default_rng(0).integers(0, 255, (540, 960, 3), np.uint8)
    path = painted_videos.write_video(tmp_path / "v", [big] * 60, "mp4", "libx264", {"g": "60", "preset": "ultrafast"})
    began = time.monotonic()
    with pytest.raises(VideoError) as caught:
        read_videos.decode_frames(path, np.arange(60), 540, 960, timeout_seconds=0.05)
    assert caught.value.problem is Problem.TIMEOUT and time.monotonic() - began < 1.0


def test_too_many_pixels_or_frames_are_refused(tmp_path, monkeypatch):
    path = painted_videos.write_video(tmp_path / "video", _FRAMES, "mp4", "libx264")
    monkeypatch.setattr(indexing, "MAX_FRAMES", 59)
    with pytest.raises(VideoError, match="more than 59 frames") as caught:
        read_videos.probe(path)
    assert caught.value.problem is Problem.TOO_LARGE
    monkeypatch.setattr(containers, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(VideoError, match="64x64 pixels") as caught:
        read_videos.probe(path)
    assert caught.value.problem is Problem.TOO_LARGE


@pytest.mark.parametrize("kind", _KINDS)
def test_flipped_bits_give_whole_clips_or_a_reason(tmp_path, kind):
    content = painted_videos.write_video(tmp_path / "video", _FRAMES, *kind, {"g": "12"}).read_bytes()
    rng, outcomes = np.random.default_rng(0), []
    for case in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content) if case % 2 else 2000, 5):
            damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / "video").write_bytes(damaged)
        try:
            with decode.VideoReader(tmp_path / "video", 5.0) as reader:
                indices = rng.integers(0, reader.info.num_frames, 4)
                outcomes.append(reader.read(indices, 32, 32).shape == (4, 32, 32, 3))
        except VideoError as error:
            outcomes.append(error.problem is not Problem.TIMEOUT)
    assert len(outcomes) == 60 and all(outcomes)
