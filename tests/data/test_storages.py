"""Every storage gives the clips that the videos themselves give."""

import concurrent.futures
import dataclasses
import os
import pickle
import struct
import sys
import time

import numpy as np
import pytest

from hvt_jax.data import decode, images, pipeline, readers, storages
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import VideoError
from hvt_jax.tools import encode
from tests.data import odd_videos, read_videos, stored_videos
from tests.data.stored_videos import SIZE, encoded, psnr

_KINDS = [
    "frames",
    "hdf5",
    "array_record",
    "mp4",
    "hdf5_pixels",
    "hdf5_vlen",
    "hdf5_padded",
    "hdf5_own_file",
    "tfds",
    "tfds_tensor",
]
_LOSSLESS = {"hdf5_pixels", "hdf5_own_file", "tfds_tensor"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The data set of the videos, and their frames as they are stored."""
    return stored_videos.make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def stored(source, data_settings, tmp_path):
    """Return a function that writes the videos in a storage and opens it."""

    def make(kind):
        dataset, frames = source
        root = tmp_path / kind
        root.mkdir()
        settings = dataclasses.replace(
            data_settings, storage=stored_videos.write(kind, root, frames), storage_root=str(root)
        )
        return storages.open_storage(settings, dataset), settings, root

    return make


@pytest.mark.parametrize("kind", _KINDS)
def test_all_storages_give_the_same_clips(stored, source, kind):
    storage, _, _ = stored(kind)
    dataset, frames = source
    rng = np.random.default_rng(0)
    for video in dataset.videos:
        count = len(frames[video.path])
        with storage.open_video(video) as reader:
            assert (reader.info.num_frames, reader.info.height, reader.info.width) == (count, *SIZE)
            for _ in range(5):
                indices = rng.integers(0, count, 7)
                clip = reader.read(indices, *SIZE)
                wanted = frames[video.path][indices]
                assert clip.dtype == np.uint8 and clip.shape == wanted.shape
                if kind in _LOSSLESS:
                    np.testing.assert_array_equal(clip, wanted)
                else:
                    assert psnr(clip, wanted) > 33
            # Of another shape, cut in the centre like the videos themselves.
            square, raw = reader.read([0], 32, 32), read_videos.decode_frames(dataset.root / video.path, [0], 32, 32)
            assert psnr(square, raw) > 28


@pytest.mark.parametrize("kind", _KINDS)
def test_batches_from_every_storage_are_those_of_the_videos(stored, source, kind):
    _, settings, _ = stored(kind)
    settings = dataclasses.replace(settings, height=SIZE[0], width=SIZE[1])
    raw = dataclasses.replace(settings, storage="raw", storage_root="")
    for options in ({}, {"short_videos": "drop"}):
        ours, theirs = (dataclasses.replace(each, **options) for each in (settings, raw))
        batch, expected = (
            next(pipeline.train_batches(source[0], each, batch_size=2, seed=0, start_step=1)) for each in (ours, theirs)
        )
        for name in batch.keys() - {"video"}:
            np.testing.assert_array_equal(batch[name], expected[name])
        assert batch["valid"].all()
        if kind in _LOSSLESS:
            np.testing.assert_array_equal(batch["video"], expected["video"])
        else:
            assert psnr(batch["video"], expected["video"]) > 33


@pytest.mark.parametrize("kind", ["frames", "hdf5", "array_record", "hdf5_vlen", "tfds"])
def test_only_the_frames_asked_for_are_decoded_each_once(stored, source, kind, monkeypatch):
    storage, _, _ = stored(kind)
    decoded, original = [], images.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        images.simplejpeg, "decode_jpeg", lambda content, **named: decoded.append(content) or original(content, **named)
    )
    with storage.open_video(source[0].videos[0]) as reader:
        assert not decoded
        clip = reader.read([30, 2, 2, 30, 39], *SIZE)
    assert len(decoded) == 3
    np.testing.assert_array_equal(clip[0], clip[3])
    assert psnr(clip[[1, 4]], source[1]["a/one.avi"][[2, 39]]) > 33


@pytest.mark.parametrize("kind", ["raw", *_KINDS])
def test_storages_travel_to_other_processes_without_their_open_files(stored, source, kind):
    dataset, _ = source
    if kind == "raw":
        storage = storages.open_storage(
            dataclasses.replace(stored("frames")[1], storage="raw", storage_root=""), dataset
        )
    else:
        storage, _, _ = stored(kind)
    with storage.open_video(dataset.videos[0]) as reader:
        expected = reader.read([3, 7], *SIZE)
    with pickle.loads(pickle.dumps(storage)).open_video(dataset.videos[0]) as reader:
        np.testing.assert_array_equal(reader.read([3, 7], *SIZE), expected)


@pytest.mark.parametrize("kind", _KINDS)
def test_threads_share_a_storage(stored, source, kind):
    storage, _, _ = stored(kind)
    video = source[0].videos[0]

    def read(first):
        with storage.open_video(video) as reader:
            return reader.read(np.arange(first, first + 8), 32, 32)

    alone = [read(first) for first in range(20)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for together, expected in zip(pool.map(read, list(range(20)) * 5), alone * 5, strict=True):
            np.testing.assert_array_equal(together, expected)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["frames", "hdf5", "array_record", "mp4", "hdf5_own_file", "tfds"])
def test_no_file_stays_open_that_the_cache_does_not_hold(stored, source, kind):
    storage, _, _ = stored(kind)
    if hasattr(storage, "files"):
        storage.files._most = 1  # every other read opens a file anew
    counts = set()
    for number in range(2000):
        with storage.open_video(source[0].videos[(number // 2) % 3]) as reader:
            reader.read([0], 8, 8)
        if number >= 6:
            counts.add(len(os.listdir("/proc/self/fd")))
    assert max(counts) - min(counts) <= 2


def test_the_cache_forgets_the_least_recently_used():
    made = []
    cache = readers.LruCache(lambda name: made.append(name) or name.upper(), most=2)
    assert [cache.get(name) for name in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"] and len(cache) == 2
    sized = readers.LruCache(None, most=8, size=len)
    for name in "abc":
        sized.keep(name, 4 * name)
        assert sized.find("a") == "aaaa"
    assert sized.find("b") is None and sized.find("c") == "cccc" and sized.size == 8
    assert sized.keep("a", "another thread's") == "aaaa" and sized.size == 8


@pytest.mark.parametrize("kind", ["frames", "hdf5", "array_record", "mp4"])
def test_equal_videos_give_equal_bytes(source, tmp_path, kind):
    contents = []
    for name in ("one", "two"):
        stored_videos.write(kind, tmp_path / name, source[1])
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in paths})
        time.sleep(1.1 if name == "one" else 0)  # a time stamp would differ
    assert contents[0] == contents[1] and len(contents[0]) > 3


@pytest.mark.parametrize("kind", ["frames", "hdf5", "array_record"])
def test_an_interrupted_shard_does_not_count_and_is_written_again(source, tmp_path, data_settings, kind):
    dataset, frames = source
    shard = storages.shard_path(kind, tmp_path / "out", 0, 1)

    def interrupted():
        yield from list(encoded(frames, kind))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storages.write_shard(kind, shard, interrupted())
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    for _ in range(2):
        storages.write_shard(kind, shard, encoded(frames, kind))
    assert not list((tmp_path / "out").rglob("*.tmp"))
    settings = dataclasses.replace(data_settings, storage=kind, storage_root=str(tmp_path / "out"))
    with storages.open_storage(settings, dataset).open_video(dataset.videos[1]) as reader:
        assert reader.info.num_frames == 12 and reader.info.fps == 25 and reader.info.duration_seconds == 12 / 25


@pytest.mark.parametrize("pattern", ["{:05d}.jpg", "{}.jpeg", "img_{:03d}.JPG", "frame{:02d}.png"])
@pytest.mark.parametrize("start", [0, 1, 95])
def test_folders_of_frames_as_others_made_them(tmp_path, data_settings, pattern, start):
    values = np.arange(12) * 20
    (tmp_path / "clips/v_x").mkdir(parents=True)
    for number, value in enumerate(values):
        frame = np.full((16, 24, 3), value, np.uint8)
        content = stored_videos.encode_png(frame) if "png" in pattern else encode.encode_jpegs([frame], 95)[0]
        (tmp_path / "clips/v_x" / pattern.format(start + number)).write_bytes(content)
    (tmp_path / "clips/v_x/notes.txt").write_text("no frame")
    dataset = Dataset(tmp_path, (Video("clips/v_x.avi", (0,)), Video("clips/v_x", (0,))), {"class": ("any",)})
    storage = storages.open_storage(dataclasses.replace(data_settings, storage="frames", storage_root=""), dataset)
    for video in dataset.videos:
        with storage.open_video(video) as reader:
            assert (reader.info.num_frames, reader.info.height, reader.info.width) == (12, 16, 24)
            np.testing.assert_allclose(reader.read([11, 0, 5], 8, 8).mean((1, 2, 3)), values[[11, 0, 5]], atol=1)


@pytest.mark.parametrize(
    ("frames", "others"),
    [
        ("img_{:05d}.jpg", ["flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"]),
        ("image_{:05d}.jpg", ["x_{:05d}.jpg", "y_{:05d}.jpg", "._image_{:05d}.jpg"]),
        ("{:06d}.png", [".{:06d}.png"]),
        ("flow_x_{:05d}.jpg", []),
    ],
)
@pytest.mark.parametrize("step", [1, 5])
def test_frames_beside_flow_and_hidden_files_in_even_steps(tmp_path, data_settings, frames, others, step):
    (tmp_path / "v").mkdir()
    for number in range(8):
        for pattern in (frames, *others):
            value = 20 * number if pattern == frames else 250
            (tmp_path / "v" / pattern.format(3 + step * number)).write_bytes(
                encode.encode_jpegs([np.full((16, 24, 3), value, np.uint8)], 95)[0]
            )
    dataset = Dataset(tmp_path, (Video("v", (0,)),), {"class": ("any",)})
    storage = storages.open_storage(dataclasses.replace(data_settings, storage="frames", storage_root=""), dataset)
    with storage.open_video(dataset.videos[0]) as reader:
        assert reader.info.num_frames == 8
        np.testing.assert_allclose(reader.read(np.arange(8), 8, 8).mean((1, 2, 3)), 20 * np.arange(8), atol=1)


def test_frames_are_turned_as_their_exif_data_says(tmp_path, data_settings):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "v").mkdir()
    exif = image.Exif()
    exif[0x112] = 6
    for number in range(3):
        image.fromarray(odd_videos.quarters()[:, :48]).save(tmp_path / f"v/{number}.jpg", exif=exif, quality=95)
    dataset = Dataset(tmp_path, (Video("v", (0,)),), {"class": ("any",)})
    storage = storages.open_storage(dataclasses.replace(data_settings, storage="frames", storage_root=""), dataset)
    with storage.open_video(dataset.videos[0]) as reader:
        assert (reader.info.height, reader.info.width) == (48, 64)
        for size in ((48, 64), (24, 32)):
            assert [odd_videos.corners(frame) for frame in reader.read([0, 2], *size)] == ["BRWG", "BRWG"]


def test_one_frame_of_a_video_that_is_held_another_way_is_turned_alone(tmp_path, data_settings):
    """Its EXIF data stands where the pixels of the frame before begin, so that both begin with the same bytes."""
    (tmp_path / "v").mkdir()
    upright = encode.encode_jpegs([odd_videos.quarters()], 95)[0]
    scan = upright.index(b"\xff\xda\0")
    turned = b"Exif\0\0" + struct.pack(">4sIHHHII", b"MM\0*", 8, 1, 0x112, 3, 1, 3 << 16)
    turned = upright[:scan] + b"\xff\xe1" + struct.pack(">H", 2 + len(turned)) + turned + upright[scan:]
    for number, picture in enumerate((upright, upright, turned, upright, turned)):
        (tmp_path / f"v/{number}.jpg").write_bytes(picture)
    dataset = Dataset(tmp_path, (Video("v", (0,)),), {"class": ("any",)})
    storage = storages.open_storage(dataclasses.replace(data_settings, storage="frames", storage_root=""), dataset)
    with storage.open_video(dataset.videos[0]) as reader:
        shown = [odd_videos.corners(frame) for frame in reader.read(np.arange(5), 64, 64)]
    assert shown == [shown[0], shown[0], shown[0][::-1], shown[0], shown[0][::-1]] and shown[0] != shown[0][::-1]


def test_frames_that_are_links_are_followed_when_the_config_says_so(tmp_path, data_settings):
    (tmp_path / "data/v").mkdir(parents=True)
    (tmp_path / "x.jpg").write_bytes(encode.encode_jpegs([np.zeros((16, 16, 3), np.uint8)], 95)[0])
    (tmp_path / "data/v/1.jpg").symlink_to(tmp_path / "x.jpg")
    dataset = Dataset(tmp_path / "data", (Video("v", (0,)),), {"class": ("any",)})
    settings = dataclasses.replace(data_settings, storage="frames", storage_root="")
    with pytest.raises(
        VideoError, match="1.jpg: cannot be opened .it is a link, which data.follow_links = True follows"
    ):
        storages.open_storage(settings, dataset).open_video(dataset.videos[0])
    settings = dataclasses.replace(settings, follow_links=True)
    assert storages.open_storage(settings, dataset).open_video(dataset.videos[0]).info.num_frames == 1


def test_mp4_content_keeps_its_brightness():
    """Rounded as usual, in both conversions, every channel lost more than one level."""
    colours = np.random.default_rng(0).integers(32, 224, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    content = encode.encode_mp4([colours] * 4, 25.0, 12, 18)
    stored = read_videos.decode_frames(content, [0], *colours.shape[:2])[0]
    assert np.abs(stored.mean((0, 1)) - colours.mean((0, 1))).max() < 0.5


def test_resized_frames_keep_their_brightness(tmp_path):
    """Widths that are even and odd alike."""
    colours = np.random.default_rng(0).integers(32, 224, (24, 1, 1, 3), np.uint8)
    (tmp_path / "v.mp4").write_bytes(encode.encode_mp4(colours.repeat(64, 1).repeat(96, 2), 25.0, 1, 10))
    for size in ((32, 48), (33, 49), (96, 144)):
        read = read_videos.decode_frames(tmp_path / "v.mp4", np.arange(24), *size)
        assert np.abs((read - colours.astype(float)).mean((0, 1, 2))).max() < 0.4, size


def test_a_picture_is_a_video_of_one_frame(tmp_path, data_settings):
    (tmp_path / "n01.JPEG").write_bytes(encode.encode_jpegs([np.full((30, 40, 3), 90, np.uint8)], 90)[0])
    dataset = Dataset(tmp_path, (Video("n01.JPEG", (0,)),), {"class": ("any",)})
    with storages.open_storage(data_settings, dataset).open_video(dataset.videos[0]) as reader:
        assert (reader.info.num_frames, reader.info.height, reader.info.width) == (1, 30, 40)
        assert np.abs(reader.read([0, 0], 20, 20).astype(int) - 90).max() <= 1


def test_a_video_is_read_from_bytes_as_from_its_file(source):
    dataset, _ = source
    for video in dataset.videos:
        path = dataset.root / video.path
        with decode.VideoReader(path.read_bytes(), 10.0) as inside, decode.VideoReader(path, 10.0) as outside:
            assert inside.info == outside.info
            indices = [inside.info.num_frames - 1, 0]
            np.testing.assert_array_equal(inside.read(indices, *SIZE), outside.read(indices, *SIZE))


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(ValueError, match="47x64 pixels; make both sides even"):
        encode.encode_mp4(np.zeros((2, 47, 64, 3), np.uint8), 25.0, 8, 18)
    with pytest.raises(ValueError, match="at least one frame"):
        encode.encode_mp4([], 25.0, 8, 18)
    with pytest.raises(ValueError, match="quality of 0"):
        encode.encode_jpegs([], 0)


def test_storages_that_do_not_exist(data_settings, source):
    with pytest.raises(DataError, match="data.storage = 'zip', but must be one of raw, frames, hdf5"):
        storages.open_storage(dataclasses.replace(data_settings, storage="zip"), source[0])
    with pytest.raises(DataError, match="'tfds' cannot be written"):
        storages.write_shard("tfds", source[0].root / "x", [])


@pytest.mark.parametrize("kind", ["raw", "hdf5"])
def test_frames_are_squeezed_whatever_they_lie_in(stored, source, data_settings, kind):
    dataset, _ = source
    settings = data_settings if kind == "raw" else stored(kind)[1]
    numbers = np.arange(3, 7)
    for segment in ({}, {"start_seconds": 0.2, "end_seconds": 0.8}):
        video = dataclasses.replace(dataset.videos[0], **segment)
        with storages.open_video(dataset, settings, video) as reader:
            whole, cut = reader.read(numbers, *SIZE), reader.read(numbers, 24, 24)
        with storages.open_video(dataset, dataclasses.replace(settings, resize="squeeze"), video) as reader:
            squeezed = reader.read(numbers, 24, 24)
        wanted = np.stack([images.fit_pixels(frame, 24, 24, True) for frame in whole])
        near, far = (np.abs(squeezed.astype(int) - other).mean() for other in (wanted, cut))
        assert near < 2 < 10 < far
