"""What all commands share: errors as one line with an exit code, never a traceback for a user's mistake."""

import logging
import os
import sys
from collections.abc import Callable, Mapping

from absl import app, flags

from hvt_jax import disk
from hvt_jax.commands import config_file

BAD_INPUT, INTERRUPTED = 2, 130
_HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-?"}
_FULL_HELP = {"-helpfull", "--helpfull"}
# Where the errors live whose message is meant for the user. Only modules that were imported are asked: none of them is
# worth importing here, because decoding processes import the main module again and must not pay for jax.
_ERRORS = {
    "hvt_jax.settings.reader": "SettingsError",
    "hvt_jax.run.seals": "CheckpointError",
    "hvt_jax.run.metrics": "MetricsError",
    "hvt_jax.run.run_folder": "RunFolderError",
}


def parse_flags(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parse the command line; a mistake in it, or in the config file it names, ends with one line and code 2.

    `--help` prints the command's documentation with its examples and ends with code 0.
    """
    argv = [_expand(word) for word in argv]
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if not _HELP.isdisjoint(words) or not _FULL_HELP.isdisjoint(words):
        app.usage(shorthelp=_FULL_HELP.isdisjoint(words), writeto_stdout=True)
        sys.exit(0)
    absl_logger = logging.getLogger("absl")
    absl_logger.disabled = True  # config_flags warns of a config that is None; ours is the only line
    try:
        rest = values(argv)
    except (Exception, flags.Error) as error:  # a config file is code: it may raise anything
        sys.exit(fail(config_file.explain(words, values, error) or " ".join(str(error).split())))
    finally:
        absl_logger.disabled = False
    if line := config_file.explain(words, values):
        sys.exit(fail(line))
    for name in values:
        # An empty path would be the current folder, an empty list nothing to do; most likely a variable of the shell
        # was not set.
        if values[name].present and values[name].value in ("", []) and not name.startswith("config."):
            sys.exit(fail(f"--{name} is empty; give it a value or leave it out"))
    return rest


def _expand(word: str) -> str:
    """Return `--workdir=~/runs` with the home folder, which shells put in only where ~ begins a word."""
    name, equals, value = word.partition("=")
    return f"{name}={os.path.expanduser(value)}" if word.startswith("-") and equals else word


def refuse(argv: list[str], *needed: flags.FlagHolder, example: str = "") -> int:
    """Return 2, with one line, for a word that is no option or a needed flag without a value; else 0."""
    if len(argv) > 1:
        return fail(f"unknown argument {argv[1]!r}; options begin with --")
    for flag in needed:
        if not flag.value:
            return fail(f"--{flag.name} is missing; e.g. {example}")
    return 0


def run(command: Callable[[], int], *, output: str | None = None, resumed: str = "to go on where it stopped") -> int:
    """Return `command`'s exit code, or 2 with one line if what the user gave, or the disk, cannot be used.

    Args:
      command: does the work.
      output: where it writes, for errors of the system that name no file.
      resumed: why to run the same command again after Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", force=True)
    logging.getLogger("hvt_jax").setLevel(logging.INFO)
    try:
        return command()
    except _errors_for_users() as error:
        return fail(str(error))
    except OSError as error:
        if not disk.is_refusal(error):
            raise
        return fail(disk.explain(error, error.filename or output, "name another place", "used"))
    except KeyboardInterrupt:
        fail(f"interrupted; run the same command again {resumed}")
        return INTERRUPTED


def _errors_for_users() -> tuple[type[Exception], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in _ERRORS.items() if module in sys.modules)


def how_to_train(out: str, overrides: Mapping[str, object]) -> str:
    """Return the command that begins a run with imported weights in `out`, and the fields that make them fit."""
    shown = {name: f"'{value}'" if isinstance(value, tuple) else value for name, value in overrides.items()}
    fields = {"model.initial_weights": f"{out}/model.safetensors"} | shown
    flags_given = " ".join(f"--config.{name}={value}" for name, value in fields.items())
    return f"train with: python -m hvt_jax.main --config=CONFIG --workdir=RUN {flags_given}"


def fail(line: str) -> int:
    """Print one line to standard error and return exit code 2."""
    print(f"error: {line}", file=sys.stderr)
    return BAD_INPUT
