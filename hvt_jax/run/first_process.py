"""Of all the processes of a run one writes its folder and speaks: the first."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Result = TypeVar("Result")


def is_first() -> bool:
    """Return whether this is that process; what only it may do must not be waited for by the others."""
    return jax.process_index() == 0


def in_first(action: Callable[[], Result], failure: Exception) -> Result | None:
    """Return what `action` returns in the first process, and None in the others, which do nothing.

    All processes must call it. Where the action raises, all raise: the others would wait for the first until a
    heartbeat is missed.

    Args:
      action: what to do.
      failure: what the others raise.
    """
    result = error = None
    if is_first():
        try:
            result = action()
        except Exception as caught:
            error = caught
    if multihost_utils.broadcast_one_to_all(np.int32(error is not None)):
        raise error or failure
    return result
