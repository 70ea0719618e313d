"""Train from a config: `python -m hvt_jax.main --config=configs/digits.py --workdir=runs/digits`.

A run that is in the folder is resumed. `--config.train.batch_size=64` overrides a field,
`--config=configs/digits.py:smoke` gives the config an argument, `--describe` prints the model and stops.
Exit codes: 0 done, 2 bad config or data, 3 diverged, 4 collapsed, 143 preempted and saved.
"""

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Config document, e.g. configs/digits.py.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, e.g. runs/digits; a run in it is resumed.")
DESCRIBE = flags.DEFINE_bool("describe", False, "Print levels, tokens, edges, FLOPs and all parameters, and stop.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes; under SLURM or MPI nothing else.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "With --distributed elsewhere: host:port of process 0.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: the number of this one, from 0.")
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout_seconds", 60, "With --distributed: when one process is silent for so long, all end.", 1
)

_INITIALIZATION_TIMEOUT = 300  # seconds; the nodes of a job may start minutes apart


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    needed = (CONFIG,) if DESCRIBE.value else (CONFIG, WORKDIR)
    if code := cli.refuse(argv, *needed, example="--config=configs/digits.py --workdir=runs/digits"):
        return code
    if DESCRIBE.value:
        return cli.run(_describe)
    return cli.run(_train, output=WORKDIR.value, resumed="to go on from the last checkpoint")


def _train() -> int:
    import jax

    from hvt_jax.interop import start
    from hvt_jax.tools import training

    if DISTRIBUTED.value:  # must precede every other call of jax
        try:
            jax.distributed.initialize(
                COORDINATOR.value,
                NUM_PROCESSES.value,
                PROCESS_ID.value,
                initialization_timeout=_INITIALIZATION_TIMEOUT,
                heartbeat_timeout_seconds=HEARTBEAT.value,
            )
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            return cli.fail(f"--distributed: {reason}; give --coordinator, --num_processes and --process_id")
    return training.train(CONFIG.value, WORKDIR.value, start.start_from)


def _describe() -> int:
    from hvt_jax.engine import steps
    from hvt_jax.run import describe
    from hvt_jax.settings import read_settings

    definition = steps.define(read_settings(CONFIG.value))
    print(f"{describe.parameter_table(definition)}\n\n{describe.describe(definition)}")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
