"""What holds for the tests of rewards, many of which bound their CPU time."""

import gc

import pytest


@pytest.fixture(autouse=True)
def garbage_of_this_test_only():
    """Without it a collection goes through all that earlier tests left in this process: a second for eight million objects."""
    gc.freeze()
    yield
    gc.unfreeze()
