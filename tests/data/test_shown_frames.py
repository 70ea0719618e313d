"""The frames of a video are those that a player shows: no more, no fewer, each when it is shown, the right way up."""

import itertools
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest

from hvt_jax.data import decode, images, indexing, readers
from hvt_jax.data.dataset import Video
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.tools import scanning
from tests.data import odd_videos, painted_videos, read_videos

_CONTAINERS = {"mkv": "matroska", "ts": "mpegts", "mpg": "vob", "m2v": "mpeg2video"}


def _numbers(path):
    """Return the numbers that the frames of a good video show; read alone, in any order, they show the same."""
    found = scanning.check_video((str(path), 30.0), lambda: None)
    assert "problem" not in found, found
    with decode.VideoReader(path, 30.0) as reader:
        assert reader.info.num_frames == found["frames"]
        numbers = painted_videos.read_numbers(reader.read(np.arange(found["frames"]), 64, 64))
        for index in np.random.default_rng(0).permutation(found["frames"])[:12].tolist():
            assert painted_videos.read_numbers(reader.read([index], 64, 64)) == [numbers[index]]
    return numbers


@pytest.fixture(scope="module")
def encoded():
    """Return the bytes of 60 frames by name of the codec, made once."""
    known = {}
    return lambda codec: known.setdefault(codec, odd_videos.encode(codec))


@pytest.mark.parametrize("before", [0, 8])
@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("h264", "matroska"),
        ("h264", "mpegts"),
        ("h264", "mp4"),
        ("h264", "flv"),
        ("h264", "h264"),
        ("h264_refresh", "mpegts"),
        ("hevc", "matroska"),
        ("hevc", "mpegts"),
        ("mpeg2", "mpegts"),
        ("mpeg2", "matroska"),
        ("mpeg2", "vob"),
        ("mpeg4", "avi"),
        ("mpeg4_b", "avi"),
        ("mpeg4_b", "matroska"),
        ("vp8", "webm"),
        ("vp9", "ivf"),
    ],
)
def test_cut_or_joined_midway(encoded, tmp_path, codec, container, before):
    """From the second keyframe on, or eight packets before it: what is shown before the keyframe does not exist."""
    content = encoded(codec)
    second = odd_videos.keyframes(content)[1]
    path = odd_videos.copy(content, tmp_path / "video", container, skip=second - before)
    numbers = _numbers(path)
    # Some are stored after the keyframe and shown before it; and it takes some until all of a picture is refreshed.
    others = {"h264": 2, "hevc": 2, "mpeg2": 2, "mpeg4_b": 2, "h264_refresh": 2}.get(codec, 0)
    assert numbers == list(range(second + others, 60))


def test_two_recordings_in_one_file(encoded, tmp_path):
    content = encoded("mpeg2")
    second = odd_videos.keyframes(content)[1]
    parts = [odd_videos.copy(content, tmp_path / f"{skip}.ts", "mpegts", skip=skip) for skip in (0, second - 3)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    numbers = _numbers(tmp_path / "both.ts")
    assert numbers[:60] == list(range(60)) and numbers[-40:] == list(range(20, 60))


@pytest.mark.parametrize("container", ["avi", "mp4", "matroska"])
def test_pictures_that_are_not_coded_repeat_the_one_before(encoded, tmp_path, container):
    still = {7, 20, 21, 59}
    change = lambda place, packet: odd_videos.not_coded(packet) if place in still else packet  # noqa: E731
    path = odd_videos.copy(encoded("mpeg4"), tmp_path / "video", container, change=change)
    numbers = _numbers(path)
    assert len(numbers) == 60 and [numbers[place] for place in (7, 20, 21, 59)] == [6, 19, 19, 58]


@pytest.mark.parametrize("container", ["webm", "ivf", "avi"])
def test_hidden_pictures_are_no_frames(encoded, tmp_path, container):
    def hide(place, packet):
        if place in (20, 40):
            packet[0] &= ~0x10
        return packet

    path = odd_videos.copy(encoded("vp8"), tmp_path / "video", container, change=hide)
    assert read_videos.probe(path).num_frames == 58 and len(_numbers(path)) == 58
    assert abs(read_videos.probe(path).duration_seconds - 60 / 25) < 0.1


@pytest.mark.parametrize("container", ["webm", "matroska", "mp4"])
def test_the_last_frame_may_last_long(encoded, tmp_path, container):
    path = odd_videos.copy(encoded("vp9"), tmp_path / "video", container, hold=8000)
    assert _numbers(path) == list(range(60))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VideoError):
        read_videos.probe(path)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg4_b", "h264"])
