"""What an evaluation leaves behind: results.json, report.md, and confusion matrices as numbers and pictures."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hvt_jax import disk
from hvt_jax.data.dataset import DataError
from hvt_jax.evaluation import confusion_pictures, measures
from hvt_jax.evaluation.retrieval import DEPTHS
from hvt_jax.hierarchy import LEVELS

COLUMNS = ("protocol", "level", "labels", "top-1 %", "untrained", "gain", "chance", "top-5 %", "pairs %")
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of JSON that is not what we wrote
_ELSEWHERE = "give another place with --out"
ORDER = ("knn", "retrieval", "linear", "mlp", "attentive", "finetune")


class Results:
    """The file results.json of a folder; one table of it is of this setup.

    Attributes:
      setup: what all its numbers have in common, and "protocols": {protocol: {level: entry}}.
      damaged: whether the file held what cannot be shown; it is kept as results.damaged.json before it is replaced.
    """

    def __init__(self, folder: pathlib.Path, setup: Mapping[str, Any], label_names: Mapping[str, tuple[str, ...]]):
        """Read what is there; what cannot be read is left out.

        Args:
          folder: made when something is written.
          setup: JSON values.
          label_names: class names of every label set.
        """
        self._label_names = label_names
        self._folder, self._path = folder, folder / "results.json"
        self._key = hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()[:12]
        self._description = dict(setup)
        self.damaged = False
        self._read()

    def _read(self) -> None:
        """Take in what the file holds now: another process may have put something there."""
        self._setups = self._read_setups()
        self.setup = self._setups.setdefault(self._key, {**self._description, "protocols": {}})

    def _read_setups(self) -> dict[str, dict]:
        try:
            setups = json.loads(self._path.read_text())["setups"]
            found = {key: _sound(setup) for key, setup in setups.items()}
        except OSError:
            return {}
        except _DAMAGE:
            self.damaged = True
            return {}
        self.damaged = found != setups
        return {key: setup for key, setup in found.items() if setup}

    def hash_of(self, protocol: str, level: str) -> str | None:
        """Return the hash of an entry, None if there is no such entry."""
        entry = self.setup["protocols"].get(protocol, {}).get(level, {})
        whole = all(level in self._tables(protocol, label_set) for label_set in entry.get("label_sets", ()))
        return entry.get("hash") if whole else None

    def keep(self, protocol: str, level: str, entry: dict[str, Any], confusions: Mapping[str, np.ndarray]) -> None:
        """Put an entry into results.json; its confusion matrices and accuracies per class go into files beside it.

        Raises:
          DataError: if they cannot be written.
        """
        with self._alone():
            for label_set, counts in confusions.items():
                path = self._confusion_file(protocol, label_set)
                tables = _read_json(path) | {"classes": list(self._label_names[label_set])}
                tables[level] = {"counts": counts.tolist(), "per_class_top1": measures.per_class(counts)}
                self._write(path, _to_json(tables, indent=None))
            self._read()
            if self.damaged:
                self._write(self._path.with_suffix(".damaged.json"), self._path.read_bytes())
            levels = self.setup["protocols"].setdefault(protocol, {})
            levels[level] = json.loads(_to_json(entry))  # as it is read again
            self.setup["protocols"][protocol] = {name: levels[name] for name in LEVELS if name in levels}
            self._write(self._path, _to_json({"setups": self._setups}))

    def write_report(self) -> None:
        """Write report.md of all setups, and the pictures of this one.

        Raises:
          DataError: if they cannot be written.
        """
        with self._alone():
            for protocol, levels in self.setup["protocols"].items():
                for label_set, names in self._label_names.items():
                    known = self._tables(protocol, label_set)
                    tables = {level: known[level] for level in levels if level in known}
                    if tables:
                        picture = confusion_pictures.draw(f"{protocol}, {label_set}", tables, names)
                        self._write(self._confusion_file(protocol, label_set).with_suffix(".png"), picture)
            text = "\n".join(_report(self._setups, self._folder))
            self._write(self._folder / "report.md", text.encode())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other processes that write these files; what they wrote is not lost."""
        with (
            disk.refusals_as(DataError, self._folder, _ELSEWHERE),
            disk.locked(self._folder, DataError, wait=True),
        ):
            yield

    def _tables(self, protocol: str, label_set: str) -> dict[str, np.ndarray]:
        """Return the confusion matrices that are there, and sound, by level."""
        shape, found = (len(self._label_names[label_set]),) * 2, {}
        for level, table in _read_json(self._confusion_file(protocol, label_set)).items():
            with contextlib.suppress(*_DAMAGE):
                counts = np.array(table["counts"])
                if counts.shape == shape and counts.dtype.kind == "i":
                    found[level] = counts
        return found

    def _confusion_file(self, protocol: str, label_set: str) -> pathlib.Path:
        return self._folder / "confusion" / self._key / f"{protocol}_{_file_name(label_set)}.json"

    def _write(self, path: pathlib.Path, content: bytes) -> None:
        with disk.refusals_as(DataError, path, _ELSEWHERE):
            path.parent.mkdir(parents=True, exist_ok=True)
            disk.write_file(path, content)


