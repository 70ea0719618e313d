"""What in the records of a run points to collapse, or to nothing being learned, in plain words.

Read from metrics.jsonl, never from a process, so that a resumed run raises what an uninterrupted one does.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from hvt_jax.hierarchy import LEVELS

CHECKS = 3  # checks in a row before an alarm on a noisy number
PATIENCE = 20  # of them before a prediction is said to learn nothing: healthy ones begin after up to 14
RANK_SHARE_LIMIT = 0.05  # of the width
RATIO_LIMIT = 0.95  # loss over that of an answer that needs no learning
FALLEN_LOSS = 0.1  # of the first loss: "fell towards 0"
FALLEN_RANK = 0.5  # of the first rank
DEAD_STD = 0.01  # a healthy level has some 0.5
_WENT_BACK = "alarms/went_back_from"


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One thing that is wrong.

    Attributes:
      kind: "dead", "rank" or "collapse", which `alarms.action` is for; "mean" or "copy", which only warn.
      where: the level or edge, and what else tells it from others of its kind.
      since: step of its first bad check.
      text: a sentence.
    """

    kind: str
    where: tuple[str, ...]
    since: int
    text: str

    @property
    def is_collapse(self) -> bool:
        """Whether a level has lost what it knew, so that training on is of no use."""
        return self.kind in ("dead", "rank", "collapse")


def find(history: Sequence[Mapping]) -> list[Alarm]:
    """Return the alarms that are on at the end of a run's metrics, worst first; [] if nothing is wrong.

    Args:
      history: records of metrics.jsonl: "step", `monitor/<level>/rank`, `/rank_share`, `/std`,
        `monitor/<edge>/mean_ratio`, `/copy_ratio`, `train/<edge>`. Records may hold any part of them.
    """
    names = sorted({name for record in history for name in record})
    levels = [level for level in LEVELS if f"monitor/{level}/rank" in names]
    edges = [name.removeprefix("train/") for name in names if name.startswith("train/") and "->" in name]
    found = [_dead(history, level) for level in levels]
    found += [_collapse(history, edge, level) for edge in edges for level in levels if level in edge]
    found += [_low_rank(history, level) for level in levels]
    found += [_trivial(history, edge, kind) for kind in _TRIVIAL for edge in edges]
    return [alarm for alarm in found if alarm is not None]


def find_ever(history: Sequence[Mapping]) -> set[Alarm]:
    """Return the alarms that any check of a run raised, not only those that are on at its end."""
    return {alarm for end in range(1, len(history) + 1) for alarm in find(history[:end])}


def find_new(history: Sequence[Mapping], since: int) -> list[Alarm]:
    """Return those that the records up to step `since` did not raise, whatever numbers they named."""
    before = {(alarm.kind, alarm.where) for alarm in find([record for record in history if record["step"] <= since])}
    return [alarm for alarm in find(history) if (alarm.kind, alarm.where) not in before]


def rollback_record(step: int, rollbacks: int, found: Sequence[Alarm]) -> dict[str, float]:
    """Return the metrics that say that a run went back from `step`, for the `rollbacks`-th time, because of `found`."""
    causes = {f"alarms/{alarm.kind}/{'/'.join(alarm.where)}": alarm.since for alarm in found}
    return {"alarms/rollbacks": rollbacks, _WENT_BACK: step, **causes}


def rollbacks(history: Sequence[Mapping]) -> list[str]:
    """Return a sentence for every time that the run went back, from its `rollback_record`."""
    sentences = []
    for record in history:
        if _WENT_BACK in record:
            causes = [
                f"{name.removeprefix('alarms/')} since step {since:g}"
                for name, since in record.items()
                if name.startswith("alarms/") and name not in ("alarms/rollbacks", _WENT_BACK)
            ]
            sentences.append(
                f"rollback {record['alarms/rollbacks']:g}: from step {record[_WENT_BACK]:g} back to step "
                f"{record['step'] - 1} ({', '.join(causes)}), with half the learning rates from there on"
            )
    return sentences


