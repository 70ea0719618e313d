"""Data sets that TensorFlow Datasets prepared with `file_format="array_record"`; needs its package, not TensorFlow.

A video is the example at position 7 of a split, `train/7`, or the one whose text feature `path` is `Video.path`. Its
frames are the feature `video` (`Video`, `Sequence(Image)` or `Tensor` [T, Y, X, 3] uint8) or `image`, one frame.

Records are parsed here, by the package's own protocol buffer: `tfds.data_source` decodes every frame of a video, cannot
open the feature `Video` without TensorFlow (4.9.10), and imports whatever class features.json names.
"""

import dataclasses
import functools
import json
import logging
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from hvt_jax.data import images
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.images import StoredFrames
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_FRAMES, LruCache, Reader, VideoInfo, faults_named
from hvt_jax.data.storages.shards import OPEN_FILES
from hvt_jax.settings import DataSettings

_LOG = logging.getLogger(__name__)
_MOST_EXAMPLES = 1 << 31
_NUMBERED = re.compile(r"([\w.-]+)/(\d{1,10})")


@dataclasses.dataclass(frozen=True)
class TfdsStorage:
    """Reads examples from shards that stay open, a bounded number of them.

    Attributes:
      timeout_seconds: for all use of one reader.
      shards: of every split, names and how many examples stand before each, one number more than there are shards.
      pixels: [Y, X, 3] of a `Tensor` feature, empty for encoded frames; 0 where examples differ.
      positions: `Video.path` → (split, position) for the paths that are not such pairs themselves.
      files: the open shards.
    """

    timeout_seconds: float
    shards: dict[str, tuple[list[str], np.ndarray]]
    pixels: tuple[int, ...]
    positions: dict[str, tuple[str, int]]
    files: LruCache

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one example; see `Storage`."""
        match = _NUMBERED.fullmatch(video.path)
        split, position = self.positions.get(video.path) or (match and (match[1], int(match[2]))) or ("", 0)
        names, before = self.shards.get(split, ([], np.zeros(1, np.int64)))
        if position >= before[-1]:
            raise VideoError(Problem.MISSING, f"no example has this path; split {split!r} has {before[-1]} examples")
        shard = int(np.searchsorted(before, position, side="right")) - 1
        with faults_named(f"{names[shard]} cannot be read"):
            (record,) = self.files.get(names[shard]).read([position - int(before[shard])])
            return self._reader(_features(record))

    def _reader(self, features) -> StoredFrames:
        name = "video" if "video" in features else "image"
        if name not in features:
            raise VideoError(
                Problem.NO_VIDEO_STREAM, f"an example has no feature video or image, only {list(features)}"
            )
        frames = list(features[name].bytes_list.value)
        if features[name].WhichOneof("kind") == "int64_list":
            shape = [-1, *self.pixels]
            if min(self.pixels, default=0) < 1 and f"{name}/shape" in features:
                shape = list(features[f"{name}/shape"].int64_list.value)
            if min(shape[1:], default=0) < 1:
                raise VideoError(Problem.UNREADABLE, f"features.json does not say what shape the tensor {name} has")
            frames = np.array(features[name].int64_list.value, np.uint8).reshape(-1, *shape[-3:])
        if not len(frames):
            raise VideoError(Problem.EMPTY, "an example without frames")
        if len(frames) > MAX_FRAMES:
            raise VideoError(Problem.TOO_LARGE, f"{len(frames)} frames, more than {MAX_FRAMES}")
        size = frames[0].shape[:2] if isinstance(frames, np.ndarray) else images.image_size(frames[0])[:2]
        fetch = functools.partial(_pick, frames)
        return StoredFrames(VideoInfo.stored(len(frames), 0.0, *size), fetch, self.timeout_seconds)


def _pick(frames: list[bytes] | np.ndarray, numbers: np.ndarray) -> Iterator[bytes | np.ndarray]:
    return (frames[number] for number in numbers.tolist())


def _features(record: bytes):
    """Return the features of an example by name."""
    # Late: few need it. This part of the package brings neither TensorFlow nor jax.
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def open_storage(root: pathlib.Path, settings: DataSettings, dataset: Dataset) -> TfdsStorage:
    """Return the storage of the data set prepared in `root`.

    Raises:
      DataError: if no such data set, or not one of array_record, is there.
    """
    root = _find_root(root)
    try:
        shards = _read_shards(root)
        pixels = _tensor_shape(json.loads((root / "features.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{root}: dataset_info.json or features.json is damaged ({error}); prepare it again") from error
    storage = TfdsStorage(
        settings.video_timeout_seconds, shards, pixels, {}, LruCache(functools.partial(_open, root), OPEN_FILES)
    )
    if not all(_is_position(video.path, shards) for video in dataset.videos):
        storage.positions.update(_read_paths(storage, root))
    return storage


def _is_position(path: str, shards: dict[str, tuple[list[str], np.ndarray]]) -> bool:
    match = _NUMBERED.fullmatch(path)
    return match is not None and match[1] in shards


def _find_root(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder with dataset_info.json, at most three below: <data set>/<config>/<version>."""
    found = sorted(path for depth in range(4) for path in folder.glob("*/" * depth + "dataset_info.json"))
    if len(found) != 1:
        more = f"{len(found)} of them, such as {found[0].parent}" if found else "none there"
        raise DataError(f"data.storage_root = {str(folder)!r}: name the folder of one dataset_info.json ({more})")
    return found[0].parent


