"""What the command `curriculum` does once its flags are parsed: where stages, weights and runs meet."""

from ml_collections import ConfigDict

from hvt_jax.interop import hand_over, start
from hvt_jax.settings.curriculum import of_stage, read_curriculum
from hvt_jax.tools import curriculum, curriculum_plan, curriculum_report


def run(config: ConfigDict, workdir: str, *, dry_run: bool) -> int:
    """Print the stages, and train them in `workdir` unless it is a dry run; return the exit code.

    Raises:
      SettingsError: for a stage that cannot be trained, before the first one is.
    """
    read = read_curriculum(config)
    planned = curriculum_plan.plan(read)
    print("\n".join(curriculum_report.plan_table(planned)))
    for before, now in zip(planned, planned[1:], strict=False):
        with of_stage(now.stage.name):
            expected = hand_over.expect(before.definition, now.definition, read.grow, before.stage.name)
        if dry_run:
            print(f"\nstage {now.stage.name}, {expected.table[0]}")
            print("\n".join([*expected.table[1:], *expected.arrays]))
    if dry_run:
        return 0
    parts = curriculum.HandOver(hand_over.hand_over, hand_over.starter, hand_over.read_source, start.start_from)
    return curriculum.run(read, planned, workdir, parts, lambda line: print(line, flush=True))
