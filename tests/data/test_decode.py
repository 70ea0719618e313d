"""Every random read gives exactly the frames of a full decode, whatever the container."""

import gc
import pathlib

import av
import numpy as np
import pytest

from hvt_jax.data import decode
from hvt_jax.data.problems import VideoError
from tests.data import painted_videos, read_videos

_CLIPS = pathlib.Path(__file__).parents[1] / "clips"
_LENGTH = 100
_KINDS = {
    "avi": ("avi", "mpeg4", {"g": "12"}),
    "avi_with_b_frames": ("avi", "mpeg4", {"g": "12", "bf": "2"}),
    "avi_h264": ("avi", "libx264", {"g": "25", "bf": "2"}),
    "avi_intra": ("avi", "mpeg4", {"g": "1"}),
    "mp4": ("mp4", "libx264", {"g": "30", "bf": "3"}),
    "mp4_one_keyframe": ("mp4", "libx264", {"g": "250"}),
    "mp4_open_groups": ("mp4", "libx264", {"g": "20", "bf": "3", "x264-params": "open-gop=1"}),
    "mkv": ("matroska", "libx264", {"g": "25", "bf": "2"}),
    "webm_vp9": ("webm", "libvpx-vp9", {"g": "40", "lag-in-frames": "16", "cpu-used": "8", "b": "1M"}),
    "webm_vp8_hidden_frames": ("webm", "libvpx", {"g": "40", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}),
    "mpeg_ps": ("mpeg", "mpeg2video", {"g": "12", "bf": "2", "b": "2M"}),
    "mpeg_ts": ("mpegts", "libx264", {"g": "25"}),
    "raw_h264": ("h264", "libx264", {"g": "25"}),
}


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Return a function that gives the path of a kind of video; frame i shows the number i."""
    folder, frames = tmp_path_factory.mktemp("painted"), [painted_videos.paint_number(i) for i in range(_LENGTH)]

    def make(kind):
        path = folder / kind  # no suffix: the content decides
        return path if path.exists() else painted_videos.write_video(path, frames, *_KINDS[kind])

    return make


@pytest.mark.parametrize("kind", _KINDS)
def test_random_reads_give_the_frames_asked_for(painted, kind):
    path, rng = painted(kind), np.random.default_rng(0)
    assert read_videos.probe(path).num_frames == _LENGTH
    for read in range(30):
        if read % 2:
            indices = (rng.integers(_LENGTH) + 4 * np.arange(8)) % _LENGTH
        else:
            indices = rng.integers(0, _LENGTH, 8)
        assert painted_videos.read_numbers(read_videos.decode_frames(path, indices, 64, 64)) == indices.tolist()


def test_frames_are_those_of_a_full_decode_bit_for_bit(painted):
    with av.open(str(painted("mp4"))) as container:
        full = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    indices = [40, 7, 7, 99, 0, 63]
    np.testing.assert_array_equal(read_videos.decode_frames(painted("mp4"), indices, 64, 64), full[indices])


def test_frames_that_were_read_leave_memory_at_once(painted):
    path = painted("mp4")
    gc.collect()
    gc.disable()  # PyAV's frames and their side data hold each other once it was asked for
    try:
        for _ in range(3):
            read_videos.decode_frames(path, np.arange(20), 64, 64)
        assert sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) <= 3
    finally:
        gc.enable()


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")])
def test_variable_rate_is_read_on_an_even_time_grid(tmp_path, container, codec):
    times = np.cumsum(np.random.default_rng(0).choice([17, 33, 50, 100], _LENGTH))
    frames = [painted_videos.paint_number(i) for i in range(_LENGTH)]
    path = painted_videos.write_video(tmp_path / "video", frames, container, codec, {"g": "20"}, times)
    indices = np.arange(0, _LENGTH, 3)
    grid = times[0] + indices / (_LENGTH - 1) * (times[-1] - times[0])
    nearest = np.abs(times - grid[:, None]).argmin(1)
    assert painted_videos.read_numbers(read_videos.decode_frames(path, indices, 64, 64)) == nearest.tolist()
    assert (nearest != indices).sum() > 10


@pytest.mark.parametrize(("kind", "most"), [("avi", 12), ("avi_intra", 1), ("mp4", 36), ("mp4_one_keyframe", 100)])
def test_only_frames_since_the_last_keyframe_are_decoded(painted, kind, most):
    with decode.VideoReader(painted(kind), 10.0) as reader:
        decoded, original = [], reader._decoded
        reader._decoded = lambda *skipped: (decoded.append(frame) or frame for frame in original(*skipped))
        reader.read([_LENGTH - 2], 64, 64)
    assert 1 <= len(decoded) <= most


def test_frames_far_apart_are_sought_one_by_one(painted):
    with decode.VideoReader(painted("avi_intra"), 10.0) as reader:
        decoded, original = [], reader._decoded
        reader._decoded = lambda *skipped: (decoded.append(frame) or frame for frame in original(*skipped))
        reader.read(np.arange(5, 95, 10), 64, 64)
    assert len(decoded) == 9


def test_frames_are_cut_in_their_centre_and_not_squeezed(tmp_path):
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, 64:128] = 255  # the middle third, with a black band through it
    pixels[28:36] = 0
    path = painted_videos.write_video(tmp_path / "v.mp4", [pixels] * 3, "mp4", "libx264")
    frame = read_videos.decode_frames(path, [1], 32, 32)[0].mean(-1)
    assert (frame[4:12, 4:28] > 230).all() and (frame[15:17] < 40).all()
    wide = read_videos.decode_frames(path, [1], 64, 192)[0].mean(-1)
    assert (wide[:, :60] < 40).all() and (wide[10, 70:122] > 200).all()


@pytest.mark.parametrize(("clockwise", "size"), [(0, (320, 568)), (90, (568, 320)), (270, (568, 320))])
def test_rotation_metadata_is_obeyed(clockwise, size):
    path = _CLIPS / f"decord_rot{clockwise}.mov"
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))[1].to_ndarray(format="rgb24", interpolation="BILINEAR")
    upright = np.rot90(stored, -clockwise // 90)  # looked at once: the letters on the keys can be read
    np.testing.assert_array_equal(read_videos.decode_frames(path, [1], *size)[0], upright)


def test_size_may_change_in_mid_stream(tmp_path):
    parts = []
    for shape in ((64, 96, 3), (96, 64, 3)):
        frames = [np.full(shape, 40 * number, np.uint8) for number in range(5)]
        parts.append(painted_videos.write_video(tmp_path / "part", frames, "h264", "libx264").read_bytes())
    (tmp_path / "video").write_bytes(b"".join(parts))
    frames = read_videos.decode_frames(tmp_path / "video", np.arange(10), 32, 32)
    assert np.abs(frames.mean((1, 2, 3)) - 40 * np.array([0, 1, 2, 3, 4] * 2)).max() < 3


@pytest.mark.parametrize(
    ("name", "frames", "fps", "height", "width"),
    [
        ("-moviepy-video-with-dash-.mp4", 5, 1, 1, 1),
        ("decord_rot90.mov", 3, 30, 320, 568),
        ("decord_unordered.mov", 4, 32, 50, 50),
        ("moviepy_no_duration.webm", 74, 14.98, 720, 1280),
        ("sleap_small_robot_3_frame.mp4", 3, 10, 320, 560),
        ("torchcodec_av1_video.mkv", 125, 25, 360, 640),
        ("torchcodec_h264_10bits.mp4", 30, 30, 200, 200),
        ("torchcodec_h265_video.mp4", 10, 10, 128, 128),
    ],
)
def test_odd_clips(name, frames, fps, height, width):
    info = read_videos.probe(_CLIPS / name)
    assert (info.num_frames, info.height, info.width) == (frames, height, width)
    assert info.fps == pytest.approx(fps, rel=1e-3) and info.duration_seconds == pytest.approx(frames / fps, rel=1e-3)
    full = read_videos.decode_frames(_CLIPS / name, np.arange(frames), 32, 48)
    rng = np.random.default_rng(1)
    for _ in range(6):
        indices = rng.integers(0, frames, 5)
        np.testing.assert_array_equal(read_videos.decode_frames(_CLIPS / name, indices, 32, 48), full[indices])
    assert full.shape == (frames, 32, 48, 3)


def test_frames_beyond_the_end_are_an_error(painted):
    with pytest.raises(VideoError, match="frame 100 of 100"):
        read_videos.decode_frames(painted("avi"), [0, _LENGTH], 64, 64)
    with pytest.raises(VideoError, match="frame -1 of 100"):
        read_videos.decode_frames(painted("avi"), [-1, 4], 64, 64)
