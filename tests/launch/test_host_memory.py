import ctypes
import sys

import pytest

from r1jax.launch import host_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_glibc_takes_the_settings():
    assert host_memory.keep_freed_memory() is True


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(host_memory.sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert host_memory.keep_freed_memory() is False
