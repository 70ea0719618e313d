"""What follows from the doctor's measurements: the bottleneck, and settings to choose, each with its reason.

The rules, and nothing else, decide; the doctor prints what they say:

1. Without a training step the loader shall be as fast as it gets: the smallest setting within 5 % of the fastest.
2. With one it shall be fast enough: the smallest setting that makes batches in 0.8 of the time of a step; more gains
   nothing. If none does, rule 1 holds, and the cores are named that it would take.
3. Settings are ordered by threads that decode, then by processes, then by batches ahead.
4. Another storage is worth naming if its clips cost less than 0.67 of what reading and decoding them costs now, or if
   most of the time of a clip goes into reading.
"""

import dataclasses
import math
from collections.abc import Sequence

from hvt_jax.tools.bare_decoding import Copy
from hvt_jax.tools.doctor import OneThread, Setting, Trial

_GOOD = 0.95  # of the fastest
_ROOM = 0.8  # of the time of a step, for batches to come while it runs
_QUIET = 0.8  # of the time of a core; below it the machine is busy with something else
_COPY_PAYS = 0.67  # of the time of a clip now


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
      storage: `data.storage` of the config.
      cores: that this machine lends us.
      one_thread: see `doctor.OneThread`.
      trials: of the real loader.
      copies: what other storages would cost.
      batch_size: clips of a step on this host.
      step_seconds: of a training step with transfer and augmentation; None = not measured.
    """

    storage: str
    cores: int
    one_thread: OneThread
    trials: Sequence[Trial]
    copies: Sequence[Copy]
    batch_size: int
    step_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to do: the setting to choose, and sentences that say so and why."""

    setting: Setting
    bottleneck: str
    lines: tuple[str, ...]


def choose_trial(trials: Sequence[Trial], clips_per_second_wanted: float = math.inf) -> Trial:
    """Return the smallest setting that is fast enough, by rules 1 to 3."""
    best = max(trial.clips_per_second for trial in trials)
    wanted = min(clips_per_second_wanted, _GOOD * best)
    return min((trial for trial in trials if trial.clips_per_second >= wanted), key=lambda trial: trial.setting.size)


def give_advice(findings: Findings) -> Advice:
    """Return what the rules say."""
    wanted = math.inf
    if findings.step_seconds:
        wanted = findings.batch_size / (_ROOM * findings.step_seconds)
    chosen = choose_trial(findings.trials, wanted)
    best = max(findings.trials, key=lambda trial: trial.clips_per_second)
    bottleneck = _bottleneck(findings, best)
    lines = _say_busy(findings)
    lines += [_say_bottleneck(findings, best, bottleneck), _say_setting(findings, chosen, best, wanted)]
    if bottleneck != "step":
        lines += _say_cores(findings, best)
        lines += _say_storage(findings)
    return Advice(chosen.setting, bottleneck, tuple(lines))


def _bottleneck(findings: Findings, best: Trial) -> str:
    """Return "step", or the stage of a clip that takes longest."""
    if findings.step_seconds and findings.batch_size / best.clips_per_second <= findings.step_seconds:
        return "step"
    seconds = findings.one_thread.seconds
    return max(seconds, key=seconds.__getitem__)


def _say_busy(findings: Findings) -> list[str]:
    share = findings.one_thread.cpu_share
    if share >= _QUIET:
        return []
    return [
        f"other work left one thread {share:.0%} of a core: trust ratios only, and measure again on a quiet machine"
    ]


def _say_bottleneck(findings: Findings, best: Trial, bottleneck: str) -> str:
    batch = findings.batch_size / best.clips_per_second
    if bottleneck == "step":
        return f"the step is the longer: {findings.step_seconds:.3g} s, a batch is ready in {batch:.3g} s at best"
    share = findings.one_thread.seconds[bottleneck] / sum(findings.one_thread.seconds.values())
    line = f"{bottleneck} takes {share:.0%} of the time of a clip"
    if findings.step_seconds:
        wait = batch - findings.step_seconds
        line += f"; the step ({findings.step_seconds:.3g} s) waits {wait:.3g} s for each batch ({batch:.3g} s) at best"
    return line


def _say_setting(findings: Findings, chosen: Trial, best: Trial, wanted: float) -> str:
    fields = ", ".join(f"data.{name}={value}" for name, value in dataclasses.asdict(chosen.setting).items())
    if chosen.clips_per_second >= wanted:
        why = f"the smallest that makes batches in {_ROOM:g} of the step ({wanted:.0f} clips/s)"
    elif chosen == best:
        why = "the fastest, and no smaller one comes within 5 %"
    else:
        why = f"the smallest within 5 % of the fastest ({best.clips_per_second:.0f} clips/s)"
    line = f"{fields}: {chosen.clips_per_second:.0f} clips/s, {why}"
    now = findings.trials[0]
    if now.setting == chosen.setting:
        return f"keep {line}"
    return f"set {line}; now {now.clips_per_second:.0f} clips/s"


def _say_cores(findings: Findings, best: Trial) -> list[str]:
    if not findings.step_seconds:
        return []
    wanted = findings.batch_size / (_ROOM * findings.step_seconds)
    cores = math.ceil(wanted / findings.one_thread.clips_per_second)
    line = f"to hide decoding behind the step: {wanted:.0f} clips/s, {cores} cores like these"
    return [f"{line}; {findings.cores} give {best.clips_per_second:.0f} clips/s"]


def _say_storage(findings: Findings) -> list[str]:
    seconds, lines = findings.one_thread.seconds, []
    if seconds["read"] > sum(seconds.values()) / 2:
        lines.append("reading is slow: keep the videos on a local disk, or more data.read_threads to wait side by side")
    now = seconds["read"] + seconds["decode"] + seconds["resize"]
    rest = sum(seconds.values()) - now
    paying = [copy for copy in findings.copies if copy.seconds <= _COPY_PAYS * now]
    if paying and not (findings.storage != "raw" and paying[0].storage == "jpeg"):
        lines += [
            f"as {copy.storage} at the training size (data.storage=array_record), {copy.bytes_a_frame / 1000:.1f} kB a "
            f"frame, clips would come {(now + rest) / (copy.seconds + rest):.1f} times as fast"
            for copy in paying
        ]
    elif findings.storage == "raw":
        lines.append("keep data.storage=raw: copies at the training size would cost nearly as much to decode")
    return lines
