"""The loader's doctor: where the time of a batch goes, and the worker, buffer and storage settings to choose here.

It reads the training videos of a config as training does, beside a bare decoding loop of the same bytes, tries settings
of the loader, and compares with the training step, which it compiles; --nostep leaves that out.

Example:
  python -m hvt_jax bench_data --config=configs/ucf.py --nostep
  python -m hvt_jax bench_data --config=configs/digits.py --seconds=10 --json=doctor.json

Exit codes: 0 done; 2 bad config or data.
"""

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Config document, e.g. configs/ucf.py.", lock_config=True)
BATCHES = flags.DEFINE_integer("batches", 50, "Steps of the real loop, at most.", lower_bound=2)
SECONDS = flags.DEFINE_float("seconds", 20.0, "For each of four measurements, about.", lower_bound=0.1)
STEP = flags.DEFINE_bool("step", True, "Compile and time the training step too; slow on a CPU.")
JSON = flags.DEFINE_string("json", None, "File to write everything to, as JSON.")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    return cli.refuse(argv, CONFIG, example="--config=configs/ucf.py") or cli.run(_examine, resumed="to begin anew")


def _examine() -> int:
    from rich import console

    from hvt_jax.data import catalog
    from hvt_jax.settings import read_settings
    from hvt_jax.tools import loader_report, loader_trial

    settings = read_settings(CONFIG.value)
    dataset = catalog.load_dataset(settings.data, "train")
    screen = console.Console(soft_wrap=True, highlight=False)
    with screen.status("one thread") as status:
        report = loader_trial.examine(
            settings, dataset, batches=BATCHES.value, seconds=SECONDS.value, with_step=STEP.value, note=status.update
        )
    loader_report.print_report(report, screen)
    if JSON.value:
        try:
            loader_report.write_json(report, JSON.value)
        except OSError as error:
            return cli.fail(f"--json={JSON.value}: {error.strerror}")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
