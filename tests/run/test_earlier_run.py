"""What an earlier run left is moved aside before a run begins again: all of it, once, with a line that says so."""

from hvt_jax.run import earlier_run
from hvt_jax.run.run_folder import RunFolder


def _leave(folder, records=5):
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(records)))
    for name in (
        "results.json",
        "report.md",
        "config.json",
        "config-until-5.json",
        "environment.json",
        "quarantine.jsonl",
    ):
        (folder / name).write_text("{}")
    for name in ("figures", "diverged", "tb"):
        (folder / name).mkdir()
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_what_an_earlier_run_left_is_moved_whole(tmp_path):
    lines = []
    for number in (1, 2, 3):  # within a second, too
        before = _leave(tmp_path)
        known = set(tmp_path.glob("earlier-*"))
        lines.append(earlier_run.move_aside(tmp_path))
        earlier = set(tmp_path.iterdir())
        assert len(earlier) == number and earlier >= known
        (new,) = earlier - known
        moved = {path.name: path.stat().st_ino for path in new.iterdir()}
        assert moved == {name: inode for name, inode in before.items() if not name.startswith("earlier-")}
        assert lines[-1] == (
            f"{tmp_path} has no checkpoint to go on from, but 5 records of an earlier run; config-until-5.json, "
            "config.json, diverged, environment.json, figures, metrics.jsonl, quarantine.jsonl, report.md, "
            f"results.json, tb are now in {new.name}, and the run begins at step 0"
        )


def test_without_records_nothing_is_moved_and_bad_videos_are_forgotten(tmp_path):
    _leave(tmp_path, records=0)
    left = {path.name for path in tmp_path.iterdir()}
    assert earlier_run.move_aside(tmp_path) == ""
    assert {path.name for path in tmp_path.iterdir()} == left - {"quarantine.jsonl"}


def test_opening_a_folder_touches_nothing_of_an_earlier_run(tmp_path):
    left = _leave(tmp_path)
    with RunFolder(tmp_path, warn=print) as folder:
        assert {path.name: path.stat().st_ino for path in tmp_path.iterdir() if path.name != "lock"} == left
        (line,) = folder.begin_anew()
        assert "5 records of an earlier run" in line
        assert {path.name for path in tmp_path.iterdir()} == {"lock", *(p.name for p in tmp_path.glob("earlier-*"))}
