"""What a trained model has learned, as pictures: maps, attention, neighbours, and where videos surprise it."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import jax
import numpy as np

from hvt_jax import disk
from hvt_jax.data import catalog, pipeline
from hvt_jax.data.batches import Batch
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.engine import sharding
from hvt_jax.evaluation import attention_maps, embedding, features, knn, surprise
from hvt_jax.evaluation.embedding import TITLES
from hvt_jax.run import report_pictures
from hvt_jax.run.seals import CheckpointError
from hvt_jax.run.trained import Trained
from hvt_jax.tools import encode, film, interactive, pictures, sheets
from hvt_jax.tools.pictures import Found, Labels

WHAT = ("map", "attention", "neighbours", "surprise")
_NEIGHBOURS, _LEAST_QUERIES = 5, 8
_QUALITY = 70  # of the JPEGs in the page


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
      levels: the lowest first.
      what: of `WHAT`.
      out: folder, made if missing.
      videos: how many are shown one by one.
      most: videos of each split that features are taken of, evenly spread over it.
    """

    levels: tuple[str, ...]
    what: tuple[str, ...]
    out: pathlib.Path
    videos: int
    most: int


class Screen(NamedTuple):
    """Where it is told what goes on.

    Attributes:
      note: takes what was found, a line that stays.
      progress: takes what is being done, until the next.
    """

    note: Callable[[str], object]
    progress: Callable[[str], object]


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """Videos of one split that could be read.

    Attributes:
      dataset: they are of.
      index: int [N], their numbers in it.
      features: by level, float32 [N, D].
      strips: uint8 [N, Y, X, 3].
    """

    dataset: Dataset
    index: np.ndarray
    features: dict[str, np.ndarray]
    strips: np.ndarray

    def labels(self) -> dict[str, Labels]:
        """Return their classes, by label set."""
        names = self.dataset.label_names
        return {name: Labels(self.dataset.labels[name][self.index], names[name]) for name in names}

    def found(self, row: int) -> Found:
        """Return one of them with the names of its classes."""
        classes = tuple(labels.names[labels.number[row]] for labels in self.labels().values())
        return Found(self.strips[row], classes)


def visualize(trained: Trained, request: Request, screen: Screen) -> list[pathlib.Path]:
    """Draw what is asked for, over what an earlier call has drawn of it; return the files.

    Args:
      trained: the model; its data set is read as in training.
      request: what to draw.
      screen: is told what is done and found.

    Raises:
      DataError: if no video can be read, or too few for a map.
      CheckpointError: if the features are not finite.
      OSError: if a file cannot be written.
    """
    test = _load(trained, request, "test", screen)
    request.out.mkdir(parents=True, exist_ok=True)
    for kind in request.what:  # of another checkpoint, perhaps of more videos
        for old in (*request.out.glob(f"{kind}_*.png"), *request.out.glob(f"{kind}_*.mp4")):
            old.unlink()
    files = []
    if {"map", "neighbours"} & {*request.what}:
        encode_videos = trained.compile()
        seen = _look_at(trained, test, encode_videos, "test", screen)
        if "map" in request.what:
            files += _draw_maps(trained, request, seen, screen)
        if "neighbours" in request.what:
            train = _load(trained, request, "train", screen)
            known = _look_at(trained, train, encode_videos, "training", screen)
            files += _draw_neighbours(request, known, seen, screen)
    if {"attention", "surprise"} & {*request.what}:
        files += _draw_videos(trained, request, test, screen)
    facts = {"step": trained.step, "parameters": trained.digest, "levels": request.levels, "test_videos": len(test)}
    known = report_pictures.read_provenance(request.out) | {kind: facts for kind in request.what}
    disk.write_file(request.out / report_pictures.PROVENANCE, json.dumps(known, indent=1).encode())
    return files


def _load(trained: Trained, request: Request, split: Literal["train", "test"], screen: Screen) -> Dataset:
    """Return a split, or `request.most` of its videos, evenly spread over it."""
    dataset = catalog.load_dataset(trained.settings.data, split)
    if len(dataset) <= request.most:
        return dataset
    screen.note(f"{split} split: {request.most} of {len(dataset)} videos, evenly spread; --most takes more")
    return _pick(dataset, film.spread(len(dataset), request.most))


def _pick(dataset: Dataset, numbers: np.ndarray) -> Dataset:
    """Return the data set with the videos of these numbers only."""
    return Dataset(dataset.root, tuple(dataset.videos[number] for number in numbers), dataset.label_names)


def _look_at(trained: Trained, dataset: Dataset, encode_videos: Callable, split: str, screen: Screen) -> Seen:
    """Return features and film strips of all videos of `dataset` that can be read."""
    settings, strips, met = trained.settings, {}, 0
    sharding.check_shared("evaluation.batch_size", settings.evaluation.batch_size)

    def batches() -> Iterator[Batch]:
        size = settings.evaluation.batch_size
        with contextlib.closing(pipeline.evaluation_batches(dataset, settings.data, batch_size=size)) as source:
            for batch in source:
                for row in np.flatnonzero(batch["valid"]):
                    strips[int(batch["index"][row])] = film.film_strip(batch["video"][row])
                yield batch

    def count(batch: Mapping[str, np.ndarray]) -> None:
        nonlocal met
        met += int((batch["index"] >= 0).sum())
        screen.progress(f"{split} videos: {met} of {len(dataset)}")

    found, index = features.extract_features(
        encode_videos, batches(), lambda batch: batch, on_batch=count, should_stop=lambda: False
    )
    if len(index) < len(dataset):
        screen.note(f"{len(dataset) - len(index)} of {len(dataset)} {split} videos could not be read and are left out")
    if not len(index):
        raise DataError(f"none of {len(dataset)} {split} videos in {dataset.root} could be read")
    for level in trained.levels:
        if not np.isfinite(found[level]).all():
            raise CheckpointError(f"step {trained.step}: features of {level} are not finite; give another --checkpoint")
    return Seen(dataset, index, found, np.stack([strips[int(number)] for number in index]))


