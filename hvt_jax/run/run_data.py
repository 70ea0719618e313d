"""Which videos a run trains and is evaluated on: `RUN/data.json`, and `RUN/videos.jsonl.gz` with a line for each.

A resumed run compares them with those of before: scores on other videos, or other labels, say nothing of each other.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping

from hvt_jax.data.dataset import Dataset
from hvt_jax.data.manifest import shorten
from hvt_jax.run.first_process import is_first
from hvt_jax.run.run_folder import write_file, write_json

FILE_NAME, LIST_NAME = "data.json", "videos.jsonl.gz"
_MOST_BYTES = 1 << 30  # of the list
_Videos = dict[str, dict[tuple[str, float, float], list[str]]]  # {split: {(path, start, end): names of its labels}}


class RunData:
    """The videos of both splits and their labels.

    Attributes:
      fingerprint: a number of 48 bits that is another one for other videos, splits, segments or labels.
    """

    def __init__(self, datasets: Mapping[str, Dataset]):
        """Take in the splits of a run, by name."""
        self._label_sets = list(next(iter(datasets.values())).label_names)
        self._videos = {split: _labels_of(dataset, self._label_sets) for split, dataset in datasets.items()}
        self._hashes = {split: hashlib.sha256() for split in datasets}
        for split, row in self._rows():
            self._hashes[split].update(row)
        both = "".join(digest.hexdigest() for digest in self._hashes.values())
        self.fingerprint = int(hashlib.sha256(both.encode()).hexdigest()[:12], 16)

    def _rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield the split of every video and its line in the list, in an order that does not depend on the catalog."""
        for split, videos in self._videos.items():
            for key in sorted(videos):
                row = [split, *key, dict(zip(self._label_sets, videos[key], strict=True))]
                yield split, json.dumps(row).encode("ascii") + b"\n"

    def write(self, folder: str) -> None:
        """Write both files in the run folder, over those of before.

        Raises:
          RunFolderError: if they cannot be written.
        """
        if not is_first():
            return
        rows = b"".join(row for _, row in self._rows())
        write_file(os.path.join(folder, LIST_NAME), gzip.compress(rows, mtime=0))
        content = {"fingerprint": self.fingerprint, "label_sets": self._label_sets}
        for split, videos in self._videos.items():
            content[split] = {"videos": len(videos), "sha256": self._hashes[split].hexdigest()}
        write_json(os.path.join(folder, FILE_NAME), content)

    def changes(self, folder: str) -> list[str]:
        """Return a line for each split whose videos or labels are others than those that are written in the folder."""
        try:
            with open(os.path.join(folder, FILE_NAME), encoding="utf-8") as file:
                before = json.load(file)
            known = {split: (int(before[split]["videos"]), before[split]["sha256"]) for split in self._videos}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []  # an earlier version, or damage: nothing to compare with
        videos, lines = self._read_list(folder), []
        if videos and any(len(videos[split]) != count for split, (count, _) in known.items()):
            videos = None
        for split, (count, digest) in known.items():
            if digest != self._hashes[split].hexdigest():
                line = f"data differs: {count} {split} videos before, {len(self._videos[split])} now"
                lines.append(f"{line}: {self._describe(split, videos[split])}" if videos else line)
        return lines

    def _read_list(self, folder: str) -> _Videos | None:
        found: _Videos = {split: {} for split in self._videos}
        try:
            with gzip.open(os.path.join(folder, LIST_NAME)) as file:
                content = file.read(_MOST_BYTES)
            for text in content.splitlines():
                split, path, start, end, labels = json.loads(text)
                found[split][path, float(start), float(end)] = [labels.get(name, "") for name in self._label_sets]
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return found

    def _describe(self, split: str, before: dict[tuple[str, float, float], list[str]]) -> str:
        now = self._videos[split]
        came, went = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
        changed = sorted(key for key in now.keys() & before.keys() if now[key] != before[key])
        other = [f"{key[0]}, {'/'.join(before[key])} -> {'/'.join(now[key])}" for key in changed]
        parts = []
        named = {"came": [key[0] for key in came], "went": [key[0] for key in went], "with another label": other}
        for words, names in named.items():
            if names:
                parts.append(f"{len(names)} {words} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        classes = {tuple(labels) for labels in now.values()} ^ {tuple(labels) for labels in before.values()}
        parts += [f"classes that came or went: {shorten(sorted(map('/'.join, classes)))}"] if classes else []
        return ", ".join(parts) or "labels have other names"


def _labels_of(dataset: Dataset, label_sets: list[str]) -> dict[tuple[str, float, float], list[str]]:
    """Return the names of the labels of every video, which say more than numbers: a new class moves those."""
    found = {}
    columns = {name: place for place, name in enumerate(dataset.label_names)}
    for video in dataset.videos:
        names = [dataset.label_names[name][video.labels[columns[name]]] for name in label_sets]
        found[video.path, float(video.start_seconds), float(video.end_seconds)] = names
    return found


def read_label_sets(folder: str | os.PathLike) -> list[str]:
    """Return the names of the label sets of a run, the first one in front; [] if its data.json says nothing."""
    try:
        with open(os.path.join(folder, FILE_NAME), encoding="utf-8") as file:
            names = json.load(file)["label_sets"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
