"""Config files by themselves; the front door's tests show what a person sees of their errors."""

from pathlib import Path

import pytest

from r1jax.config_file import ConfigError, load_config

REPOSITORY = Path(__file__).parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config(argument="3"):
    config = ConfigDict({"seed": int(argument), "rate": 1e-3, "cap": None, "rewards": [{"weight": 1.0}], "flag": True})
    config.also = config.get_ref("seed")
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(CONFIG)
    return str(path)


def test_every_config_of_the_repository_loads():
    paths = sorted(REPOSITORY.glob("configs/*.py"))
    assert paths
    for path in paths:
        assert load_config(str(path)).is_locked


def test_argument_and_flags(file):
    flags = ["--config.rate=2", "--config.cap=[1, 2]", "--config.rewards[0].weight=0.5", "--noconfig.flag"]
    config = load_config(f"{file}:5", flags)
    assert config.to_dict() == {
        "seed": 5, "also": 5, "rate": 2.0, "cap": [1, 2], "rewards": [{"weight": 0.5}], "flag": False,
    }  # fmt: skip
    assert load_config(file, ["--config.seed=9"]).also == 9


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.sed=1", "has no key sed; near it: seed"),
        ("--config.rate=high", "rate=high"),
        ("--config.rewards=1", "must be a list"),
        ("--rate=1", "unknown flag --rate"),
    ],
)
def test_bad_flags(file, flag, words):
    with pytest.raises(ConfigError, match=words):
        load_config(file, [flag])
