"""Three small videos and a writer for every storage, in the layouts that users have."""

import io
import pathlib
from fractions import Fraction

import av
import h5py
import numpy as np

from hvt_jax.data import storages
from hvt_jax.data.dataset import Dataset, Video
from hvt_jax.tools import encode
from tests.data import painted_videos, read_videos

SIZE = (48, 64)  # pixels of what is stored
_KINDS = {"avi": ("avi", "mpeg4"), "mp4": ("mp4", "libx264"), "mkv": ("matroska", "libx264")}


def psnr(first, second):
    """Return how alike two arrays of pixels are, in decibel."""
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


def make_source(root):
    """Write videos of 40, 12 and 1 frames with waves in motion; return their data set and frames of `SIZE`."""
    frames = {}
    rows, columns = np.mgrid[:96, :128]
    for number, (name, count) in enumerate({"a/one.avi": 40, "a/two v.mp4": 12, "b/three.mkv": 1}.items()):
        waves = [np.stack([rows + 2 * t, columns - 3 * t, rows - columns + 40 * number], -1) for t in range(count)]
        video = (127 + 120 * np.sin(np.stack(waves) / 18)).astype(np.uint8)
        (root / name).parent.mkdir(exist_ok=True)
        painted_videos.write_video(root / name, list(video), *_KINDS[name[-3:]], {"g": "12", "b": "4M"})
        frames[name] = read_videos.decode_frames(root / name, np.arange(count), *SIZE)
    return Dataset(root, tuple(Video(name, (0,)) for name in frames), {"class": ("any",)}), frames


def encoded(frames, kind):
    """Yield videos as they are stored; `mp4` as segments, all else as JPEG files."""
    for path, video in frames.items():
        head = dict(path=path, num_frames=len(video), fps=25.0, height=SIZE[0], width=SIZE[1])
        if kind == "mp4":
            yield storages.EncodedVideo(**head, mp4=encode.encode_mp4(video, 25.0, 8, 12))
        else:
            yield storages.EncodedVideo(**head, jpegs=encode.encode_jpegs(video, 95))


def encode_png(frame):
    """Return a picture, uint8 [Y, X, 3], as a PNG file."""
    context = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt = *frame.shape[:2], "rgb24"
    context.time_base = Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
    return b"".join(bytes(packet) for packet in context.encode(picture) + context.encode(None))


def write(kind, root, frames):
    """Write the videos in a storage, or in a layout of one that users have; return the name of the storage."""
    root.mkdir(parents=True, exist_ok=True)
    if kind.startswith("hdf5_"):
        _write_hdf5(kind, root, frames)
        return "hdf5"
    if kind.startswith("tfds"):
        _write_tfds(root, frames, tensor=kind == "tfds_tensor")
        return "tfds"
    storage = "array_record" if kind == "mp4" else kind
    videos = list(encoded(frames, kind))
    for number, part in enumerate((videos[:2], videos[2:])):
        summary = storages.write_shard(storage, storages.shard_path(storage, root, number, 2), part, sync=False)
        assert summary.paths == tuple(video.path for video in part)
        assert summary.num_frames == sum(video.num_frames for video in part)
    return storage


def _write_hdf5(kind, root, frames):
    for path, video in frames.items():
        stem = path.rpartition(".")[0]
        jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in encode.encode_jpegs(video, 95)]
        (root / stem).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / (f"{stem}.h5" if kind == "hdf5_own_file" else "all.hdf5"), "a") as file:
            if kind == "hdf5_vlen":
                data = file.create_dataset(stem, (len(video),), h5py.vlen_dtype(np.uint8))
                for number, jpeg in enumerate(jpegs):
                    data[number] = jpeg
            elif kind == "hdf5_padded":
                longest = max(map(len, jpegs))
                file[path] = np.stack([np.pad(jpeg, (0, longest - len(jpeg))) for jpeg in jpegs])
            else:
                file["frames" if kind == "hdf5_own_file" else path] = video


def _write_tfds(root, frames, tensor):
    """Prepare a data set by the real package, which shuffles the examples."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    gcs_utils._is_gcs_disabled = True  # or it asks the network whether somebody has prepared this before
    picture = tfds.features.Image(shape=(*SIZE, 3), encoding_format="jpeg")
    video = tfds.features.Tensor(shape=(None, *SIZE, 3), dtype=np.uint8) if tensor else tfds.features.Sequence(picture)
    features = {"video": video, "label": tfds.features.ClassLabel(names=["any"]), "path": tfds.features.Text()}

    with tfds.core.registered.skip_registration():

        class Waves(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = pathlib.Path(__file__).parent

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for path, video in frames.items():
                    stored = video if tensor else [io.BytesIO(jpeg) for jpeg in encode.encode_jpegs(video, 95)]
                    yield path, {"video": stored, "label": 0, "path": path}

    tfds.disable_progress_bar()
    Waves(data_dir=root, file_format="array_record").download_and_prepare()