def test_empty_chunks_keep_their_time(tmp_path, codec):
    times = [number + number // 2 for number in range(60)]
    name, options = odd_videos.CODECS[codec]
    with av.open(str(tmp_path / "gaps.avi"), "w") as output:
        stream = output.add_stream(name, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number, when in enumerate(times):
            frame = av.VideoFrame.from_ndarray(painted_videos.paint_number(number), format="rgb24")
            frame.pts = when
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    numbers = _numbers(tmp_path / "gaps.avi")
    assert len(numbers) == 60 and abs(read_videos.probe(tmp_path / "gaps.avi").duration_seconds - 89 / 25) < 0.1
    shown = np.interp(np.arange(60) * 88 / 59, times, np.arange(60))
    assert np.abs(np.array(numbers) - shown).max() <= 1.5


@pytest.mark.parametrize(
    ("edits", "wanted"),
    [
        ([(10, 40)], [range(10, 50)]),
        ([(9, 36)], [range(9, 45)]),
        ([(0, 37)], [range(37)]),
        ([(None, 12), (0, 50)], [range(50)]),
        ([(10, 10), (30, 10)], [range(10, 20), range(30, 40)]),
        ([(30, 10), (10, 10)], [range(30, 40), range(10, 20)]),
    ],
)
def test_edit_lists(tmp_path, edits, wanted):
    options = {"bf": "0", "g": "10", "sc_threshold": "0"}
    frames = [painted_videos.paint_number(number) for number in range(50)]
    source = painted_videos.write_video(tmp_path / "whole.mp4", frames, "mp4", "libx264", options).read_bytes()
    path = odd_videos.with_edits(source, tmp_path / "cut.mp4", edits)
    assert _numbers(path) == list(itertools.chain(*wanted))


def test_an_mp4_file_without_its_end_is_truncated_whatever_its_edit_list(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    with av.open(str(tmp_path / "v.mp4"), "w", container_options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    content = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match="of 40 frames"):
        read_videos.probe(tmp_path / "half.mp4")


@pytest.mark.parametrize("container", ["mp4", "matroska", "mov"])
def test_seconds_count_from_the_start_of_the_file(tmp_path, container):
    """Pictures begin half a second after the sound."""
    with av.open(str(tmp_path / "late"), "w", format=container) as output:
        stream = output.add_stream("libx264", rate=24, options={"bf": "0", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        sound = output.add_stream("pcm_s16le" if container == "mov" else "aac", rate=16000)
        sound.layout = "mono"
        for number in range(48):
            kind = "s16" if container == "mov" else "fltp"
            silence = np.zeros((1, 1000), np.int16 if kind == "s16" else np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
            frame.sample_rate, frame.pts = 16000, 1000 * number
            output.mux(sound.encode(frame))
        output.mux(sound.encode())
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(painted_videos.paint_number(number), format="rgb24")
            frame.pts = number + 12
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with decode.VideoReader(tmp_path / "late", 30.0) as reader:
        info = reader.info
        assert info.start_seconds == pytest.approx(0.5, abs=0.01)
        assert readers.frame_range(info, Video("late", (0,), None, 1.0, 1.5)) == range(12, 24)
        assert readers.frame_range(info, Video("late", (0,), None, 0.0, 1.0)) == range(0, 12)
        assert readers.frame_range(info, Video("late", (0,), None, 2.0, 0.0)) == range(36, 40)
        for start, end, words in (
            (0.0, 0.25, "the first picture is shown at 0.50 s"),
            (2.5, 3.0, "the video ends at 2.17 s"),
        ):
            with pytest.raises(VideoError, match=words) as caught:
                readers.frame_range(info, Video("late", (0,), None, start, end))
            assert caught.value.problem is Problem.TOO_SHORT


@pytest.mark.parametrize("flagged", [True, False])
def test_the_stream_that_players_show_is_read(tmp_path, flagged):
    """Not the preview before it: by its flag, or where none is flagged, by its size."""
    with av.open(str(tmp_path / "film.mkv"), "w") as output:
        small, film = output.add_stream("mjpeg", rate=25), output.add_stream("libx264", rate=25)
        small.width, small.height, small.pix_fmt = 32, 32, "yuvj420p"
        film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
        film.disposition = av.stream.Disposition.default if flagged else 0
        for number in range(20):
            pixels = painted_videos.paint_number(number)
            output.mux(film.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            shrunk = av.VideoFrame.from_ndarray(pixels[::2, ::2].copy(), format="rgb24")
            output.mux(small.encode(shrunk.reformat(format="yuvj420p")))
        output.mux(film.encode())
        output.mux(small.encode())
    found = scanning.check_video((str(tmp_path / "film.mkv"), 30.0), lambda: None)
    assert (found["codec"], found["height"], found["video_streams"]) == ("h264", 64, 2)
    assert _numbers(tmp_path / "film.mkv") == list(range(20))


# How the quarters look once a picture with this EXIF orientation, or this matrix, is upright.
_UPRIGHT = {1: "RGBW", 2: "GRWB", 3: "WBGR", 4: "BWRG", 5: "RBGW", 6: "BRWG", 7: "WGBR", 8: "GWRB"}
_MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def test_display_matrices_turn_and_mirror(tmp_path):
    frames = [odd_videos.quarters()] * 3
    source = painted_videos.write_video(tmp_path / "plain.mp4", frames, "mp4", "libx264").read_bytes()
    seen = set()
    for number, matrix in _MATRICES.items():
        path = odd_videos.with_matrix(source, tmp_path / f"{number}.mp4", *matrix)
        assert odd_videos.corners(read_videos.decode_frames(path, [1], 64, 64)[0]) == _UPRIGHT[number], number
        found = scanning.check_video((str(path), 30.0), lambda: None)
        seen.add((found["rotation"], found["mirrored"]))
    assert seen == set(itertools.product((0, 90, 180, 270), (0, 1)))


def test_pictures_are_upright_in_both_ways_of_reading_them(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(odd_videos.quarters()[:, :48])
    for number, ending in itertools.product(_UPRIGHT, ("jpg", "png")):
        exif, path = image.Exif(), tmp_path / f"{number}.{ending}"
        exif[0x112] = number
        picture.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if ending == "jpg" else {}))
        upright = images.decode_image(path.read_bytes())
        assert upright.shape[:2] == images.image_size(path.read_bytes()) == ((48, 64) if number > 4 else (64, 48))
        with decode.VideoReader(path, 30.0) as reader:
            assert reader.upright_size() == upright.shape[:2]
            raw = reader.read([0], *upright.shape[:2])[0]
        assert odd_videos.corners(upright) == odd_videos.corners(raw) == _UPRIGHT[number], path.name


def test_orientation_as_a_long_number_and_after_the_pixels_of_a_png(tmp_path):
    tiff = struct.pack(">4sIHHHIII", b"MM\0*", 8, 1, 0x112, 4, 1, 6, 0)
    for codec, ending in (("mjpeg", "jpg"), ("png", "png")):
        frame = av.VideoFrame.from_ndarray(np.random.default_rng(0).integers(0, 255, (160, 240, 3), np.uint8))
        encoder = av.CodecContext.create(codec, "w")
        encoder.width, encoder.height, encoder.time_base = 240, 160, Fraction(1, 25)
        encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        (content,) = [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))]
        if ending == "jpg":
            content = content[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + content[2:]
        else:
            check = struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
            content = content[:-12] + struct.pack(">I", len(tiff)) + b"eXIf" + tiff + check + content[-12:]
            assert len(content) > 1 << 16
        assert images.decode_image(content).shape == (240, 160, 3), ending


@pytest.mark.parametrize("content", [b"", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_exif_data_that_is_cut_short_turns_nothing(content):
    assert images._exif_orientation(b"\xff\xd8\xff\xe1\0\0Exif\0\0" + content) == 1


def _part(marker, content):
    return b"\xff" + marker + struct.pack(">H", 2 + len(content)) + content


_SCAN = _part(b"\xda", b"\3\1\0\2\x11\3\x11\0\x3f\0")
_THUMBNAIL = b"\xff\xd8" + _part(b"\xdb", bytes(65)) + _SCAN + b"pixels" + b"\xff\xd9"
_BEFORE = {
    "nothing": b"",
    "bytes like a scan": _part(b"\xe2", b"ICC_PROFILE\0\xff\xda\0\x05\x03"),
    "bytes like half a scan": _part(b"\xe2", b"\xff\xda\0"),
    "a thumbnail": _part(b"\xe0", b"JFXX\0\x10" + _THUMBNAIL),
    "a thumbnail with EXIF data": _part(b"\xe0", b"JFXX\0\x10" + _THUMBNAIL[:2] + _part(b"\xe1", b"Exif\0\0II*\0")),
    "fill bytes": b"\xff" * 3,
    "much": _part(b"\xe2", bytes(65000)) * 2,
}


@pytest.mark.parametrize("before", _BEFORE.values(), ids=_BEFORE)
def test_exif_data_is_found_behind_other_parts(before):
    tiff = b"Exif\0\0" + struct.pack(">4sIHHHIII", b"MM\0*", 8, 1, 0x112, 4, 1, 6, 0)
    exif = _part(b"\xe1", tiff + _THUMBNAIL)
    assert images._exif_orientation(b"\xff\xd8" + before + exif + _SCAN) == 6
    assert images._exif_orientation(b"\xff\xd8" + before + _SCAN + exif) == 1  # those are pixels
    assert images._exif_orientation(b"\xff\xd8" + before + exif[:9]) == 1


def test_parts_without_end_are_given_up():
    assert (
        images._exif_orientation(b"\xff" * 10**6)
        == images._exif_orientation(b"\xff\xd8" + b"\xff\xe2\0\0" * 10**5)
        == 1
    )


def test_usual_videos_are_listed_without_decoding_all_of_them(encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "index_pictures", None)
    for codec, container in (("h264", "mp4"), ("mpeg4_b", "avi"), ("mpeg4", "avi"), ("vp9", "webm"), ("mpeg2", "vob")):
        path = odd_videos.copy(encoded(codec), tmp_path / f"{codec}.{container}", container)
        assert read_videos.probe(path).num_frames == 60
