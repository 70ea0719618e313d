"""The report of a run: what was learned, in plain words, then the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hvt_jax.evaluation.accuracy import STANDARD_ERRORS
from hvt_jax.evaluation.head import sentence as head_sentence
from hvt_jax.evaluation.results import PROTOCOLS, by_level, difference_error
from hvt_jax.evaluation.verdict import BETTER, TITLES, beside, ratio, shown, verdict
from hvt_jax.run import figures, report_pictures
from hvt_jax.run.run_folder import write_file

_MOST_VIDEOS = 20  # bad videos that are named

_OUTCOMES = {
    "done": "**Done.**",
    "running": "**Running**: this is what was known at step {steps}.",
    "preempted": "**Preempted at step {steps}**: the same command goes on from the last checkpoint.",
    "stopped": "**Stopped at step {steps}**: too many videos are bad.",
    "collapsed": "**Collapsed at step {steps}**, see the alarms. Earlier checkpoints are intact.",
    "diverged": "**Diverged at step {steps}**: too many updates in a row were NaN or Inf. The state is in `diverged/`, "
    "earlier checkpoints are intact.",
}

_EXPLANATION = (
    "Top-1 in % on held-out videos{when}, read from frozen features by nearest neighbours, by a linear probe and by an "
    "MLP; in brackets {brackets}. *Better* means that the linear or the MLP probe gained more than the noise, "
    "{errors:g} standard errors of the difference; neighbours alone never suffice. The untrained network is one draw "
    "of one seed, and another seed would give another number to beat: look at chance, too."
)
_PAIRS = (
    "*Pairs*: how often a video's class scores above the same motion reversed in time; chance is 50, and what does not "
    "change in time cannot help."
)

_CAPTIONS = {
    "head": "Loss and accuracy of the head that supervised training has.",
    "accuracy": "What is read from the frozen features of every level while training. Dashed: the same protocol on the "
    "untrained network.",
    "pairs": "Accuracy within pairs of classes that are each other reversed in time.",
    "losses": "Loss of each prediction, by the level that predicts. Faint: every record; strong: running mean.",
    "monitors": "A healthy level keeps its rank and its spread; a loss near that of an answer which needs no learning "
    "means that nothing was learned.",
    "gradients": "Norms per level and of its predictors. A level that is far from the others, or jumps, is the one "
    "to look at.",
}


def write_report(folder: Path | str, metrics: Sequence[Mapping], results: Mapping, warnings: Sequence[str]) -> Path:
    """Write `report.md`, with its pictures in `figures/`, over an older one.

    Example: `write_report(run_folder, metrics, results, [alarm.text for alarm in alarms.find(metrics)])`.

    Args:
      folder: the run folder.
      metrics: records of metrics.jsonl; the names are listed in docs/running.md.
      results: the numbers, every field optional: `outcome`, a key of `_OUTCOMES`; `knn`, `linear` and `mlp` from
        `results.read_scores`; `edges` from `results.read_edges`; `head` from `head.read_head`; `steps`, `seconds`,
        `clips_per_second`, `parameter_digest`, `bad_videos` [name], `skipped_updates` {label: count}.
      warnings: sentences for the section on alarms.

    Returns:
      the path of report.md.

    Raises:
      RunFolderError: if a file cannot be written.
    """
    folder = Path(folder)
    pictures = figures.draw_all(folder / "figures", metrics, results)
    sections = [
        ["# Report", _summary(results)],
        ["## Did it learn anything?", *_evaluation(results), _head(results)],
        ["## What are the predictions worth?", *_edges(results.get("edges") or {})],
        ["## Alarms", _bullets(warnings) or "None."],
        ["## Data and updates", _bullets(_incidents(results))],
        ["## Pictures", *_pictures(pictures)],
        [report_pictures.section(folder)],
    ]
    path = folder / "report.md"
    text = "\n\n".join(part for section in sections for part in section if part) + "\n"
    write_file(path, text.encode(errors="backslashreplace"))  # names of files need not be UTF-8
    return path


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


def _evaluation(results: Mapping) -> list[str]:
    """Return the table of levels and label sets with its explanation."""
    rows = by_level(results)
    if not rows:
        return ["No level was evaluated: the run ended before an evaluation."]
    protocols = [protocol for protocol in PROTOCOLS if any(protocol in found for *_, found in rows)]
    paired = [
        protocol for protocol in protocols if any("within_pairs" in found.get(protocol, {}) for *_, found in rows)
    ]
    supervised = any("supervised_top1" in scores for *_, found in rows for scores in found.values())
    titles = [TITLES[protocol] for protocol in protocols] + [f"pairs, {TITLES[protocol]}" for protocol in paired]
    table = [
        f"| level | label | {' | '.join(titles)} | chance | noise | verdict |",
        f"|---|---|{'---:|' * (len(titles) + 2)}---|",
    ]
    for level, name, found in rows:
        cells = [beside(found[protocol], "top1") if protocol in found else "-" for protocol in protocols]
        cells += [
            beside(found[protocol], "within_pairs") if "within_pairs" in found.get(protocol, {}) else "-"
            for protocol in paired
        ]
        cells.append(shown(next(iter(found.values())).get("chance")))
        cells.append(shown(STANDARD_ERRORS * max(difference_error(scores) for scores in found.values())))
        words = verdict(found)
        table.append(f"| {level} | {name} | {' | '.join(cells)} | {f'**{words}**' if words == BETTER else words} |")
    steps = [scores["evaluated_step"] for *_, found in rows for scores in found.values() if "evaluated_step" in scores]
    brackets = "the untrained network / supervised training" if supervised else "the untrained network"
    when = f" at step {max(steps)}" if steps else ""
    explanation = _EXPLANATION.format(when=when, brackets=brackets, errors=STANDARD_ERRORS)
    return ["\n".join(table), explanation, _PAIRS if paired else ""]


def _edges(edges: Mapping[str, Mapping]) -> list[str]:
    """Return the table of predictions."""
    if not edges:
        return ["No loss was logged yet."]
    table = ["| prediction | loss | over the mean's | over copying the source |", "|---|---:|---:|---:|"]
    for edge, numbers in edges.items():
        table.append(f"| {edge} | {' | '.join(ratio(numbers.get(n)) for n in ('loss', 'mean_ratio', 'copy_ratio'))} |")
    return [
        "\n".join(table),
        "Near 1 nothing was learned that the mean of all targets, a blind choice among candidates, or the source token "
        "itself (-: source and target differ in width) does not give for nothing.",
    ]


def _head(results: Mapping) -> str:
    return head_sentence(results["head"]) if results.get("head") else ""


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


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
