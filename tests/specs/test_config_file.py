"""Config files by themselves; the front door's tests show what a person sees of their errors."""

import sys
from pathlib import Path

import pytest

from r1jax.specs.config_file import ConfigError, load_config

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


def test_a_config_imports_what_lies_beside_it_and_nothing_else_does(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "common.py").write_text(f"NAME = {name!r}\n")
        source = "def get_config():\n    from common import NAME\n    return ConfigDict({'name': NAME})\n"
        (tmp_path / name / "x.py").write_text(f"from ml_collections import ConfigDict\n{source}")
    path = list(sys.path)
    assert [load_config(str(tmp_path / name / "x.py")).name for name in ("a", "b", "a")] == ["a", "b", "a"]
    assert sys.path == path and "common" not in sys.modules