def _write(path: pathlib.Path, content: bytes) -> pathlib.Path:
    disk.write_file(path, content, sync=False)
    return path


def _draw_maps(trained: Trained, request: Request, seen: Seen, screen: Screen) -> list[pathlib.Path]:
    labels, points, files = seen.labels(), {}, []
    if len(seen.index) < embedding.FEWEST:
        raise DataError(f"a map needs {embedding.FEWEST} test videos that can be read, there are {len(seen.index)}")
    methods = embedding.available_methods()
    for method in methods:
        points[method] = {}
        for level in request.levels:
            screen.progress(f"{TITLES[method]} of {len(seen.index)} videos: {level}")
            points[method][level] = embedding.embed(seen.features[level], method)
        title = f"{TITLES[method]} of {len(seen.index)} test videos, step {trained.step}"
        figure = pictures.draw_maps(title, points[method], labels)
        files.append(_write(request.out / f"map_{method}.png", film.png(figure, dpi=110)))
    if "umap" not in methods:
        screen.note("no UMAP: it needs umap-learn; pip install umap-learn")
    names = [seen.dataset.videos[number].path for number in seen.index]
    strips = [encode.encode_jpegs([strip], _QUALITY)[0] for strip in seen.strips]
    title = f"Test videos at step {trained.step} of {pathlib.Path(trained.source).name}"
    page = interactive.make_page(title, points, labels, names, strips)
    return [*files, _write(request.out / "map.html", page.encode("utf-8"))]


def _draw_neighbours(request: Request, train: Seen, test: Seen, screen: Screen) -> list[pathlib.Path]:
    queries = film.spread(len(test.index), max(request.videos, _LEAST_QUERIES))
    label_sets, files = list(test.dataset.label_names), []
    for level in request.levels:
        found = knn.find_neighbours(train.features[level], test.features[level], _NEIGHBOURS)
        right = []
        for name in label_sets:
            asked, known = (seen.labels()[name].number for seen in (test, train))
            right.append(f"{name} {100 * (known[found.index] == asked[:, None]).mean():.1f} %")
        screen.note(f"neighbours of {len(test.index)} test videos with the same class: {level}: {', '.join(right)}")
        rows = []
        for query in queries:
            near = zip(found.index[query], found.similarity[query], strict=True)
            rows.append((test.found(query), [(train.found(row), float(similarity)) for row, similarity in near]))
        title = f"Nearest training videos by {level} features; of the same class, all in all: {', '.join(right)}"
        drawn = film.png(pictures.draw_neighbours(film.plain(title, 140), rows))
        files.append(_write(request.out / f"neighbours_{level}.png", drawn))
    return files


def _draw_videos(trained: Trained, request: Request, test: Dataset, screen: Screen) -> list[pathlib.Path]:
    """Draw attention and surprise of a few videos."""
    batch = _read(trained, test, request.videos)
    given = (trained.params, trained.stats, batch["video"])
    made = []
    if "attention" in request.what and trained.settings.model.encoder != "hierarchy":
        screen.note(f"no attention: {trained.settings.model.encoder} has no transformer")
    elif "attention" in request.what:
        screen.progress(f"attention in {len(batch['video'])} videos")
        found = jax.device_get(jax.jit(attention_maps.build_attention(trained.definition))(*given))
        found = {level: found[level] for level in request.levels if level in found}
        if found:
            made += [("attention", n, sheet) for n, sheet in enumerate(sheets.attention(trained, test, batch, found))]
    if "surprise" in request.what and not trained.definition.hierarchy.edges:
        screen.note(f"no surprise: method {trained.settings.method} predicts nothing")
    elif "surprise" in request.what:
        screen.progress(f"surprise in {len(batch['video'])} videos")
        errors = jax.device_get(jax.jit(surprise.build_surprise(trained.definition))(*given, batch["frame_valid"]))
        errors = {str(edge): errors[str(edge)] for edge in trained.definition.hierarchy.edges}
        for edge, of_edge in errors.items():
            error, blind = (np.nanmean(of_edge[name]) for name in ("error", "blind"))
            screen.note(f"surprise: {edge}: mean error {error:.3f}, without knowledge {blind:.3f}")
        wanted = [edge for edge in trained.definition.hierarchy.edges if edge.source in request.levels]
        if wanted:
            made += [("surprise", n, s) for n, s in enumerate(sheets.surprise(trained, test, batch, errors, wanted))]
    files = []
    for kind, row, sheet in made:
        screen.progress(f"{kind}: {len(files) // 2 + 1} of {len(made)} videos drawn")
        files += [_write(request.out / f"{kind}_{row:02d}{end}", content) for end, content in sheets.draw(sheet)]
    return files


def _read(trained: Trained, test: Dataset, count: int) -> Batch:
    """Return a batch of `count` readable test videos, evenly spread, or of as many as there are."""
    numbers = film.spread(len(test), 2 * count)  # some to spare, if there are bad ones
    chosen = _pick(test, numbers)
    batch = next(pipeline.evaluation_batches(chosen, trained.settings.data, batch_size=len(chosen)))
    rows = np.flatnonzero(batch["valid"])
    if not len(rows):
        raise DataError(f"none of {len(chosen)} test videos in {test.root} could be read")
    rows = rows[film.spread(len(rows), count)]
    batch = {name: values[rows] for name, values in batch.items()}
    return batch | {"index": numbers[batch["index"]]}
