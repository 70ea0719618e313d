"""An evaluation with its progress and its table on the screen: of the command, and at the end of training."""

import pathlib
import sys

from rich import console, progress, table

from hvt_jax.evaluation.finetune import FinetuneSettings
from hvt_jax.run.trained import Trained
from hvt_jax.tools import evaluating, evaluation_report
from hvt_jax.tools.evaluation_data import EvaluationData

_WIDTH = 140  # of the table where there is no terminal


def evaluate(
    trained: Trained,
    data: EvaluationData,
    names: tuple[str, ...],
    *,
    levels: tuple[str, ...],
    out: pathlib.Path,
    finetune: FinetuneSettings,
    again: bool = False,
) -> None:
    """Ask the protocols `names` and print what they found; the arguments as in `evaluating.Evaluation`.

    Raises:
      DataError: if the data, or the folder of results, cannot be used.
    """
    screen = console.Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    say = lambda line: screen.print(line, markup=False)  # noqa: E731
    with progress.Progress(*progress.Progress.get_default_columns(), console=screen) as bars:

        def bar(title: str, total: int):
            if not screen.is_terminal:
                say(title)
            task = bars.add_task(title, total=total)
            return lambda done: bars.advance(task, done)

        evaluation = evaluating.Evaluation(trained, data, levels, out, finetune, again, say, bar)
        setup = evaluating.evaluate(evaluation, names)
    say(evaluation_report.describe(setup))
    shown = table.Table(*evaluation_report.COLUMNS)
    for row in evaluation_report.rows(setup):
        shown.add_row(*row)
    say(shown)
    say(f"{out / 'report.md'}: also recall, settings and confusion matrices")
