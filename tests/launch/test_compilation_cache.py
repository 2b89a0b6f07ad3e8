from pathlib import Path

import jax
import pytest

from r1jax.launch.compilation_cache import processor_fingerprint, use_compilation_cache


@pytest.fixture(autouse=True)
def restored():
    """The settings of this process as they were."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_folder_follows_the_users_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = use_compilation_cache(min_compile_seconds=0.25)
    assert folder == tmp_path / "r1jax" / "xla" / processor_fingerprint()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.25
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert use_compilation_cache() == Path.home() / ".cache" / "r1jax" / "xla" / processor_fingerprint()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert use_compilation_cache() == tmp_path / "mine"


def test_fingerprint_is_the_same_every_time():
    assert processor_fingerprint() == processor_fingerprint()
    assert len(processor_fingerprint()) == 12
