"""Prove that levels learn alone: `python -m hvt_jax audit --config=configs/digits.py`.

Prints the gradient norm of every level's losses with respect to every level's parameters, on random
videos and a fresh model, and lists what crosses a border: in these numbers, or as a path of the program
that other numbers could take. What a method lets cross by design (`joint`, `supervised`) is no leak.
Exit codes: 0 no leak, 1 a leak, 2 bad config.
"""

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Config document, e.g. configs/digits.py.", lock_config=True)
BATCH = flags.DEFINE_integer("batch", 4, "Random videos to take the gradients on.", lower_bound=2)
LEAK = 1


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    return cli.refuse(argv, CONFIG, example="--config=configs/digits.py") or cli.run(_audit, resumed="to begin anew")


def _audit() -> int:
    from hvt_jax.engine import isolation, steps
    from hvt_jax.settings import read_settings

    text, num_leaks = isolation.examine(steps.define(read_settings(CONFIG.value)), BATCH.value)
    print(text)
    return LEAK if num_leaks else 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
