"""Draw what a run has learned: maps, attention, nearest neighbours, and where videos surprise it.

Pictures go to RUN/pictures, and the report of the run, report.md and report.html, shows them. map.html is a page of
its own: it shows the frames of the video under the mouse.

Example:
  python -m hvt_jax visualize --run=runs/demo
  python -m hvt_jax visualize --run=runs/demo --what=map,surprise --levels=frame,clip --videos=8

Exit codes: 0 done; 2 no such run, checkpoint or level, or data that cannot be read.
"""

import pathlib

from absl import app, flags

from hvt_jax.commands import cli

RUN = flags.DEFINE_string("run", None, "Folder of a run, e.g. runs/demo.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last, or the number of a step.")
LEVELS = flags.DEFINE_string("levels", "all", "Levels to draw, such as frame,clip.")
WHAT = flags.DEFINE_list("what", ["all"], "map, attention, neighbours, surprise, or all.")
OUT = flags.DEFINE_string("out", None, "Folder to write to; otherwise RUN/pictures, which the report shows.")
VIDEOS = flags.DEFINE_integer("videos", 4, "Videos that are shown one by one.", lower_bound=1)
MOST = flags.DEFINE_integer("most", 2000, "Videos of each split in maps and among neighbours, at most.", lower_bound=3)


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    if code := cli.refuse(argv, RUN, example="--run=runs/demo"):
        return code
    return cli.run(_visualize, output=OUT.value or RUN.value, resumed="to begin anew")


def _visualize() -> int:
    from rich import console

    from hvt_jax import disk
    from hvt_jax.run import report_pictures, trained
    from hvt_jax.settings import SettingsError
    from hvt_jax.tools import visualizing

    what = visualizing.WHAT if "all" in WHAT.value else tuple(WHAT.value)
    if unknown := sorted({*what} - {*visualizing.WHAT}):
        return cli.fail(f"--what={unknown[0]} is unknown; there are {', '.join(visualizing.WHAT)} and all")
    model = trained.open_run(RUN.value, CHECKPOINT.value)
    inside = pathlib.Path(RUN.value) / report_pictures.FOLDER
    out = pathlib.Path(OUT.value) if OUT.value else inside
    levels = model.choose_levels(LEVELS.value)
    request = visualizing.Request(levels, what, out, VIDEOS.value, MOST.value)
    terminal = console.Console(soft_wrap=True, highlight=False)
    with terminal.status("reading the videos") as status:
        screen = visualizing.Screen(lambda line: terminal.print(line, markup=False), status.update)
        with disk.locked(out, SettingsError):
            files = visualizing.visualize(model, request, screen)
        if out.resolve() == inside.resolve():
            report_pictures.refresh(pathlib.Path(RUN.value))
    size = sum(path.stat().st_size for path in files) / 2**20
    terminal.print(f"{out}: {len(files)} files, {size:.1f} MiB, of step {model.step}", markup=False)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
