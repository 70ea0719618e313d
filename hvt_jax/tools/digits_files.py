"""Write the `digits` data set as video files in UCF101's layout, so that an interrupted call can be continued.

    videos/<Motion>/v_<Motion>_g01_c01.avi    annotations/{classInd,trainlist01,testlist01,trainlist02,testlist02}.txt
    factors.csv                               moving_digits.json: what was asked for, and whether all of it is there

Split 2 is for choosing settings: it leaves the test videos of split 1 out and tests on some of its training videos,
with handwriting of their own.

Every frame is coded on its own with a fixed quantiser. Coding differences between frames would leave trails behind the
digit, and a trail tells the direction from a single frame.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
from collections.abc import Callable

import av
import numpy as np

from hvt_jax import disk
from hvt_jax.data import parallel
from hvt_jax.data.dataset import DataError
from hvt_jax.tools import moving_digits, subprocess_pool

FRAMES_PER_SECOND = 25
CODECS = {
    "mpeg4": ("avi", "mpeg4", {"qmin": "3", "qmax": "3", "g": "1"}),
    "h264": ("mp4", "libx264", {"qp": "20", "g": "1", "preset": "veryfast"}),
}
_SECONDS, _MEMORY_BYTES = 60.0, 4 * 2**30  # for one video, both far more than it takes
_ELSEWHERE = "name another folder with --root"
_MANIFEST = "digits.json"
_LISTS = tuple(f"annotations/{name}.txt" for name in ("classInd", "trainlist01", "testlist01"))
_VALIDATION_LISTS = ("annotations/trainlist02.txt", "annotations/testlist02.txt")  # empty where videos are few
_FORMAT = 1  # raise it with every change of the videos


@dataclasses.dataclass(frozen=True)
class DigitsSpec:
    """What to make; equal specs give equal bytes. `size` is the height and width in pixels."""

    num_videos: int
    size: int
    codec: str
    seed: int


def make_digits(root: str | os.PathLike, spec: DigitsSpec, on_video: Callable[[int], object] | None = None) -> bool:
    """Write the data set, or what of it is missing; return False if all of it was there already.

    A file counts as there if it is not empty; more would take as long as making it anew.

    Args:
      root: folder of the data set, made if it is not there.
      spec: what to make.
      on_video: is told how many videos are there.

    Raises:
      DataError: if the spec is impossible, or the folder holds anything but this data set or cannot be written.
    """
    root = pathlib.Path(root)
    _check_spec(spec)
    try:
        if _claim_folder(root, spec) and not _missing(root, spec):
            return False
        _make(root, spec, on_video)
    except OSError as error:
        raise DataError(disk.explain(error, error.filename or root, _ELSEWHERE)) from error
    return True


def _make(root: pathlib.Path, spec: DigitsSpec, on_video: Callable[[int], object] | None) -> None:
    _write_manifest(root, spec, complete=False)
    images, labels = moving_digits.load_handwriting()
    clips = moving_digits.plan_clips(spec.num_videos, spec.seed, labels)
    for motion in moving_digits.MOTIONS:
        (root / "videos" / motion).mkdir(parents=True, exist_ok=True)
    factors: list[list[str]] = [[]] * len(clips)
    items, limits = [(clip, images[clip.sample]) for clip in clips], subprocess_pool.Limits(_SECONDS, _MEMORY_BYTES)
    outcomes = subprocess_pool.run(
        functools.partial(_write_clip, root, spec), items, workers=parallel.available_cores(), limits=limits
    )
    with contextlib.closing(outcomes):
        for done, (position, outcome) in enumerate(outcomes, start=1):
            if isinstance(outcome, subprocess_pool.Lost):
                raise DataError(outcome.reason)
            factors[position] = outcome
            if on_video:
                on_video(done)
    _write_annotations(root, spec, clips, factors)
    _write_manifest(root, spec, complete=True)


def _missing(root: pathlib.Path, spec: DigitsSpec) -> bool:
    """Return whether a file of the data set is missing or empty."""
    suffix = CODECS[spec.codec][0]
    videos = [f"videos/{motion}/{name}.{suffix}" for motion, name in moving_digits.clip_names(spec.num_videos)]
    has_lists = all((root / path).exists() for path in _VALIDATION_LISTS)
    return not (has_lists and all(_is_there(root / path) for path in (*videos, *_LISTS, "factors.csv")))


def _is_there(path: pathlib.Path) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _check_spec(spec: DigitsSpec) -> None:
    if spec.codec not in CODECS:
        raise DataError(f"--codec={spec.codec} is unknown; known: {', '.join(CODECS)}")
    if spec.size < 32 or spec.size % 2 or spec.size > 1024:
        raise DataError(f"--size={spec.size}, but must be an even number of pixels from 32 to 1024")
    if spec.num_videos < 2 * len(moving_digits.MOTIONS):
        raise DataError(
            f"--num_videos={spec.num_videos}, but each split of {len(moving_digits.MOTIONS)} motions needs one: 16"
        )
    if spec.seed < 0:
        raise DataError(f"--seed={spec.seed}, but must not be negative")


def _claim_folder(root: pathlib.Path, spec: DigitsSpec) -> bool:
    """Make sure that the folder is ours and of this spec; return whether it was finished once."""
    manifest = root / _MANIFEST
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text())
            complete = found.pop("complete")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{manifest}: is damaged; delete the folder {root} and make it again") from error
        asked = _describe(spec)
        for key in asked:
            if found.get(key) != asked[key]:
                detail = f"was made with {key}={found.get(key)}, not {asked[key]}"
                raise DataError(f"{root}: {detail}; use another --root or delete the folder")
        return complete
    # A death while the manifest was first written leaves nothing but its beginning.
    if root.exists() and (not root.is_dir() or any(path.name != f"{_MANIFEST}.tmp" for path in root.iterdir())):
        raise DataError(f"--root={root}: holds something else already; name a new folder")
    root.mkdir(parents=True, exist_ok=True)
    return False


def _describe(spec: DigitsSpec) -> dict[str, int | str]:
    return {"format": _FORMAT, **dataclasses.asdict(spec)}


def _write_manifest(root: pathlib.Path, spec: DigitsSpec, complete: bool) -> None:
    _write_bytes(root / _MANIFEST, json.dumps({**_describe(spec), "complete": complete}, indent=1).encode())


def _write_clip(
    root: pathlib.Path, spec: DigitsSpec, item: tuple[moving_digits.Clip, np.ndarray], renew: subprocess_pool.Renew
) -> list[str]:
    """Write one video unless it is there and not empty, and return its row of factors.csv."""
    del renew
    clip, image = item
    path = root / _video_path(clip, spec)
    video, track = moving_digits.render(image, clip.motion, spec.size, clip.seed)
    if not _is_there(path):
        _write_bytes(path, encode_video(video, spec.codec))
    return [path.name, str(clip.digit), clip.motion, f"{track.speed:.5f}", f"{track.start:.5f}", str(clip.seed)]


def encode_video(video: np.ndarray, codec: str, options: dict[str, str] | None = None) -> bytes:
    """Return a video, uint8 [T, Y, X, 3], as the bytes of a file at 25 frames per second.

    Args:
      video: the frames; Y and X must be even.
      codec: `mpeg4` makes an .avi file, `h264` an .mp4 file.
      options: of the encoder, over the defaults.
    """
    container_format, encoder, defaults = CODECS[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format, container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoder, rate=FRAMES_PER_SECOND, options={**defaults, **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1  # more threads may give other bytes
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _video_path(clip: moving_digits.Clip, spec: DigitsSpec) -> str:
    return f"videos/{clip.motion}/{clip.name}.{CODECS[spec.codec][0]}"


def _write_annotations(
    root: pathlib.Path, spec: DigitsSpec, clips: list[moving_digits.Clip], factors: list[list[str]]
) -> None:
    number = {motion: position for position, motion in enumerate(moving_digits.MOTIONS, start=1)}
    num_groups = max(clip.group for clip in clips)
    lists: dict[str, list[str]] = {pathlib.PurePath(path).stem: [] for path in (*_LISTS, *_VALIDATION_LISTS)}
    lists["classInd"] = [f"{number[motion]} {motion}" for motion in moving_digits.MOTIONS]
    for clip in clips:
        path = _video_path(clip, spec).removeprefix("videos/")
        if moving_digits.is_test_group(clip.group, num_groups):
            lists["testlist01"].append(path)
            continue
        lists["trainlist01"].append(f"{path} {number[clip.motion]}")
        if moving_digits.is_validation_group(clip.group, num_groups):
            lists["testlist02"].append(path)
        else:
            lists["trainlist02"].append(lists["trainlist01"][-1])
    (root / "annotations").mkdir(exist_ok=True)
    for path, rows in zip((*_LISTS, *_VALIDATION_LISTS), lists.values(), strict=True):
        _write_bytes(root / path, "".join(f"{row}\n" for row in rows).encode())
    table = io.StringIO(newline="")
    header = ["video", "digit", "motion", "speed", "start", "seed", "sample"]
    samples = [str(clip.sample) for clip in clips]
    rows = [[*row, sample] for row, sample in zip(factors, samples, strict=True)]
    csv.writer(table, lineterminator="\n").writerows([header, *rows])
    _write_bytes(root / "factors.csv", table.getvalue().encode())


def _write_bytes(path: pathlib.Path, content: bytes) -> None:
    with disk.refusals_as(DataError, path, _ELSEWHERE):
        disk.write_file(path, content, sync=False)
