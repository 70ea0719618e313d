"""What an earlier run left in a folder whose run begins again: moved aside, so that nothing is lost without a word."""

import contextlib
import datetime
import os

_NAMES = (
    "config.json",
    "environment.json",
    "data.json",
    "videos.jsonl.gz",
    "results.json",
    "report.md",
    "report.html",
    "pictures",
    "figures",
    "quarantine.jsonl",
    "diverged",
    "tb",
)
# They come last: they say that there is something to move, also to a start after one that died in between.
_RECORDS = "metrics.jsonl"


def move_aside(folder: str | os.PathLike) -> str:
    """Move what a run wrote to `folder/earlier-<time>`; return a line that says so.

    Call it before anything of the new run is written. Without a record nothing is moved, and the line is empty; a list
    of bad videos is removed then, they may be repaired.

    Raises:
      OSError: if the folder cannot be written.
    """
    records = os.path.join(folder, _RECORDS)
    if not os.path.exists(records) or not os.path.getsize(records):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, "quarantine.jsonl"))
        return ""
    with open(records, "rb") as file:
        count = sum(1 for _ in file)
    target = _new_folder(folder)
    configs = sorted(name for name in os.listdir(folder) if name.startswith("config-until-"))
    moved = [name for name in (*configs, *_NAMES, _RECORDS) if os.path.lexists(os.path.join(folder, name))]
    for name in moved:
        os.rename(os.path.join(folder, name), os.path.join(target, name))
    return (
        f"{folder} has no checkpoint to go on from, but {count} records of an earlier run; "
        f"{', '.join(sorted(moved))} are now in {os.path.basename(target)}, and the run begins at step 0"
    )


def _new_folder(folder: str | os.PathLike) -> str:
    """Make a folder that was not there, named by the time."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1, 1000):  # two starts within a second
        target = os.path.join(folder, f"earlier-{now}" + (f"-{number}" if number > 1 else ""))
        try:
            os.mkdir(target)
            return target
        except FileExistsError:
            continue
    raise FileExistsError(f"{folder}: 999 folders earlier-{now}")