def _read_shards(root: pathlib.Path) -> dict[str, tuple[list[str], np.ndarray]]:
    info = json.loads((root / "dataset_info.json").read_text(encoding="utf-8"))
    if info.get("fileFormat") != "array_record":
        remedy = "prepare it with file_format='array_record'"
        raise DataError(f"{root}: holds files of {info.get('fileFormat')}, which give no random access; {remedy}")
    shards = {}
    for split in info["splits"]:
        counts = [int(count) for count in split["shardLengths"]]
        if min(counts, default=0) < 0 or sum(counts) > _MOST_EXAMPLES:
            raise ValueError(f"split {split['name']!r} has {sum(counts)} examples")
        stem = f"{info['name']}-{split['name']}.array_record"
        names = [f"{stem}-{number:05d}-of-{len(counts):05d}" for number in range(len(counts))]
        if any(pathlib.PurePath(name).name != name for name in names):
            raise ValueError(f"{stem!r} is no name of a file")
        shards[split["name"]] = names, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return shards


def _tensor_shape(features: dict) -> tuple[int, ...]:
    described = features["featuresDict"]["features"]
    dimensions = (described.get("video") or described.get("image") or {}).get("tensor", {}).get("shape", {})
    return tuple(max(int(size), 0) for size in dimensions.get("dimensions", [])[-3:])


def _read_paths(storage: TfdsStorage, root: pathlib.Path) -> dict[str, tuple[str, int]]:
    """Return the position of every example by its text feature `path`, once reading through all of them."""
    positions: dict[str, tuple[str, int]] = {}
    for split, (names, before) in storage.shards.items():
        for name, first, last in zip(names, before[:-1].tolist(), before[1:].tolist(), strict=True):
            _LOG.info("reading the paths of %s", root / name)
            for position in range(first, last):
                try:
                    with faults_named(f"{name} cannot be read"):
                        features = _features(storage.files.get(name).read([position - first])[0])
                except VideoError as error:
                    raise DataError(f"{root / name}: example {position - first}: {error}; prepare it again") from error
                if "path" not in features:
                    raise DataError(
                        f"{root}: examples have no text feature `path`; name videos {split}/0, {split}/1..."
                    )
                positions[features["path"].bytes_list.value[0].decode()] = split, position
    return positions


def _open(root: pathlib.Path, name: str) -> ArrayRecordReader:
    if not (root / name).is_file():
        raise VideoError(Problem.MISSING, f"no such shard: {name}")
    return ArrayRecordReader(str(root / name), "readahead_buffer_size:0")
