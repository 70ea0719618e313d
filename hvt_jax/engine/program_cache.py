"""Compiled programs, kept in a folder, so that the next start of a command reads what the last one compiled."""

import os
import pathlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from hvt_jax import processor
from hvt_jax.settings import SettingsError

AUTO, NONE = "auto", "none"


def keep_programs(folder: str) -> str:
    """Keep what takes more than a second to compile; return the folder, "" if nothing is kept.

    JAX's own variable JAX_COMPILATION_CACHE_DIR goes before `folder`. Whoever can write there can have their programs
    run, so a folder that is made here is its owner's alone. Nothing removes old programs; the whole folder may be
    deleted at any time. Nothing is kept for several processes on CPUs: jax 0.10.2 ended them where the training step
    came from the cache, as their collectives met in different orders.

    Args:
      folder: a path, "none", or "auto": `hvt_jax` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), or
        nowhere if that cannot be written or belongs to somebody else.

    Raises:
      SettingsError: for a path that cannot be made.
    """
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # as below
        return ""
    if jax.config.jax_compilation_cache_dir:
        return jax.config.jax_compilation_cache_dir
    if folder == NONE:
        return ""
    try:
        path = _users_cache() if folder == AUTO else pathlib.Path(folder).expanduser()
        if jax.default_backend() == "cpu":
            path /= f"cpu-{processor.kind()}"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder == AUTO and (not os.access(path, os.W_OK) or path.stat().st_uid != os.getuid()):
            return ""
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
        if folder == AUTO:
            return ""
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"train.compilation_cache = {folder!r}: {reason}; name a folder that can be written, auto or none"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    compilation_cache.reset_cache()  # else one that was found to be off at the first program stays off
    return str(path)


def _users_cache() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(home) if os.path.isabs(home) else pathlib.Path("~/.cache").expanduser()) / "hvt_jax"
