"""The report of a run: what was learned, in plain words, then the pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvt_jax.engine.run_folder import write_file
from hvt_jax.evaluation import figures
from hvt_jax.evaluation.knn import STANDARD_ERRORS
from hvt_jax.evaluation.results import difference_error
from hvt_jax.hierarchy import LEVELS

_MOST_VIDEOS = 20  # bad videos that are named

_OUTCOMES = {
    "done": "**Done.**",
    "running": "**Running**: this is what was known at step {steps}.",
    "preempted": "**Preempted at step {steps}**: the same command goes on from the last checkpoint.",
    "stopped": "**Stopped at step {steps}**: too many videos are bad.",
    "diverged": "**Diverged at step {steps}**: too many updates in a row were NaN or Inf. The state is in `diverged/`, "
    "earlier checkpoints are intact.",
}

_CAPTIONS = {
    "neighbours": "Accuracy of nearest neighbours per level while training, against the untrained network and chance.",
    "losses": "Loss of each prediction, by the level that predicts. Faint: every record; strong: running mean.",
    "monitors": "A healthy level keeps its rank and its spread; a loss near the trivial predictor's means nothing "
    "was learned.",
    "gradients": "Norms per level and of its predictors. A level that is far from the others, or jumps, is the one "
    "to look at.",
}


def write_report(folder: Path | str, metrics: Sequence[Mapping], results: Mapping, warnings: Sequence[str]) -> Path:
    """Write `report.md`, with its pictures in `figures/`, over an older one.

    Example: `write_report(run_folder, metrics, results, monitors.alarms(metrics))`.

    Args:
      folder: the run folder.
      metrics: records of metrics.jsonl; the names are listed in docs/running.md.
      results: the numbers, every field optional: `outcome`, a key of `_OUTCOMES`; `knn` from `results.read_scores`;
        `steps`, `seconds`, `clips_per_second`, `parameter_digest`, `bad_videos` [name], `skipped_updates`
        {label: count}.
      warnings: sentences for the section on alarms.

    Returns:
      the path of report.md.

    Raises:
      RunFolderError: if a file cannot be written.
    """
    folder = Path(folder)
    judged = results.get("knn") or {}
    pictures = figures.draw_all(folder / "figures", metrics, judged)
    sections = [
        ["# Report", _summary(results)],
        ["## Did it learn anything?", *_judgement(judged)],
        ["## Alarms", _bullets(warnings) or "None."],
        ["## Data and updates", _bullets(_incidents(results))],
        ["## Pictures", *_pictures(pictures)],
    ]
    path = folder / "report.md"
    text = "\n\n".join(part for section in sections for part in section if part) + "\n"
    write_file(path, text.encode(errors="backslashreplace"))  # names of files need not be UTF-8
    return path


def verdict(scores: Mapping) -> str:
    """Return "better", "no better than untrained", "worse than untrained", "not trained yet" or "not judged".

    Better and worse mean by more than two standard errors of the difference.

    Args:
      scores: "judged_step"; "top1", "untrained_top1", "standard_error" and "untrained_standard_error" in %.
    """
    if scores.get("judged_step") == 0:
        return "not trained yet"
    gain = _number(scores.get("top1")) - _number(scores.get("untrained_top1"))
    margin = STANDARD_ERRORS * difference_error(scores)
    if not (math.isfinite(gain) and math.isfinite(margin)):
        return "not judged"
    if gain > margin:
        return "better"
    return "worse than untrained" if -gain > margin else "no better than untrained"


def sentence(level: str, label_set: str, scores: Mapping) -> str:
    """Return `frame: motion 45.1 % against 38.0 % untrained (chance 12.5 %): better`."""
    trained, untrained, chance = (_percent(scores.get(name)) for name in ("top1", "untrained_top1", "chance"))
    return f"{level}: {label_set} {trained} against {untrained} untrained (chance {chance}): {verdict(scores)}"


def _summary(results: Mapping) -> str:
    facts = []
    if results.get("outcome") in _OUTCOMES:
        facts.append(_OUTCOMES[results["outcome"]].format(steps=results.get("steps")))
    if results.get("steps") is not None:
        facts.append(f"{results['steps']} steps")
    if results.get("seconds") is not None:
        facts.append(f"in {_duration(results['seconds'])}")
    if results.get("clips_per_second") is not None:
        facts.append(f"at {results['clips_per_second']:.1f} clips/s")
    digest = results.get("parameter_digest")
    return " ".join(facts) + (". " if facts else "") + (f"Parameters: `{digest}`." if digest else "")


def _judgement(judged: Mapping) -> list[str]:
    """Return the table of levels and label sets, then one sentence for each."""
    rows = [(level, name, scores) for level in LEVELS for name, scores in (judged.get(level) or {}).items()]
    if not rows:
        return ["No level was judged: the run ended before an evaluation."]
    table = [
        "| level | label | trained | untrained | chance | standard error of the difference | verdict |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for level, name, scores in rows:
        numbers = [_percent(scores.get(key)) for key in ("top1", "untrained_top1", "chance")]
        numbers.append(_percent(difference_error(scores)))
        words = verdict(scores)
        table.append(f"| {level} | {name} | {' | '.join(numbers)} | {f'**{words}**' if words == 'better' else words} |")
    steps = sorted({scores["judged_step"] for _, _, scores in rows if "judged_step" in scores})
    when = f", at step {steps[-1]}" if steps else ""
    explanation = (
        f"Weighted nearest neighbours on frozen features of held-out videos, top-1{when}. *Better* means by more than "
        f"{STANDARD_ERRORS:g} standard errors of the difference, to which both accuracies add theirs, than the same "
        "network before training; anything less is no evidence that training helped. The untrained network is one draw "
        "of one seed, and another seed would give another number to beat: look at chance, too."
    )
    return ["\n".join(table), explanation, _bullets(sentence(*row) for row in rows)]


def _incidents(results: Mapping) -> list[str]:
    bad = list(results.get("bad_videos") or [])
    lines = ["All videos could be read."]
    if bad:
        named = ", ".join(f"`{name}`" for name in bad[:_MOST_VIDEOS])
        more = f" and {len(bad) - _MOST_VIDEOS} more" if len(bad) > _MOST_VIDEOS else ""
        videos = "1 video" if len(bad) == 1 else f"{len(bad)} videos"
        lines = [f"{videos} could not be read and did not count: {named}{more}."]
    skipped = {label: int(count) for label, count in (results.get("skipped_updates") or {}).items() if count}
    counts = ", ".join(f"{label} {count}" for label, count in sorted(skipped.items()))
    lines.append(f"Updates skipped because of NaN or Inf: {counts}." if skipped else "No update was skipped.")
    return lines


def _pictures(files: Mapping[str, Path]) -> list[str]:
    shown = [f"![{name}](figures/{files[name].name})\n\n{text}" for name, text in _CAPTIONS.items() if name in files]
    return shown or ["There was nothing to draw yet."]


def _bullets(lines) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _number(value) -> float:
    return math.nan if value is None else float(value)


def _percent(value) -> str:
    return f"{value:.1f} %" if math.isfinite(_number(value)) else "unknown"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
