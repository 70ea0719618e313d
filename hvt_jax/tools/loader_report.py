"""The doctor's report as tables for people and as JSON for scripts."""

import dataclasses
import json

from rich import console, table

from hvt_jax.tools.loader_trial import Report

_STAGES = {
    "read": "read, and list packets",
    "decode": "decode",
    "resize": "convert and resize",
    "sample": "choose frames, the rest",
    "collate": "collate",
}


def print_report(report: Report, screen: console.Console) -> None:
    """Print the tables and, last, the advice."""
    screen.print(_time_of_a_batch(report))
    screen.print(_one_core(report))
    screen.print(_settings(report))
    memory = " to ".join(f"{number:.0f} MB" for number in report.memory_mb)
    files = " to ".join("?" if number is None else str(number) for number in report.open_files)
    screen.print(f"trainer and workers, before and after: {memory} resident, {files} files open")
    for line in report.advice.lines:
        screen.print(f"* {line}", markup=False)


def write_json(report: Report, path: str) -> None:
    """Write everything as one JSON object."""
    with open(path, "w", encoding="ascii") as file:
        json.dump(dataclasses.asdict(report), file, indent=1)
        file.write("\n")


def _time_of_a_batch(report: Report) -> table.Table:
    findings, device = report.findings, report.device
    rows = table.Table(*_columns("where the time goes", "ms a clip", f"ms a batch of {findings.batch_size}", "share"))
    whole = sum(findings.one_thread.seconds.values())
    for stage, name in _STAGES.items():
        seconds = findings.one_thread.seconds[stage]
        rows.add_row(
            name, f"{1e3 * seconds:.2f}", f"{1e3 * seconds * findings.batch_size:.1f}", f"{seconds / whole:.0%}"
        )
    rows.add_row(
        "one thread, all", f"{1e3 * whole:.2f}", f"{1e3 * whole * findings.batch_size:.1f}", "100%", end_section=True
    )
    if device:
        for name, seconds in (
            ("transfer to the device", device.transfer),
            ("augmentation on the device", device.augment),
            ("step, augmentation included", device.step),
            (f"real loop of {device.loop_batches} steps: a step", device.loop_step),
            ("real loop: of it, wait for the batch", device.loop_wait),
        ):
            rows.add_row(name, f"{1e3 * seconds / findings.batch_size:.2f}", f"{1e3 * seconds:.1f}", "")
    return rows


def _one_core(report: Report) -> table.Table:
    one, comparison = report.findings.one_thread, report.comparison
    rows = table.Table(*_columns("one core", "clips/s", "frames/s"))
    frames = report.num_frames
    for name, rate in (
        ("making samples and batches", one.clips_per_second),
        ("reading clips, median", 1 / comparison.seconds),
        ("bare decoding of the same bytes, median", 1 / comparison.bare_seconds),
    ):
        rows.add_row(name, f"{rate:.1f}", f"{rate * frames:.0f}")
    rows.add_row("reading over bare decoding", f"{comparison.ratio:.2f}", "")
    if one.bytes_read is not None:
        rows.add_row("read, MB/s", f"{one.bytes_read * one.clips_per_second / 1e6:.1f}", "")
    if one.invalid:
        rows.add_row("clips that could not be read", f"{one.invalid:.1%}", "")
    return rows


def _settings(report: Report) -> table.Table:
    names = (
        "num_workers",
        "read_threads",
        "prefetch_batches",
        "clips/s",
        "clips a core-second",
        "first batch s",
        "MB",
        "",
    )
    rows = table.Table(*_columns(*names))
    for number, trial in enumerate(report.findings.trials):
        mark = ["now"] * (number == 0) + ["chosen"] * (trial.setting == report.advice.setting)
        rate = trial.clips_per_second
        cost = "" if not trial.cpu_seconds else f"{1 / trial.cpu_seconds:.1f}"
        rows.add_row(
            *map(str, dataclasses.astuple(trial.setting)),
            *(f"{rate:.1f}", cost, f"{trial.first_batch_seconds:.2f}", f"{trial.memory_mb:.0f}"),
            ", ".join(mark),
        )
    return rows


def _columns(first: str, *others: str) -> list[table.Column]:
    return [table.Column(first), *(table.Column(name, justify="right") for name in others)]
