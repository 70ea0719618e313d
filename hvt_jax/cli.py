"""What all commands share: errors as one line with an exit code, never a traceback for a user's mistake."""

import logging
import re
import sys
from collections.abc import Callable

from absl import flags

BAD_INPUT = 2


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a mistake in it, or in the config file it names, ends with one line and code 2."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and not isinstance(flags.FLAGS["config"].value, str | None):
            flags.FLAGS["config"].value.keys()  # a config that could not be read says so only when it is used
        return rest
    except SystemExit:
        raise
    except (Exception, flags.Error) as error:  # a config file is code: it may raise anything
        sys.exit(fail(_plain(error)))


def _plain(error: BaseException) -> str:
    """Return an error's message on one line, without the quoting and tracebacks that wrappers put around it."""
    lines = str(error).replace("\\n", "\n").replace("\\'", "'").strip().splitlines()
    text = lines[-1] if "Traceback" in str(error) else " ".join(line.strip() for line in lines)
    missing = re.search(r"No such file or directory: '([^']+)'?", text)
    if missing:
        return f"{missing.group(1)}: no such config file"
    text = re.sub(r"^'*(\w+)'* Did you mean (.*?)'*$", r"the config has no field \1; did you mean \2", text)
    return text or type(error).__name__


def run(command: Callable[[], int]) -> int:
    """Return `command`'s exit code, or 2 with one line if what the user gave cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", force=True)
    logging.getLogger("hvt_jax").setLevel(logging.INFO)
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
