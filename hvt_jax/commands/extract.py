"""Extract features of your own videos, of any length, at every level: windows with their time stamps in one file.

The model is a run folder or what `export` wrote. Windows have the frames and the stride the model was trained on. A
damaged video is named with its reason and left out. The same command goes on where an interrupted one stopped.

Examples:
  python -m hvt_jax extract --model=runs/digits --videos=SOME_FOLDER --out=features.npz
  python -m hvt_jax extract --model=exported --videos=list.csv --levels=clip,sequence --window_step=0.5s --out=f.parquet

The file holds `path`, `start_seconds`, `end_seconds`, `label` where a list has labels, and an array [windows, D] for
each level. Exit codes: 0 done, damaged videos or not; 2 bad input, or no video that can be read.
"""

from absl import app, flags

from hvt_jax.commands import cli

MODEL = flags.DEFINE_string("model", None, "Folder of a run, or of an export.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Of a run: best | last | the number of a step.")
VIDEOS = flags.DEFINE_string("videos", None, "Folder of videos, or a list: rows path | path,label[,start,end].")
VIDEOS_ROOT = flags.DEFINE_string("videos_root", None, "Folder that the paths of a list start in; otherwise its own.")
LEVELS = flags.DEFINE_string("levels", None, "Such as frame,clip,sequence; otherwise all of the model.")
OUT = flags.DEFINE_string("out", None, "File to write: .npz, or .parquet with pyarrow.")
WINDOW_STEP = flags.DEFINE_string(
    "window_step",
    None,
    "From one window's start to the next: frames, 16, or seconds, 0.5s; centre = one window in the middle of each "
    "video, as in training's evaluation; otherwise windows follow each other.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Windows the model sees at a time; 0 = evaluation.batch_size.", 0)
_LISTED = 100  # damaged videos on the screen


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    if code := cli.refuse(
        argv, MODEL, VIDEOS, OUT, example="--model=runs/digits --videos=SOME_FOLDER --out=features.npz"
    ):
        return code
    return cli.run(_extract, output=OUT.value)


def _extract() -> int:
    from rich import console, progress

    from hvt_jax.data import video_windows
    from hvt_jax.interop import model_files
    from hvt_jax.tools import extraction, feature_files

    feature_files.check_path(OUT.value)
    step = video_windows.parse_step(WINDOW_STEP.value or "")
    trained = model_files.open_model(MODEL.value, CHECKPOINT.value)
    levels = trained.choose_levels(LEVELS.value or "")
    dataset = video_windows.find_videos(VIDEOS.value, trained.settings.data, VIDEOS_ROOT.value or "")
    screen = console.Console(soft_wrap=True, highlight=False)
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=screen) as bar:
        task = bar.add_task("videos", total=len(dataset))
        found = extraction.extract(
            trained,
            dataset,
            OUT.value,
            levels=levels,
            step=step,
            batch_size=BATCH_SIZE.value or trained.settings.evaluation.batch_size,
            on_progress=lambda done, windows: bar.update(
                task, completed=done, description=f"videos ({windows} windows)"
            ),
        )
    if found.resumed:
        screen.print(f"{found.resumed} videos were done before")
    for video in found.damaged[:_LISTED]:
        lost = f" ({video.failed} of {video.failed + video.windows} windows)" if video.windows else ""
        screen.print(f"damaged  {ascii(dataset.videos[video.video].path)[1:-1]}{lost}  {video.reason}", markup=False)
    if len(found.damaged) > _LISTED:
        screen.print(f"damaged  and {len(found.damaged) - _LISTED} more")
    kept, bad = len(dataset) - found.lost, len(found.damaged)
    counts = f"{found.windows} windows of {kept} videos, {bad} damaged, {found.lost} of these left out"
    screen.print(f"{OUT.value}: {counts}; levels {', '.join(levels)}", markup=False)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
