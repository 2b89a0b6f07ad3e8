import hashlib
import sys
import types

from r1jax.specs.rewards import FunctionReward
from r1jax.workdir.directory import code_digests


def test_modules_named_anywhere_by_their_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge_one.py").write_text("x = 1\n")
    (tmp_path / "judge_two.py").write_text("raise ImportError('it is read, not imported')\n")
    rewards = FunctionReward(function="judge_one:f"), FunctionReward(function="judge_one:g")
    config = {"rewards": rewards, "n": (("judge_two:h",),)}
    assert code_digests(config) == {
        "judge_one": hashlib.sha256(b"x = 1\n").hexdigest()[:16],
        "judge_two": hashlib.sha256(b"raise ImportError('it is read, not imported')\n").hexdigest()[:16],
    }
    before = code_digests(config)
    (tmp_path / "judge_one.py").write_text("x = 2\n")
    after = code_digests(config)
    assert after["judge_one"] != before["judge_one"] and after["judge_two"] == before["judge_two"]


def notebook_reward():
    return 7


def test_a_function_whose_module_has_no_file(monkeypatch):
    notebook = types.ModuleType("notebook")
    notebook.reward = notebook_reward
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    source = b"def notebook_reward():\n    return 7\n"
    assert code_digests(["notebook:reward"]) == {"notebook:reward": hashlib.sha256(source).hexdigest()[:16]}


def test_what_names_no_code_is_left_out():
    words = ["plain", "a note: this", "{base}/x:y", "no_such_module_here:f", "no.such.module:f", "configs/zero.py:3", 3]
    assert code_digests({"words": words, "none": None}) == {}
