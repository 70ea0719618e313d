"""Parameters that never train: they count as statistics, so no gradient, no optimizer and no decay meets them."""

from flax import nnx


class Frozen(nnx.BatchStat):
    """A parameter that keeps its value; saved and restored with the running statistics."""


def freeze(module: nnx.Module) -> None:
    """Turn every parameter in `module` into one that never trains; paths stay."""
    for _, part in list(nnx.iter_modules(module)):  # a list, as parts change on the way
        for name, value in list(vars(part).items()):
            if isinstance(value, nnx.Param):
                setattr(part, name, Frozen(value[...]))
