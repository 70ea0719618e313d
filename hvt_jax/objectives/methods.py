"""The methods of training, by the name that `config.method` gives."""

from hvt_jax.objectives.brave import Brave
from hvt_jax.objectives.local_methods import Joint, Local
from hvt_jax.objectives.masked import Jepa, Mae
from hvt_jax.objectives.method import Method
from hvt_jax.objectives.supervised import Supervised
from hvt_jax.objectives.svt import Svt
from hvt_jax.objectives.vicreg import Vicreg
from hvt_jax.settings import Settings

METHODS: dict[str, Method] = {
    "local": Local(),
    "joint": Joint(),
    "supervised": Supervised(),
    "vicreg": Vicreg(),
    "svt": Svt(),
    "brave": Brave(),
    "jepa": Jepa(),
    "mae": Mae(),
}


def parameter_groups(settings: Settings) -> tuple[str, ...]:
    """Return the parameter groups of a run: those of its method for its hierarchy."""
    return METHODS[settings.method].groups(settings.model.levels)