def series(history: Sequence[Mapping], name: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one metric, by step; after a resume the later record of a step counts."""
    values = {record["step"]: record[name] for record in history if record.get(name) is not None}
    steps = sorted(values)
    return steps, [float(values[step]) for step in steps]


def _since(steps: Sequence[int], is_bad: Sequence[bool]) -> int:
    """Return the step at which the row of bad checks began that the last one belongs to."""
    start = len(steps) - 1
    while start and is_bad[start - 1]:
        start -= 1
    return steps[start]


def _dead(history: Sequence[Mapping], level: str) -> Alarm | None:
    steps, values = series(history, f"monitor/{level}/std")
    if not values or not values[-1] < DEAD_STD:
        return None
    text = (
        f"{level}: the standard deviation before the norm is {values[-1]:.2g} (alarm below {DEAD_STD}): "
        "the level is dead, whatever its loss and rank say"
    )
    return Alarm("dead", (level,), _since(steps, [value < DEAD_STD for value in values]), text)


def _last_trained(history: Sequence[Mapping], name: str, least: int) -> tuple[list[int], list[float]]:
    """Return steps and values after step 0, or nothing if there are fewer than `least`."""
    trained = [(step, value) for step, value in zip(*series(history, name), strict=True) if step > 0]
    return tuple(map(list, zip(*trained, strict=True))) if len(trained) >= least else ([], [])


def _low_rank(history: Sequence[Mapping], level: str) -> Alarm | None:
    steps, shares = _last_trained(history, f"monitor/{level}/rank_share", CHECKS)
    is_bad = [share < RANK_SHARE_LIMIT for share in shares]
    if not shares or not all(is_bad[-CHECKS:]):
        return None
    rank = series(history, f"monitor/{level}/rank")[1][-1]
    text = (
        f"{level}: the effective rank {rank:.1f} is {100 * shares[-1]:.1f} % of the largest possible, for "
        f"{CHECKS} checks in a row (alarm below {100 * RANK_SHARE_LIMIT:.0f} %): few directions are left"
    )
    return Alarm("rank", (level,), _since(steps, is_bad), text)


_TRIVIAL = {
    "mean": ("always answering the mean target", "the predictor has learned nothing"),
    "copy": ("copying the source", "it does no better than copying"),
}


def _trivial(history: Sequence[Mapping], edge: str, kind: str) -> Alarm | None:
    steps, ratios = _last_trained(history, f"monitor/{edge}/{kind}_ratio", PATIENCE)
    is_bad = [ratio > RATIO_LIMIT for ratio in ratios]
    if not ratios or not all(is_bad[-PATIENCE:]):
        return None
    answer, meaning = _TRIVIAL[kind]
    text = (
        f"{edge}: the loss is {ratios[-1]:.2f} of what {answer} costs, for {PATIENCE} "
        f"checks in a row (alarm above {RATIO_LIMIT}): {meaning}"
    )
    return Alarm(kind, (edge,), _since(steps, is_bad), text)


def _collapse(history: Sequence[Mapping], edge: str, level: str) -> Alarm | None:
    (loss_steps, losses), (steps, ranks) = (
        series(history, name) for name in (f"train/{edge}", f"monitor/{level}/rank")
    )
    if len(losses) <= CHECKS or len(ranks) < 2:
        return None
    # The median of the last few, so that one good batch is no sign.
    medians = [statistics.median(losses[max(0, end - CHECKS) : end]) for end in range(1, len(losses) + 1)]
    fallen = [median < FALLEN_LOSS * losses[0] for median in medians]
    is_low = [rank < FALLEN_RANK * ranks[0] for rank in ranks]
    if not (fallen[-1] and is_low[-1]):
        return None
    text = (
        f"{edge}: the loss fell from {losses[0]:.2g} to {medians[-1]:.2g} while the rank of {level} fell from "
        f"{ranks[0]:.1f} to {ranks[-1]:.1f}: the usual signature of collapse"
    )
    return Alarm("collapse", (edge, level), max(_since(loss_steps, fallen), _since(steps, is_low)), text)
