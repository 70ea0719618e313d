"""When frames are shown where packets or their times say less than all: fields, pauses, joined clocks, palettes."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from hvt_jax.data import decode
from hvt_jax.tools import scanning
from tests.data import field_videos, odd_videos, painted_videos, read_videos


def _read_each(path):
    """Return the numbers that the frames of a good video show, read one by one out of order."""
    assert "problem" not in scanning.check_video((str(path), 30.0), lambda: None)
    with decode.VideoReader(path, 30.0) as reader:
        numbers = [-1] * reader.info.num_frames
        for index in np.random.default_rng(0).permutation(len(numbers)).tolist():
            numbers[index] = painted_videos.read_numbers(reader.read([index], 64, 64))[0]
        assert painted_videos.read_numbers(reader.read(np.arange(len(numbers)), 64, 64)) == numbers
    return numbers


@pytest.mark.parametrize("container", ["mpegts", "matroska", "mp4", "avi", "flv"])
def test_two_fields_are_one_frame(tmp_path, container):
    path = field_videos.write(tmp_path / "video", container, 30)
    assert _read_each(path) == list(range(30))
    assert read_videos.probe(path).fps == pytest.approx(25, rel=0.01)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("webm", "libvpx")])
def test_the_frame_before_a_pause_goes_on_being_shown(tmp_path, container, codec):
    times = np.arange(30) * 40 + np.where(np.arange(30) < 15, 0, 1200)
    frames = [painted_videos.paint_number(number) for number in range(30)]
    numbers = _read_each(painted_videos.write_video(tmp_path / "v", frames, container, codec, {"g": "10"}, times))
    grid = np.arange(30) * times[-1] / 29
    shown = np.searchsorted(times, grid + 20, side="right") - 1
    assert np.abs(np.array(numbers) - shown).max() <= 1 and numbers.count(14) >= 14


@pytest.mark.parametrize("jump", [1_000, 90_000])  # 40 s, an hour
def test_recordings_with_clocks_of_their_own_go_on(tmp_path, jump):
    parts = []
    for start in (0, 20):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mpegts") as output:
            stream = output.add_stream("libx264", rate=25, options={"g": "10"})
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            for number in range(start, start + 20):
                frame = av.VideoFrame.from_ndarray(painted_videos.paint_number(number), format="rgb24")
                frame.pts = number + (jump if start else 0)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        parts.append(buffer.getvalue())
    (tmp_path / "v.ts").write_bytes(b"".join(parts))
    assert _read_each(tmp_path / "v.ts") == list(range(40))
    assert read_videos.probe(tmp_path / "v.ts").duration_seconds == pytest.approx(1.6, abs=0.1)


@pytest.mark.parametrize(("container", "codec"), [("avi", "rawvideo"), ("mov", "qtrle")])
def test_palettes_are_not_lost_on_the_way_back_to_the_start(tmp_path, container, codec):
    """The palette comes with the first packet alone: without it all pictures are black."""
    with av.open(str(tmp_path / "v"), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "pal8" if codec == "rawvideo" else "gray"
        for number in range(6):
            pixels = painted_videos.paint_number(number)
            frame = av.VideoFrame(64, 64, stream.pix_fmt)
            frame.planes[0].update(np.pad(pixels[..., 0], ((0, 0), (0, frame.planes[0].line_size - 64))))
            if codec == "rawvideo":
                frame.planes[1].update(np.repeat(np.arange(256, dtype=np.uint8), 4))
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert _read_each(tmp_path / "v") == list(range(6))


def test_b_frames_copied_from_a_container_without_presentation_times(tmp_path):
    with av.open(io.BytesIO(odd_videos.encode("mpeg4_b"))) as source, av.open(str(tmp_path / "v.mp4"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = place
            packet.time_base, packet.stream = Fraction(1, 25), stream
            output.mux(packet)
    assert _read_each(tmp_path / "v.mp4") == list(range(60))


def test_b_frames_of_mpeg4_in_a_transport_stream(tmp_path):
    with av.open(str(tmp_path / "v.ts"), "w", format="mpegts") as output:
        stream = output.add_stream("mpeg4", rate=25, options={"g": "12", "bf": "2", "flags": "+ildct+ilme"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(40):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(painted_videos.paint_number(number), format="rgb24")))
        output.mux(stream.encode())
    assert _read_each(tmp_path / "v.ts") == list(range(40))


def test_a_first_picture_that_is_not_coded_does_not_exist(tmp_path):
    """Also where it is marked as a keyframe, as a copy into .mp4 may do."""
    content = odd_videos.encode("mpeg4")
    with av.open(io.BytesIO(content)) as source, av.open(str(tmp_path / "v.mp4"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        packets = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
        packets.insert(0, (odd_videos.not_coded(bytearray(packets[1][0])), True))
        for place, (body, is_key) in enumerate(packets):
            packet = av.Packet(body)
            packet.pts = packet.dts = place
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, is_key
            output.mux(packet)
    assert _read_each(tmp_path / "v.mp4") == list(range(60))


def test_empty_chunks_at_the_end_of_an_avi_file_without_index(tmp_path):
    """They leave no trace; but a file that is as long as it says has lost nothing."""
    frames = [painted_videos.paint_number(number) for number in range(60)]
    path = painted_videos.write_video(tmp_path / "v.avi", frames, "avi", "mpeg4")
    content, added = bytearray(path.read_bytes()), b"00dc\0\0\0\0" * 6
    content[content.index(b"idx1") :] = added

    def count(at, value):
        content[at : at + 4] = value.to_bytes(4, "little")

    movi = content.index(b"movi") - 4
    count(content.index(b"avih") + 24, 66)
    count(content.index(b"strh") + 40, 66)
    count(movi, len(content) - movi - 4)
    count(4, len(content) - 8)
    path.write_bytes(content)
    assert _read_each(path) == list(range(60))
    path.write_bytes(content[: (movi + len(content)) // 2])
    assert scanning.check_video((str(path), 30.0), lambda: None)["problem"].startswith("too few frames: truncated")
