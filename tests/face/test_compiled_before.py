"""What XLA compiled is kept for the next command, and not for ever."""

import os

import jax
import pytest

from cogen.compiled_before import folder, forget_oldest, remember_compiled

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A user whose cache folder is this, and JAX as it begins there."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_user_s_cache_folder(fresh):
    remember_compiled()
    assert jax.config.jax_compilation_cache_dir == str(fresh / "cogen" / "xla") == str(folder())
    assert folder().is_dir()


@pytest.mark.parametrize("value", ["", "elsewhere"])
def test_who_has_a_folder_of_his_own_or_wants_none_is_left_alone(fresh, monkeypatch, value):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", value)
    remember_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    assert not folder().exists()


def test_a_folder_that_cannot_be_made_changes_nothing(fresh):
    (fresh / "cogen").write_text("a file in its place")
    remember_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_go_where_there_is_too_much(tmp_path):
    for age, name in enumerate(["new", "old", "oldest"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1_000 - age, 1_000 - age))
    forget_oldest(tmp_path, most=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    forget_oldest(tmp_path, most=0)
    assert not list(tmp_path.iterdir())
