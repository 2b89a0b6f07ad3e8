"""What of a stage that samples is tried before the first stage computes: without weights, also of a policy still to be trained."""

import json
import signal

import pytest

from r1jax.models.transformer import Model
from r1jax.policies.preview import Previews
from r1jax.specs.reader import read
from r1jax.specs.stages import SupervisedSpec
from r1jax.stages.rl import stage as rl
from tests.stages.rl.test_stage import LENGTH, PAIRS, tiny_config
from tests.tiny import POLICY

LEGS = {"kind": "reasoning_gym", "dataset": "leg_counting"}


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    """Weights that are made, or read, are an error."""

    def fail(*args, **kwargs):
        raise AssertionError("a check needs no weights")

    monkeypatch.setattr(Model, "init", fail)
    monkeypatch.setattr("r1jax.policies.policy.load_checkpoint", fail)


def check(tmp_path, *, tokenizer=POLICY["tokenizer"], **changes):
    """Tries an RL stage whose policy is to be trained by a stage that has not run."""
    path = str(tmp_path / "base")
    values = {"init": POLICY | {"tokenizer": tokenizer}, "template": "plain", "num_updates": 1}
    base = read(SupervisedSpec, values | {"data": POLICY["tokenizer"]["source"]})
    rl.check(tiny_config(init={"kind": "stage", "path": path}, **changes), Previews({path: base}))


def files(tmp_path, *, train, heldout):
    """A task of questions in files."""
    task = {"kind": "files", "name": "sums"}
    for split, questions in (("train", train), ("heldout", heldout)):
        task[split] = str(tmp_path / f"{split}.jsonl")
        lines = (json.dumps({"prompt": question, "answer": "1"}) + "\n" for question in questions)
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return task


SHORT = [f"What is {number}?" for number in range(4)]
OTHERS = [f"Is it {number}?" for number in range(4)]


def test_a_stage_that_can_run_passes(tmp_path):
    check(tmp_path)
    check(tmp_path, tasks=[files(tmp_path, train=SHORT, heldout=OTHERS)])


def test_a_cap_that_holds_no_prompt_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"^max_prompt_tokens=4: .* training prompts of task 'pair_sum' have \d+ tokens"
    ):
        check(tmp_path, max_prompt_tokens=4)


def test_the_cap_is_held_against_each_task_of_a_mixture(tmp_path):
    with pytest.raises(ValueError, match=r"^max_prompt_tokens=100: .* prompts of task 'leg_counting' have \d+ tokens"):
        check(tmp_path, tasks=[*PAIRS, LEGS])
    check(tmp_path, tasks=[*PAIRS, LEGS], max_prompt_tokens=300, row_length=None)


def test_one_prompt_that_fits_is_enough_in_training_and_not_where_it_is_held_out(tmp_path):
    long = "Please " * 60 + "add 2."
    check(tmp_path, tasks=[files(tmp_path, train=[long, *SHORT], heldout=OTHERS)])
    with pytest.raises(ValueError, match=r"^max_prompt_tokens=100: a held-out prompt of task 'sums' has \d+ .*'Please"):
        check(tmp_path, tasks=[files(tmp_path, train=SHORT, heldout=[*OTHERS[:3], long])])


def test_fewer_held_out_problems_than_are_asked_for(tmp_path):
    task = files(tmp_path, train=SHORT, heldout=OTHERS[:3])
    with pytest.raises(ValueError, match=r"^eval\.final_problems=4: task 'sums' has only 3 distinct heldout problems"):
        check(tmp_path, tasks=[task])
    check(tmp_path, tasks=[task], eval={"final_problems": None, "problems": 3})
    with pytest.raises(ValueError, match="3 distinct heldout problems, 4 are asked for"):
        check(tmp_path, tasks=[task], eval={"final_problems": None, "problems": 4})


def with_alarm(prompts, completions, **columns):
    """A time limit that only the main thread can have; rewards are called in another."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return [0.0] * len(completions)


def test_a_reward_that_needs_the_main_thread_fails_in_the_check_too(tmp_path):
    words = "reward 'with_alarm' fails on every answer: ValueError: signal only works in main thread"
    with pytest.raises(ValueError, match=words):
        check(tmp_path, rewards=[LENGTH, {"function": f"{__name__}:with_alarm"}])


def test_a_tokenizer_that_is_not_known_yet_holds_nothing_up(tmp_path):
    check(tmp_path, max_prompt_tokens=4, tokenizer=POLICY["tokenizer"] | {"source": {"path": str(tmp_path / "later")}})
