"""Where compiled programs are kept, and that they are."""

import os
import stat

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from hvt_jax.engine import program_cache
from hvt_jax.settings import SettingsError


@pytest.fixture
def without_cache():
    """No folder is named by the environment; afterwards that of the session again."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("without_cache")
def test_a_program_is_kept_in_the_users_cache_folder_which_is_nobody_elses(home):
    jax.jit(lambda x: x - 41)(1)  # a cache that was found to be off is used nevertheless
    kept = program_cache.keep_programs("auto")
    assert os.path.dirname(kept) == str(home / "hvt_jax") and os.path.basename(kept).startswith("cpu-")
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o700
    jax.jit(lambda x: x * 3 + 41)(1)
    assert any("jit" in name for name in os.listdir(kept))


@pytest.mark.usefixtures("without_cache")
@pytest.mark.parametrize("num_processes", [1, 2])
def test_nothing_is_kept_for_several_processes_on_cpus(monkeypatch, tmp_path, num_processes):
    monkeypatch.setattr(jax, "process_count", lambda: num_processes)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))  # asked for by JAX's own variable
    compilation_cache.reset_cache()
    try:
        assert bool(program_cache.keep_programs("auto")) == (num_processes == 1)
        jax.jit(lambda x: x * 7 + 43 + num_processes)(1)
        assert bool(os.listdir(tmp_path)) == (num_processes == 1)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.usefixtures("without_cache")
def test_a_folder_of_ones_own(tmp_path):
    assert program_cache.keep_programs(str(tmp_path / "programs")).startswith(str(tmp_path / "programs" / "cpu-"))


@pytest.mark.usefixtures("without_cache")
def test_none_keeps_nothing(home):
    assert program_cache.keep_programs("none") == ""
    assert jax.config.jax_compilation_cache_dir is None and not os.listdir(home)


@pytest.mark.usefixtures("without_cache")
def test_a_cache_folder_that_cannot_be_made_costs_time_and_no_run(home):
    (home / "hvt_jax").write_text("a file")
    assert program_cache.keep_programs("auto") == ""
    with pytest.raises(SettingsError, match="programs': Not a directory; name a folder"):  # asked for by name
        program_cache.keep_programs(str(home / "hvt_jax" / "programs"))


def test_the_variable_of_jax_goes_first():
    assert program_cache.keep_programs("none") == jax.config.jax_compilation_cache_dir != ""


@pytest.mark.usefixtures("without_cache")
def test_a_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert program_cache.keep_programs("auto").startswith(str(tmp_path / ".cache" / "hvt_jax"))


@pytest.mark.usefixtures("without_cache")
def test_a_cache_folder_of_somebody_else_is_not_used(home, monkeypatch):
    kept = program_cache.keep_programs("auto")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(kept).st_uid + 1)
    assert program_cache.keep_programs("auto") == ""


@pytest.mark.usefixtures("without_cache")
def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody_knows(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(program_cache.pathlib.Path, "expanduser", nobody_knows)
    assert program_cache.keep_programs("auto") == ""
