"""`digits`: videos of handwritten digits in motion, in which only the order of frames tells the motion.

The classes are four pairs of motions, each the other one backwards in time. A motion runs round a closed track (the
frame is a torus, the circle a circle, growth begins again when it has gone all the way) from a start drawn evenly: so
any single frame, and any set of equally spaced frames, is as likely under one motion of a pair as under the other.
"""

import dataclasses

import numpy as np

NUM_FRAMES = 40
PAIRS = (("Right", "Left"), ("Down", "Up"), ("Clockwise", "CounterClockwise"), ("Grow", "Shrink"))
MOTIONS = tuple(sorted(motion for pair in PAIRS for motion in pair))
_NUM_GROUPS = 25  # as UCF101; a group has handwriting of its own and lies in one split
_TEST_SHARE = 0.28  # groups 1-7 of 25, as in UCF101's first split
_VALIDATION_SHARE = 0.16  # groups 8-11
_SPEEDS = (0.0125, 0.025)  # rounds per frame; at 64 pixels 0.8-1.6 pixels
_SIZE = (0.32, 0.42)  # of a digit, as a share of the frame
_GROWN_SIZE = (0.25, 0.55)  # smallest and largest size while growing


@dataclasses.dataclass(frozen=True)
class Clip:
    """One video to be made; `sample` is the number of the handwriting, `seed` draws everything else."""

    name: str
    motion: str
    group: int
    digit: int
    sample: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Track:
    """The way of a digit, in shares of the frame: its centre and size in every frame, float [frames].

    Attributes:
      x: from left to right.
      y: from top to bottom.
      size: height and width of the digit.
      start: place of the first frame on the closed track, 0-1.
      speed: rounds of the track per frame, without sign.
    """

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    start: float
    speed: float


def load_handwriting() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's bundled digits: images float32 [1797, 8, 8] in 0-1 and labels int [1797].

    Source: Alpaydin, Kaynak: "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """
    from sklearn import datasets  # takes seconds to import and only making the data needs it

    digits = datasets.load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def plan_clips(num_videos: int, seed: int, labels: np.ndarray) -> list[Clip]:
    """Return the videos to make: motions in turn, digits balanced within each motion and split.

    Args:
      num_videos: at least 16, so that every motion has a video in either split.
      seed: of everything.
      labels: integers [samples], digit of every handwriting sample.
    """
    per_motion, num_groups = _share_out(num_videos)
    rng = np.random.default_rng(seed)
    pools = _deal_handwriting(labels, num_groups, rng)
    clips = []
    for motion, count in zip(MOTIONS, per_motion, strict=True):
        numbers = np.arange(count)
        groups, places = numbers % num_groups + 1, numbers // num_groups + 1
        digits = np.empty(count, int)
        for part in (is_test_group(groups, num_groups), ~is_test_group(groups, num_groups)):
            digits[part] = rng.permutation(np.arange(part.sum()) % 10)
        for group, place, digit in zip(groups.tolist(), places.tolist(), digits.tolist(), strict=True):
            name = _name(motion, group, place)
            sample = int(rng.choice(pools[group][digit]))
            clips.append(Clip(name, motion, group, digit, sample, int(rng.integers(2**31))))
    return sorted(clips, key=lambda clip: (MOTIONS.index(clip.motion), clip.group, clip.name))


