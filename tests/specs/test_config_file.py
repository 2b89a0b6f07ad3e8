"""Config files by themselves; the front door's tests show what a person sees of their errors."""

import sys
from pathlib import Path

import pytest

from r1jax.specs.config_file import ConfigError, load_experiment

REPOSITORY = Path(__file__).parent.parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config(argument="3"):
    config = ConfigDict({"seed": int(argument), "rate": 1e-3, "cap": None, "flag": True, "shared": {"low": 1}})
    stage = {"stage": "rl", "rate": config.get_ref("rate"), "low": config.shared.get_ref("low"),
             "rewards": [{"weight": 1.0}], "pair": (1, 2), "name": "x"}
    config.stages = ConfigDict({"b": stage, "a": {}}, sort_keys=False)
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(CONFIG)
    return str(path)


def test_every_config_of_the_repository_loads():
    paths = sorted(path for path in REPOSITORY.glob("configs/**/*.py") if "def get_config" in path.read_text())
    assert len(paths) > 10
    for path in paths:
        assert load_experiment(str(path)).stages


def test_argument_seed_and_order(file):
    experiment = load_experiment(file)
    assert (experiment.file, experiment.seed, list(experiment.stages)) == (file, 3, ["b", "a"])
    assert load_experiment(f"{file}:5").seed == 5 and load_experiment(f"{file}:5", seed=9).seed == 9
    assert load_experiment(file, ["--config.seed=7"]).seed == 7


def test_flags_of_shared_keys_reach_what_refers_to_them_and_keep_their_type(file):
    stage = load_experiment(file, ["--config.rate=2", "--config.shared.low=4"]).stages["b"]
    assert stage["rate"] == 2.0 and type(stage["rate"]) is float and stage["low"] == 4


def test_flags_of_stages_set_what_the_file_has_and_what_it_has_not(file):
    flags = ["rewards[0].weight=0.5", "eval.every=8", "pair[1]=3", "optimizer={'b1': 0.5}", "name=a=b"]
    stage = load_experiment(file, [f"--config.stages.b.{flag}" for flag in flags]).stages["b"]
    assert stage["rewards"] == [{"weight": "0.5"}] and stage["eval"] == {
        "every": "8"
    }  # texts: `reader` knows the types
    assert stage["pair"] == [1, "3"] and stage["optimizer"] == "{'b1': 0.5}" and stage["name"] == "a=b"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.sed=1", "x.py: there is no key 'sed'; near it: seed"),
        ("--config.shared.lo=1", "x.py: there is no key 'shared.lo'"),
        ("--config.b.rate=1", "x.py: there is no key 'b.rate'; near it: stages.b.rate"),
        ("--config.rate=high", "x.py: rate='high' must be a number"),
        ("--config.flag=yes", "x.py: flag='yes' must be True or False"),
        ("--config.stages.c.rate=1", "x.py: there is no stage 'c'; there are b, a"),
        ("--config.stages.b=1", "name a field of the stage"),
        ("--config.stages.b.name.long=1", "stages.b.name.long is below 'x', which has no keys"),
        (
            "--config.stages.b.rewards[1].weight=1",
            "--config.stages.b.rewards[1].weight: the file has 1 reward(s) there; add it in the file",
        ),
        ("--config.stages.b.rate[0]=1", "--config.stages.b.rate[0]: the file has 0 entries there"),
        ("--config.stages.b.re wards=1", "'re wards' is no key"),
        ("--config.stages.b.rate", "--config.stages.b.rate: write --config.stages.b.rate=value"),
        ("--config.stages=1", "--config.stages is a dict; set a key below it"),
        ("--rate=1", "unknown flag --rate"),
        ("rate=1", "'rate=1' is not a flag"),
    ],
)
def test_bad_flags(file, flag, words):
    with pytest.raises(ConfigError) as error:
        load_experiment(file, [flag])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def get_config(:", "x.py, line 1: invalid syntax"),
        ("\nimport nothing_of_this_name", "x.py, line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def get_config():\n    return {}[1]", "x.py, line 2: KeyError: 1"),
        ("def get_config():\n    raise ValueError('two\\nlines')", "x.py, line 2: ValueError: two"),
        ("import sys\nsys.exit(3)", "x.py, line 2: SystemExit: 3"),
    ],
)
def test_files_that_cannot_be_run_are_said_with_their_line(file, source, words):
    Path(file).write_text(source)
    with pytest.raises(ConfigError) as error:
        load_experiment(file)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a-b", "a b", "a/b", "", "\u00e9"])
def test_names_of_stages_are_letters_digits_and_underscores(file, name):
    source = f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({{'stages': {{{name!r}: {{}}}}}})\n"
    Path(file).write_text(source)
    with pytest.raises(ConfigError) as error:
        load_experiment(file)
    assert str(error.value) == f"{file}: the stage {name!r}: a name has letters, digits and underscores only"
    Path(file).write_text(source.replace(repr(name), "'R1_zero'"))
    assert list(load_experiment(file).stages) == ["R1_zero"]


def test_a_config_imports_what_lies_beside_it_and_nothing_else_does(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "common.py").write_text(f"NAME = {name!r}\n")
        source = "def get_config():\n    from common import NAME\n    return ConfigDict({'stages': {NAME: {}}})\n"
        (tmp_path / name / "x.py").write_text(f"from ml_collections import ConfigDict\n{source}")
    path = list(sys.path)
    names = [list(load_experiment(str(tmp_path / name / "x.py")).stages) for name in ("a", "b", "a")]
    assert names == [["a"], ["b"], ["a"]]
    assert sys.path == path and "common" not in sys.modules
