"""The part of a run's report that shows the pictures of `python -m hvt_jax visualize`."""

import json
from pathlib import Path

from hvt_jax.hierarchy import LEVELS
from hvt_jax.run import report_html
from hvt_jax.run.run_folder import write_file

FOLDER, HEADING = "pictures", "## What it sees"
PROVENANCE = "provenance.json"
_LARGEST = 1 << 20  # bytes of it that are read

_READING = "Drawn by `python -m hvt_jax visualize`; docs/pictures.md says how to read them."
_CAPTIONS = {
    "map": "Every test video as a point, by its features. Where points of one colour lie together, nearest neighbours "
    "find the class.",
    "neighbours": "Test videos on the left, beside each the training videos most like it. Green: the same class.",
    "attention": "How much of every patch, frame and clip goes into the token above it, in multiples of an even share.",
    "surprise": "The error of every prediction, where and when it is made. Dashed: of an answer that knows nothing.",
}


def section(folder: Path) -> str:
    """Return the section of report.md on the pictures in `folder/pictures`; "" if there are none."""
    drawn = folder / FOLDER
    known, parts = read_provenance(drawn), []
    for kind, caption in _CAPTIONS.items():
        names = sorted((path.name for path in drawn.glob(f"{kind}_*.png")), key=_place)
        if names:
            shown = [f"![{kind}]({FOLDER}/{name})" for name in names]
            films = [f"[{path.name}]({FOLDER}/{path.name})" for path in sorted(drawn.glob(f"{kind}_*.mp4"))]
            parts += [f"{caption}{_origin(known.get(kind))}", *shown] + (
                [f"In motion: {', '.join(films)}"] if films else []
            )
    if (drawn / "map.html").exists():
        parts.insert(0, f"With frames under the mouse: [map.html]({FOLDER}/map.html).")
    return "\n\n".join([HEADING, _READING, *parts]) if parts else ""


def _place(name: str) -> tuple[int, str]:
    """Return what pictures are sorted by: those of levels from the lowest up, others by name."""
    level = name.removesuffix(".png").partition("_")[2]
    return (LEVELS.index(level) if level in LEVELS else 0), name


def read_provenance(drawn: Path) -> dict:
    """Return what is noted of the pictures in a folder, {kind: {"step", ...}}; {} if that is nothing of sense."""
    try:
        with open(drawn / PROVENANCE, encoding="utf-8") as file:
            known = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return {kind: known[kind] for kind in _CAPTIONS if isinstance(known, dict) and isinstance(known.get(kind), dict)}


def _origin(facts: dict | None) -> str:
    step = (facts or {}).get("step")
    return f" At step {step}." if isinstance(step, int) else ""


def refresh(folder: Path) -> None:
    """Bring report.md up to date with the pictures that are there, and write report.html.

    Raises:
      RunFolderError: if a file cannot be written.
    """
    path = folder / "report.md"
    before = path.read_bytes().decode(errors="backslashreplace") if path.exists() else "# Report\n"
    before = before.partition(f"\n{HEADING}\n")[0].rstrip()
    text = "\n\n".join(filter(None, (before, section(folder)))) + "\n"
    write_file(path, text.encode(errors="backslashreplace"))
    report_html.write_html(folder)
