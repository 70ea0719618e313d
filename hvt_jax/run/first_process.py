"""Of all the processes of a run one writes its folder and speaks: the first."""

import jax


def is_first() -> bool:
    """Return whether this is that process; what only it may do must not be waited for by the others."""
    return jax.process_index() == 0
