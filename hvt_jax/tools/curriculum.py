"""Stages of a curriculum, one run after the other in a folder of its own: planned, run, resumed.

    RUN/1_images/   RUN/2_short/   ...   run folders as `hvt_jax.main` makes them; from the second on with `initial/`
    RUN/curriculum.json   RUN/report.md

What is done is known from curriculum.json, what is under way from the run folders; so the same command goes on wherever
the one before ended.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hvt_jax.run import loop, run_folder
from hvt_jax.run.run_folder import RunFolder, RunFolderError
from hvt_jax.settings import Settings, SettingsError
from hvt_jax.settings.curriculum import Curriculum, Grow, Stage
from hvt_jax.tools import curriculum_report, training
from hvt_jax.tools.curriculum_plan import PlannedStage

RECORD = "curriculum.json"
# Fields that may change after a stage is done: its numbers do not depend on them.
_HARMLESS = ("logging.", "data.root", "data.storage_root", "data.manifest", "data.num_workers", "data.read_threads")
_HARMLESS += ("data.prefetch_batches", "data.cache_gib", "data.video_timeout_seconds", "model.initial_weights")

_LOG = logging.getLogger(__name__)


class HandOver(NamedTuple):
    """How weights come from one stage into the next: `interop.hand_over`.

    Attributes:
      write: (folder of the stage before, "best" or "last", folder of the next) -> path of its initial weights.
      starter: (settings before, settings, how tables grow, folder) -> what `loop.train` starts from.
      read_source: folder of a stage -> what it began with.
      first: what the first stage starts from, if it names initial weights.
    """

    write: Callable[[str, str, str], str]
    starter: Callable[[Settings, Settings, Grow, str], loop.StartFrom]
    read_source: Callable[[str], dict[str, Any]]
    first: loop.StartFrom


def run(
    curriculum: Curriculum,
    planned: list[PlannedStage],
    workdir: str,
    hand_over: HandOver,
    say: Callable[[str], object],
) -> int:
    """Train all stages that are not done; return 0, or the exit code of the stage that ended otherwise.

    Args:
      curriculum: from `settings.curriculum`.
      planned: from `curriculum_plan.plan`.
      workdir: the folder of the whole; made if it is not there.
      hand_over: how weights come from one stage into the next.
      say: is told what happens between the stages.

    Raises:
      SettingsError: if a stage that is done was trained with another config.
      RunFolderError: if the folder holds something else, is in use, or cannot be written.
      and what `loop.train` raises.
    """
    if os.path.exists(os.path.join(workdir, "metrics.jsonl")):
        raise RunFolderError(f"{workdir} is the folder of one run; a curriculum needs its own: give another --workdir")
    with RunFolder(workdir, warn=_LOG.warning) as folder:
        record = Record(folder.path, curriculum)
        for index, now in enumerate(planned):
            own = os.path.join(folder.path, now.stage.folder)
            title = f"stage {now.stage.number} of {len(planned)}, {now.stage.name}"
            if record.is_done(now.stage):
                say(f"{title}: done before, {own}")
                continue
            before = planned[index - 1].stage if index else None
            config, start_from = now.stage.config, hand_over.first
            record.put(now, {"outcome": "running"})
            if before is not None:
                weights = hand_over.write(os.path.join(folder.path, before.folder), curriculum.hand_over, own)
                start_from = hand_over.starter(before.settings, now.stage.settings, curriculum.grow, own)
                config = _with_weights(config, weights)
                source = hand_over.read_source(own)
                record.put(now, {"outcome": "running", "began_with": source})
                title += f": from step {source['step']} of {source['source']} ({source['checkpoint']})"
            say(f"{title}, {own}")
            code = training.train(config, own, start_from)
            record.put(now, curriculum_report.read_stage(now, own))
            if code != loop.DONE:
                return code
        record.finish()
        say(f"curriculum {os.path.join(folder.path, RECORD)} and report.md")
    return loop.DONE


def _with_weights(config: ConfigDict, weights: str) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.model.initial_weights = weights
    return config.lock()


class Record:
    """`curriculum.json`: how far the stages are; written anew at every change."""

    def __init__(self, folder: str, curriculum: Curriculum):
        """Read what is there, and refuse a curriculum in which something differs from what came of it so far.

        A stage that is under way may change as any run may; `loop.train` warns of it, or refuses.

        Raises:
          SettingsError: naming the stage and the field.
          RunFolderError: if the file is damaged.
        """
        self._path, self._folder, self._curriculum = os.path.join(folder, RECORD), folder, curriculum
        self._content: dict[str, Any] = {"outcome": "running", "stages": []}
        if os.path.exists(self._path):
            self._content = _read(self._path)
        self._check()
        self._content |= {"outcome": "running", "hand_over": curriculum.hand_over, "grow": curriculum.grow}

    def is_done(self, stage: Stage) -> bool:
        """Return whether a stage came to its end, what its config wants to be evaluated included."""
        rows = self._content["stages"]
        return len(rows) >= stage.number and rows[stage.number - 1]["outcome"] == "done"

    def put(self, planned: PlannedStage, facts: Mapping[str, Any]) -> None:
        """Write what is known of a stage, beside what was known of it."""
        rows, index = self._content["stages"], planned.stage.number - 1
        before = rows[index] if index < len(rows) else {}
        rows[index:] = [before | {"name": planned.stage.name, "folder": planned.stage.folder} | dict(facts)]
        self._write()

    def finish(self) -> None:
        """Write that all is done, and the report."""
        self._content["outcome"] = "done"
        self._content["total"] = curriculum_report.total(self._content["stages"])
        self._write()
        text = curriculum_report.report(self._content)
        run_folder.write_file(os.path.join(self._folder, "report.md"), text.encode())

    def _write(self) -> None:
        run_folder.write_json(self._path, self._content)

    def _check(self) -> None:
        begun = self._content["stages"]
        names = [stage.name for stage in self._curriculum.stages]
        had = [row["name"] for row in begun]
        if had != names[: len(had)]:
            raise SettingsError(
                f"{self._folder} has run the stages {', '.join(had)}, but config.order is {', '.join(names)}; begin as "
                "before, or give another --workdir"
            )
        for name in ("hand_over", "grow") if len(begun) > 1 else ():
            if self._content[name] != getattr(self._curriculum, name):
                raise SettingsError(
                    f"config.{name} = {getattr(self._curriculum, name)}, but {self._folder} began with "
                    f"{self._content[name]}; set it so, or give another --workdir"
                )
        for row, stage in zip(begun, self._curriculum.stages, strict=False):
            if row["outcome"] == "done":
                self._check_done(stage)

    def _check_done(self, stage: Stage) -> None:
        folder = os.path.join(self._folder, stage.folder)
        changes = run_folder.config_changes(os.path.join(folder, "config.json"), stage.config)
        changed = [name for name in changes if not name.startswith(_HARMLESS)]
        if changed:
            before, now = changes[changed[0]]
            raise SettingsError(
                f"stage {stage.name}: config.{changed[0]} = {now}, but it is done, with {before}, in {folder}"
                f"{f' ({len(changed)} fields differ)' if len(changed) > 1 else ''}; set it so or give another --workdir"
            )


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        _ = [(row["name"], row["outcome"]) for row in content["stages"]], content["hand_over"], content["grow"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); give another --workdir") from None
    return content
