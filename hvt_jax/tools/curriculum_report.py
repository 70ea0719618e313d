"""What a curriculum is and what came of it, as numbers and as text."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hvt_jax.evaluation import results, verdict
from hvt_jax.tools.curriculum_plan import PlannedStage

_COLUMNS = ("stage", "levels", "frames", "pixels", "steps", "videos", "TFLOP")


def plan_table(planned: Sequence[PlannedStage]) -> list[str]:
    """Return a line for every stage: what it trains, on what, and what that costs."""
    rows = [_COLUMNS]
    for each in planned:
        data, levels = each.stage.settings.data, "-".join(each.definition.hierarchy.levels)
        numbers = (str(each.num_steps), f"{each.videos:,}", f"{each.step_flops * each.num_steps / 1e12:.2f}")
        rows.append((each.stage.name, levels, str(data.num_frames), f"{data.height}x{data.width}", *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    left = (0, 1)  # columns of words
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def read_stage(planned: PlannedStage, folder: str) -> dict[str, Any]:
    """Return what came of a stage, from its results.json: outcome, length, cost, the verdict on every level."""
    with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
        found = json.load(file)
    verdicts: dict[str, dict[str, str]] = {}
    for level, label_set, protocols in results.by_level(found):
        verdicts.setdefault(level, {})[label_set] = verdict.verdict(protocols)
    data = planned.stage.settings.data
    return {
        "outcome": found["outcome"],
        "levels": list(planned.definition.hierarchy.levels),
        "num_frames": data.num_frames,
        "steps": found["steps"],
        "videos": found["steps"] * planned.stage.settings.train.batch_size,
        "seconds": found["seconds"],
        "training_flops": planned.step_flops * found["steps"],
        "verdicts": verdicts,
        "parameter_digest": found.get("parameter_digest"),
    }


def total(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the sums over stages that are done."""
    return {name: sum(row[name] for row in stages) for name in ("steps", "videos", "seconds", "training_flops")}


def report(content: Mapping[str, Any]) -> str:
    """Return report.md of a curriculum that is done, from its curriculum.json."""
    names = ("stage", "levels", "frames", "from", "steps", "videos", "seconds", "TFLOP", "verdict")
    lines = [f"| {' | '.join(names)} |", "|---|---|---:|---|---:|---:|---:|---:|---|"]
    for row in content["stages"]:
        source = row.get("began_with")
        begin = f"step {source['step']} of {source['source']}" if source else "-"
        words = "; ".join(
            f"{level}: {', '.join(f'{label} {found}' for label, found in sets.items())}"
            for level, sets in row["verdicts"].items()
        )
        cells = ("-".join(row["levels"]), str(row["num_frames"]), begin, *_costs(row), words)
        lines.append(f"| [{row['name']}]({row['folder']}/report.md) | {' | '.join(cells)} |")
    lines.append(f"| all | | | | {' | '.join(_costs(content['total']))} | |")
    explanation = (
        f"Each stage began with the {content['hand_over']} checkpoint of the one before; tables of positions and codes "
        f"of another length: {content['grow']}. `initial/arrays.txt` in its folder says of every array whether it was "
        "copied, grown or new. A verdict compares a level with what it was when its stage began. TFLOP: forward and "
        "backward of all batches, as the compiler counts them before it optimises; seconds with all evaluations."
    )
    return "\n\n".join(["# Curriculum", "\n".join(lines), explanation]) + "\n"


def _costs(row: Mapping[str, float]) -> tuple[str, ...]:
    return (
        str(row["steps"]),
        f"{row['videos']:,}",
        f"{row['seconds']:.0f}",
        f"{row['training_flops'] / 1e12:.2f}",
    )