def rows(setup: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of COLUMNS of every protocol, level and label set of a setup."""
    for protocol, level, label_set, numbers in _entries(setup):
        untrained = numbers["untrained"]
        yield (
            protocol,
            level,
            label_set,
            f"{numbers['top1']:.1f} [{_span(numbers['interval'])}]",
            f"{untrained['top1']:.1f} [{_span(untrained['interval'])}]",
            f"[{_span(numbers['gain_interval'], '+')}]",
            f"{numbers['chance']:.1f}",
            f"{numbers['top5']:.1f} ({untrained['top5']:.1f})",
            f"{numbers['within_pairs']:.1f} ({untrained['within_pairs']:.1f})" if "within_pairs" in numbers else "",
        )


def recall_rows(setup: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield level, label set and R@k of retrieval, each with the untrained network and chance in brackets."""
    for protocol, level, label_set, numbers in _entries(setup):
        if protocol == "retrieval":
            cells = []
            for k in map(str, DEPTHS):
                beside = f"{numbers['untrained']['recall'][k]:.1f}; {numbers['recall_chance'][k]:.1f}"
                cells.append(f"{numbers['recall'][k]:.1f} ({beside})")
            yield (level, label_set, *cells)


def describe(setup: Mapping[str, Any]) -> str:
    """Return one line on what was evaluated."""
    videos = setup["videos"]
    return (
        f"{setup['source']}, step {setup['step']}; {setup['data']}: {videos['train']} training, {videos['test']} test "
        f"videos, {setup['views']} views of a test video (clips x crops)"
    )


def _entries(setup: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    for protocol in ORDER:
        for level, entry in setup["protocols"].get(protocol, {}).items():
            for label_set, numbers in entry["label_sets"].items():
                yield protocol, level, label_set, numbers


def _report(setups: Mapping[str, Mapping], folder: pathlib.Path) -> Iterator[str]:
    yield "# Evaluation\n"
    yield (
        "Accuracies in %. In square brackets 95 % intervals by the bootstrap over test videos; *gain* is trained minus "
        "untrained on the same videos. *Untrained* is the same network before its first step; under `finetune` "
        "it is trained by the labels alone. *pairs*: the true class against its reverse in time, chance 50. Of `top-5` "
        "and *pairs* the untrained network stands in brackets.\n"
    )
    for key, setup in setups.items():
        yield from _section(setup)
        pictures = sorted((folder / "confusion" / key).glob("*.png"))
        for picture in pictures:
            yield f"![{picture.stem}]({picture.relative_to(folder).as_posix()})\n"


def _section(setup: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines on one setup, but its pictures."""
    yield f"## {describe(setup)}\n"
    yield from _table(COLUMNS, rows(setup))
    found = list(recall_rows(setup))
    if found:
        yield "\nRetrieval: share of test videos with a training video of their class among the k nearest "
        yield "(untrained; chance).\n"
        yield from _table(("level", "labels", *(f"R@{k}" for k in DEPTHS)), found)
    yield ""
    for protocol, level, label_set, numbers in _entries(setup):
        details = ", ".join(f"{name} {_shown(value)}" for name, value in numbers["details"].items())
        check = f"; scikit-learn: {numbers['sklearn']['top1']:.1f} %" if "sklearn" in numbers else ""
        if details:
            yield f"- {protocol}, {level}, {label_set}: {details}{check}"
    yield ""


def _sound(setup: Any) -> dict[str, Any] | None:
    """Return a setup with the entries that can be shown; None if it says not what it is of."""
    try:
        found = {**setup, "protocols": {}}
        describe(found)
        levels_of = setup["protocols"].items()
    except _DAMAGE:
        return None
    for protocol, levels in levels_of:
        kept = found["protocols"][protocol] = {}
        for level, entry in levels.items() if isinstance(levels, dict) else ():
            with contextlib.suppress(*_DAMAGE):
                list(_section({**setup, "protocols": {protocol: {level: entry}}}))
                if isinstance(entry["hash"], str):
                    kept[level] = entry
    return found


def _table(columns: tuple[str, ...], cells: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in cells:
        yield f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |"


def _span(interval: tuple[float, float], sign: str = "") -> str:
    return ", ".join(f"{value:{sign}.1f}" for value in interval)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _file_name(label_set: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in label_set)


def _to_json(content: Any, indent: int | None = 1) -> bytes:
    return json.dumps(content, indent=indent, allow_nan=False).encode()


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    """Return what a file holds; {} if it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
