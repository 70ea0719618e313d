"""What all commands share: errors as one line with an exit code, never a traceback for a user's mistake."""

import logging
import sys
from collections.abc import Callable

from absl import app, flags

BAD_INPUT = 2


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a mistake in it, or in the config file it names, ends with one line and code 2."""
    try:
        return app.parse_flags_with_usage(argv)
    except SystemExit:
        raise
    except (Exception, flags.Error) as error:  # a config file is code: it may raise anything
        sys.exit(fail(f"{' '.join(str(error).split())}"))


def run(command: Callable[[], int]) -> int:
    """Return `command`'s exit code, or 2 with one line if what the user gave cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", force=True)
    # Imported late: decoding processes import the main module again and must not pay for jax.
    from hvt_jax.engine.checkpoint import CheckpointError
    from hvt_jax.engine.metrics import MetricsError
    from hvt_jax.engine.run_folder import RunFolderError
    from hvt_jax.settings import SettingsError

    try:
        return command()
    except (SettingsError, RunFolderError, CheckpointError, MetricsError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("interrupted; run the same command again to go on from the last checkpoint") + 128


def fail(line: str) -> int:
    """Print one line to standard error and return exit code 2."""
    print(f"error: {line}", file=sys.stderr)
    return BAD_INPUT
