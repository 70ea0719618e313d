"""What the optimizer's settings must be together, and with the length of the run, to have any effect.

A run that trains less than its config says would look like any other until someone reads its curves.
"""

from hvt_jax.engine.groups import levels_of
from hvt_jax.settings import OptimizerSettings, SettingsError


def check_optimizer(
    settings: OptimizerSettings, groups: tuple[str, ...], *, steps_per_epoch: int, num_steps: int
) -> None:
    """Raise SettingsError for settings that leave something untrained, with the remedy.

    Args:
      settings: see `configs/default.py`.
      groups: the parameter groups of the method, its levels lowest first.
      steps_per_epoch: mini-batches in an epoch.
      num_steps: mini-batches in the run.
    """
    _check_frozen(settings.frozen, groups)
    count = settings.accumulation_steps
    if count > num_steps:
        raise SettingsError(
            f"optimizer.accumulation_steps = {count}, but the run has {num_steps} steps, too few for one update; "
            f"use at most {num_steps}, or raise train.num_epochs or train.max_steps"
        )
    # An update keeps the turn of its first batch, and trailing batches fill no update.
    last_start = (num_steps // count - 1) * count
    for level in levels_of(groups):
        start = getattr(settings.start_epochs, level)
        if round(start * steps_per_epoch) > last_start:
            own = [group for group in groups if group.split("/")[0] == level]
            raise SettingsError(
                f"optimizer.start_epochs.{level} = {start:g}, but the last update of the run begins at step "
                f"{last_start}, {last_start / steps_per_epoch:g} epochs in, so {level} would never train; start it "
                f"earlier, raise train.num_epochs or train.max_steps, or name {' and '.join(own)} in "
                "optimizer.frozen"
            )


def _check_frozen(frozen: tuple[str, ...], names: tuple[str, ...]) -> None:
    unknown = [label for label in frozen if label not in names]
    if unknown:
        raise SettingsError(f"optimizer.frozen names {', '.join(unknown)}; the groups are {', '.join(names)}")
    if set(frozen) == set(names):
        raise SettingsError(
            f"optimizer.frozen names all {len(names)} groups ({', '.join(names)}), so nothing would train; "
            "leave at least one out"
        )