def clip_names(num_videos: int) -> list[tuple[str, str]]:
    """Return (motion, name) of the videos that `plan_clips` plans; they depend on the number alone."""
    per_motion, num_groups = _share_out(num_videos)
    return [
        (motion, _name(motion, number % num_groups + 1, number // num_groups + 1))
        for motion, count in zip(MOTIONS, per_motion, strict=True)
        for number in range(count)
    ]


def _share_out(num_videos: int) -> tuple[list[int], int]:
    """Return the number of videos of each motion, and the number of groups."""
    per_motion = [len(range(position, num_videos, len(MOTIONS))) for position in range(len(MOTIONS))]
    return per_motion, min(_NUM_GROUPS, min(per_motion))


def _name(motion: str, group: int, place: int) -> str:
    return f"v_{motion}_g{group:02d}_c{place:02d}"


def is_test_group(group: np.ndarray | int, num_groups: int) -> np.ndarray | bool:
    """Return which groups, numbered from 1, are for testing."""
    return group <= max(1, round(num_groups * _TEST_SHARE))


def is_validation_group(group: np.ndarray | int, num_groups: int) -> np.ndarray | bool:
    """Return which groups that are not for testing are for choosing settings."""
    first = max(1, round(num_groups * _TEST_SHARE)) + 1
    return (group >= first) & (group < first + max(1, round(num_groups * _VALIDATION_SHARE)))


def _deal_handwriting(
    labels: np.ndarray, num_groups: int, rng: np.random.Generator
) -> dict[int, dict[int, np.ndarray]]:
    """Return group → digit → samples; no sample is in two groups."""
    shuffled = {digit: rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)}
    return {
        group: {digit: samples[group - 1 :: num_groups] for digit, samples in shuffled.items()}
        for group in range(1, num_groups + 1)
    }


def draw_track(motion: str, rng: np.random.Generator) -> Track:
    """Return a random track; with equal states of `rng`, the two motions of a pair are reversals of each other."""
    speed, phase = rng.uniform(*_SPEEDS), rng.uniform()
    across, size, radius = rng.uniform(0.3, 0.7), rng.uniform(*_SIZE), rng.uniform(0.2, 0.26)
    center = rng.uniform(0.45, 0.55, 2)
    rounds = (phase + speed * np.arange(NUM_FRAMES)) % 1
    pair = next(pair for pair in PAIRS if motion in pair)
    x, y, sizes = np.full(NUM_FRAMES, across), np.full(NUM_FRAMES, across), np.full(NUM_FRAMES, size)
    if pair[0] == "Right":
        x = rounds
    elif pair[0] == "Down":
        y = rounds
    elif pair[0] == "Clockwise":  # on a screen y points down, so a rising angle turns clockwise
        x = center[0] + radius * np.cos(2 * np.pi * rounds)
        y = center[1] + radius * np.sin(2 * np.pi * rounds)
    else:
        x, y = np.full((2, NUM_FRAMES), center[:, None])
        sizes = _GROWN_SIZE[0] * (_GROWN_SIZE[1] / _GROWN_SIZE[0]) ** rounds
    order = slice(None) if motion == pair[0] else slice(None, None, -1)
    return Track(x[order], y[order], sizes[order], float(rounds[order][0]), float(speed))


def render(image: np.ndarray, motion: str, size: int, seed: int) -> tuple[np.ndarray, Track]:
    """Return the video of one digit, uint8 [frames, size, size, 3], and its track.

    With equal image and seed the two motions of a pair hold the same frames in opposite order.

    Args:
      image: float [8, 8] in 0-1.
      motion: one of `MOTIONS`.
      size: height and width in pixels.
      seed: of the track, the background and the colour.
    """
    rng = np.random.default_rng(seed)
    track = draw_track(motion, rng)
    background = _draw_background(size, rng)[None]
    color = rng.uniform(180, 255, 3)
    rows = _spread(track.y, track.size, size)
    columns = _spread(track.x, track.size, size)
    opacity = np.clip(1.25 * rows @ image @ columns.swapaxes(1, 2), 0, 1)[..., None]
    return np.round(background * (1 - opacity) + color * opacity).astype(np.uint8), track


def _spread(center: np.ndarray, extent: np.ndarray, size: int) -> np.ndarray:
    """Return the weight of each of 8 image cells in each pixel of one axis, [frames, size, 8], round a torus."""
    pixels = (np.arange(size) + 0.5) / size
    offset = (pixels - center[:, None] + 0.5) % 1 - 0.5
    cells = offset / extent[:, None] * 8 + 3.5
    return _cubic(cells[..., None] - np.arange(8))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return the cubic B-spline, which makes smooth strokes of the 8x8 cells."""
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.clip(2 - x, 0, None) ** 3 / 6)


def _draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a still texture darker than any digit, float [size, size, 3]: coarse patches, finer ones and grain."""
    texture = np.zeros((size, size, 3))
    for cells, strength in ((4, 30), (12, 15), (size, 4)):
        noise = rng.normal(0, strength, (cells, cells, 3))
        place = ((np.arange(size) + 0.5) / size * cells)[:, None] - 0.5 - np.arange(cells)
        weights = _cubic(place) if cells < size else np.eye(size)
        texture += np.einsum("yi,xj,ijc->yxc", weights, weights, noise, optimize=True)
    return np.clip(texture + rng.uniform(50, 110, 3), 0, 150)
