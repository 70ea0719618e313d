"""Whatever is wrong with a storage is refused or reported; nothing crashes, hangs, or comes as another frame unseen."""

import dataclasses
import json
import os
import pathlib

import h5py
import numpy as np
import pytest

from hvt_jax.data import images, pipeline, storages
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import Problem, VideoError
from tests.data import stored_videos
from tests.data.stored_videos import SIZE

_WRITTEN = ["frames", "hdf5", "array_record", "mp4"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The data set of the videos, and their frames as they are stored."""
    return stored_videos.make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def open_at(data_settings):
    """Return a function that opens a storage in a folder, for videos of the given paths."""

    def make(storage, root, *paths):
        dataset = Dataset(pathlib.Path(root), tuple(Video(path, (0,)) for path in paths), {"class": ("any",)})
        # The machine of a test may halt for a while; what is damaged must still not be called slow.
        settings = dataclasses.replace(
            data_settings, storage=storage, storage_root=str(root), video_timeout_seconds=300.0
        )
        settings = dataclasses.replace(settings, root=str(root), height=SIZE[0], width=SIZE[1])
        return storages.open_storage(settings, dataset), dataset, settings

    return make


def _problem(storage, video, indices=(0,)):
    with pytest.raises(VideoError) as caught:
        with storage.open_video(video) as reader:
            reader.read(indices, *SIZE)
    assert "\n" not in str(caught.value)
    return caught.value.problem, str(caught.value)


_PIXELS = np.zeros((4, 8, 8, 3), np.uint8)


def _external_link(file, other):
    file["v"] = h5py.ExternalLink(str(other), "v")


def _soft_link(file, _):
    file["w"], file["v"] = _PIXELS, h5py.SoftLink("/w")


def _soft_link_on_the_way(file, _):
    file["w/v"], file["a"] = _PIXELS, h5py.SoftLink("/w")


def _virtual(file, other):
    layout = h5py.VirtualLayout(_PIXELS.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "v", shape=_PIXELS.shape)
    file.create_virtual_dataset("v", layout)


def _external_storage(file, other):
    file.create_dataset("v", _PIXELS.shape, np.uint8, external=[(str(other), 0, _PIXELS.nbytes)])


def _bomb(file, _):
    file.create_dataset("v", (400_000, 1024, 341, 3), np.uint8, chunks=(1, 64, 341, 3))  # 419 GB


def _bomb_of_few_frames(file, _):
    file.create_dataset("v", (2, 100_000, 1_000, 3), np.uint8, chunks=(1, 1000, 1000, 3), compression="gzip")


def _bomb_of_one_chunk(file, _):
    file.create_dataset("v", (400, 2048, 2048, 3), np.uint8, chunks=(200, 2048, 2048, 3), compression="gzip")


def _floats(file, _):
    file["v"] = _PIXELS.astype(np.float32)


def _grey(file, _):
    file["v"] = _PIXELS[..., 0]


def _text(file, _):
    file["v"] = ["not", "a", "video"]


def _ends_beyond(file, _):
    file["v/jpeg"], file["v/ends"] = np.zeros(100, np.uint8), np.array([50, 1 << 40])


def _ends_fall(file, _):
    file["v/jpeg"], file["v/ends"] = np.zeros(100, np.uint8), np.array([50, 20])


def _ends_negative(file, _):
    file["v/jpeg"], file["v/ends"] = np.zeros(100, np.uint8), np.array([-50, 20])


def _group_of_links(file, other):
    file["v/ends"] = np.array([10, 20])
    file["v/jpeg"] = h5py.ExternalLink(str(other), "v")


def _empty(file, _):
    file["v"] = _PIXELS[:0]


def _nothing_decoded(file, _):
    file["v"] = np.zeros((4, 100), np.uint8)


_ATTACKS = {
    _external_link: Problem.UNREADABLE,
    _soft_link: Problem.UNREADABLE,
    _soft_link_on_the_way: Problem.UNREADABLE,
    _virtual: Problem.UNREADABLE,
    _external_storage: Problem.UNREADABLE,
    _bomb: Problem.TOO_LARGE,
    _bomb_of_few_frames: Problem.TOO_LARGE,
    _bomb_of_one_chunk: Problem.TOO_LARGE,
    _floats: Problem.UNREADABLE,
    _grey: Problem.UNREADABLE,
    _text: Problem.UNREADABLE,
    _ends_beyond: Problem.UNREADABLE,
    _ends_fall: Problem.UNREADABLE,
    _ends_negative: Problem.UNREADABLE,
    _group_of_links: Problem.UNREADABLE,
    _empty: Problem.EMPTY,
    _nothing_decoded: Problem.UNREADABLE,
}


@pytest.mark.parametrize("attack", _ATTACKS, ids=lambda attack: attack.__name__)
def test_hostile_hdf5_files_are_refused(tmp_path, open_at, attack):
    other = tmp_path / "secret"
    with h5py.File(other, "w") as file:
        file["v"] = _PIXELS
    with h5py.File(tmp_path / "shared.h5", "w") as file:
        attack(file, other)
    path = "a/v" if attack is _soft_link_on_the_way else "v"
    storage, dataset, _ = open_at("hdf5", tmp_path, path)
    assert _problem(storage, dataset.videos[0], (0, 1))[0] is _ATTACKS[attack]


def test_a_harmless_hdf5_file_is_not_refused(tmp_path, open_at):
    with h5py.File(tmp_path / "shared.h5", "w") as file:
        file["v"] = _PIXELS
    storage, dataset, _ = open_at("hdf5", tmp_path, "v", "w", "..", "v/../v", "")
    with storage.open_video(dataset.videos[0]) as reader:
        assert not reader.read([3], 8, 8).any()
    for video in dataset.videos[1:]:
        assert _problem(storage, video)[0] is Problem.MISSING


def _read_all(storage, dataset, frames, rng):
    """Return for every video whether it came whole; a part that is wrong without an error fails the test."""
    outcomes = []
    for video in dataset.videos:
        wanted = frames[video.path]
        indices = rng.integers(0, len(wanted), 6)
        try:
            with storage.open_video(video) as reader:
                clip = reader.read(indices, *SIZE)
            assert clip.shape == (6, *SIZE, 3)
            outcomes.append(True)
        except VideoError as error:
            assert error.problem not in (Problem.OK, Problem.TIMEOUT) and "\n" not in str(error)
            outcomes.append(False)
    return outcomes


def _data_files(root):
    return sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".json")


@pytest.mark.parametrize("kind", [*_WRITTEN, "hdf5_vlen", "hdf5_pixels", "tfds"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated_shards_are_reported(source, tmp_path, open_at, kind, share):
    dataset, frames = source
    name = stored_videos.write(kind, tmp_path, frames)
    for path in _data_files(tmp_path):
        if path.suffix != ".txt":
            os.truncate(path, int(path.stat().st_size * share))
    try:
        storage, _, settings = open_at(name, tmp_path, *frames)
    except DataError as error:  # TFDS finds videos by reading
        assert kind == "tfds" and "\n" not in str(error)
        return
    rng = np.random.default_rng(0)
    outcomes = [whole for _ in range(4) for whole in _read_all(storage, dataset, frames, rng)]
    assert not all(outcomes)
    batch = next(pipeline.train_batches(dataset, settings, batch_size=3, seed=0, start_step=0))
    assert len(batch["valid"]) == 3 and (batch["problem"] != 0).tolist() == (~batch["valid"]).tolist()


@pytest.mark.parametrize("kind", [*_WRITTEN, "hdf5_vlen"])
def test_flipped_bits_give_whole_clips_or_a_reason(source, tmp_path, open_at, kind):
    dataset, frames = source
    name = stored_videos.write(kind, tmp_path, frames)
    contents = {path: path.read_bytes() for path in _data_files(tmp_path)}
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(40):
        for path, content in contents.items():
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 1 if kind == "frames" else 4):
                damaged[place] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
        outcomes += _read_all(open_at(name, tmp_path, *frames)[0], dataset, frames, rng)
    assert len(outcomes) == 120 and not all(outcomes)


def test_a_record_of_array_record_never_comes_damaged(source, tmp_path, open_at):
    """Its hash finds every flipped bit, so what is delivered is what was stored."""
    dataset, frames = source
    name = stored_videos.write("array_record", tmp_path, frames)
    with open_at(name, tmp_path, *frames)[0].open_video(dataset.videos[0]) as reader:
        expected = reader.read(np.arange(40), *SIZE)
    (shard,) = tmp_path.glob("*00000-of*.array_record")
    content, rng, delivered = shard.read_bytes(), np.random.default_rng(1), 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        shard.write_bytes(damaged)
        number = rng.integers(40)
        try:
            with open_at(name, tmp_path, *frames)[0].open_video(dataset.videos[0]) as reader:
                np.testing.assert_array_equal(reader.read([number], *SIZE), expected[[number]])
            delivered += 1
        except VideoError:
            pass
    assert 0 < delivered < 60


def _break_index(tmp_path, change):
    path = min(tmp_path.glob("*.index.json"))
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(changed if isinstance(changed, str) else json.dumps(content if changed is None else changed))


_INDEX_FAULTS = {
    "cut short": (lambda c: json.dumps(c)[:50], "is damaged"),
    "no object": (lambda _: [1, 2], "is damaged"),
    "deep": (lambda _: "[" * 100_000, "is damaged"),
    "other storage": (lambda c: c.update(storage="zip"), "is of 'zip'"),
    "other format": (lambda c: c.update(format=99), "format 99"),
    "shard elsewhere": (lambda c: c.update(shard="../../secret"), "is not beside it"),
    "frames": (lambda c: c["videos"][0].__setitem__(1, 1 << 40), "a/one.avi"),
    "no number": (lambda c: c["videos"][0].__setitem__(1, "40"), "is no row of an index"),
    "short row": (lambda c: c["videos"][0].pop(), "is damaged"),
    "twice": (lambda c: c["videos"].append(c["videos"][0]), "another shard or row"),
}


@pytest.mark.parametrize("fault", _INDEX_FAULTS)
@pytest.mark.parametrize("kind", ["hdf5", "array_record", "frames"])
def test_a_damaged_index_ends_with_one_line(source, tmp_path, open_at, kind, fault):
    change, message = _INDEX_FAULTS[fault]
    stored_videos.write(kind, tmp_path, source[1])
    _break_index(tmp_path, change)
    with pytest.raises(DataError, match=message) as caught:
        open_at(kind, tmp_path, *source[1])
    assert "\n" not in str(caught.value)


def test_missing_shards_and_videos_are_named(source, tmp_path, open_at):
    stored_videos.write("array_record", tmp_path, source[1])
    storage, dataset, _ = open_at("array_record", tmp_path, "a/other.avi")
    assert _problem(storage, dataset.videos[0])[0] is Problem.MISSING
    next(tmp_path.glob("*-00001-of-00002.array_record")).unlink()
    storage, dataset, _ = open_at("array_record", tmp_path, "b/three.mkv")
    problem, reason = _problem(storage, dataset.videos[0])
    assert problem is Problem.MISSING and "00001-of-00002" in reason
    next(tmp_path.glob("*-00001-of-00002.index.json")).unlink()
    with pytest.raises(DataError, match="1 of 2 shards, number 1 is missing"):
        open_at("array_record", tmp_path, "a/one.avi")
    with pytest.raises(DataError, match="no shard of array_record there"):
        open_at("array_record", tmp_path / "none", "a/one.avi")


@pytest.mark.parametrize(
    ("files", "problem", "reason"),
    [
        (("1.jpg", "2.jpg", "4.jpg", "5.jpg"), Problem.TOO_FEW_FRAMES, "frame 3 is missing, 4 of 5 are there"),
        (("5.jpg", "10.jpg", "20.jpg"), Problem.TOO_FEW_FRAMES, "frame 15 is missing, 3 of 4, 5 apart, are there"),
        (("1.jpg", "01.jpg"), Problem.UNREADABLE, "have the same number"),
        (("img_1.jpg", "mask_1.jpg"), Problem.UNREADABLE, "have the same number"),
        (("1.jpg", "cover.jpg"), Problem.UNREADABLE, "cover.jpg has no frame number"),
        (("1.jpg", "9" * 19 + ".jpg"), Problem.UNREADABLE, "has no frame number"),
        (("notes.txt",), Problem.EMPTY, "without .jpg or .png files"),
        ((), Problem.MISSING, "no folder of frames"),
    ],
)
def test_folders_of_frames_with_a_fault(tmp_path, open_at, files, problem, reason):
    for name in files:
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / "v" / name).write_bytes(b"\xff\xd8 not looked at")
    storage, dataset, _ = open_at("frames", tmp_path, "v.avi")
    found, text = _problem(storage, dataset.videos[0])
    assert found is problem and reason in text


def test_frames_behind_links_pipes_and_outside_are_refused(source, tmp_path, open_at):
    frames, root = source[1], tmp_path / "frames"
    stored_videos.write("frames", root, frames)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes((root / "a/one/00001.jpg").read_bytes())
    for name, make in {"00002": os.symlink, "00003": None}.items():
        (root / f"a/one/{name}.jpg").unlink()
        os.symlink(secret, root / f"a/one/{name}.jpg") if make else os.mkfifo(root / f"a/one/{name}.jpg")
    (root / "a/one/00004.jpg").unlink()
    (root / "a/one/00005.jpg").write_bytes(b"")
    os.symlink(root / "a/one", root / "inside")
    os.symlink(tmp_path, root / "outside")
    paths = ("a/one.avi", "../secret.avi", "/etc.avi", "outside/x.avi", "nul\0.avi")
    storage, dataset, _ = open_at("frames", root, *paths)
    for index, problem in {1: Problem.MISSING, 2: Problem.MISSING, 3: Problem.MISSING, 4: Problem.EMPTY}.items():
        found, text = _problem(storage, dataset.videos[0], [0, index])
        assert found is problem and f"0000{index + 1}.jpg" in text
    for video in dataset.videos[1:]:
        assert _problem(storage, video)[0] is Problem.MISSING


def test_pictures_that_are_too_large_are_not_decoded():
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    with pytest.raises(VideoError, match="100000x100000 pixels") as caught:
        images.decode_image(header)
    assert caught.value.problem is Problem.TOO_LARGE


@pytest.mark.parametrize("kind", ["frames", "hdf5", "array_record"])
def test_videos_that_cannot_be_written(source, tmp_path, kind):
    good = next(stored_videos.encoded(source[1], kind))
    shard = storages.shard_path(kind, tmp_path / "out", 0, 1)
    bad = {
        "leads out of": dataclasses.replace(good, path="../x.avi"),
        "is not a relative path": dataclasses.replace(good, path="/x.avi"),
        "but brings 40 JPEG files": dataclasses.replace(good, path="b.avi", num_frames=39),
        "either JPEG files or an .mp4": dataclasses.replace(good, path="b.avi", jpegs=()),
        "frame of 0 bytes": dataclasses.replace(good, path="b.avi", jpegs=[b""] * 40),
        "came twice": good,
    }
    for message, video in bad.items():
        with pytest.raises(DataError, match=message):
            storages.write_shard(kind, shard, [good, video], sync=False)
    if kind != "array_record":
        with pytest.raises(DataError, match="use the storage array_record"):
            storages.write_shard(kind, shard, [dataclasses.replace(good, path="b.avi", jpegs=(), mp4=b"x")], sync=False)
    if kind == "frames":
        with pytest.raises(DataError, match="only in its suffix"):
            storages.write_shard(kind, shard, [good, dataclasses.replace(good, path="a/one.mp4")], sync=False)
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_file()]
