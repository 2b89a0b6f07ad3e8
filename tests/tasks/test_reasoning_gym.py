import json
import random
import subprocess
import sys

import pytest

from r1jax.tasks import reasoning_gym
from r1jax.tasks.problem import GradingError, Problem
from r1jax.tasks.reasoning_gym import ReasoningGymTask
from tests.tasks.specs import spec

ONE_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def gym(dataset, **fields):
    return ReasoningGymTask(spec({"kind": "reasoning_gym", "dataset": dataset, **fields}))


def make(**changes):
    return gym("chain_sum", **{"config": ONE_DIGIT, **changes})


def question(problem):
    return problem.messages[-1]["content"]


def test_problems_are_deterministic_random_access_and_json_able():
    task = make()
    problems = [task.problem(index, split="train") for index in (0, 7, 600)]
    assert [make().problem(index, split="train") for index in (600, 0, 7)] == [problems[2], problems[0], problems[1]]
    assert json.loads(json.dumps(problems[0].columns)) == problems[0].columns
    assert problems[0].columns["task"] == "chain_sum"
    assert [make(seed=1).problem(index, split="train") for index in (0, 7, 600)] != problems


def test_no_question_is_on_both_sides_of_a_small_space():
    task = make()
    train = {question(task.problem(index, split="train")) for index in range(1000)}
    heldout = {question(task.problem(index, split="heldout")) for index in range(200)}
    assert len(train) > 100 and len(heldout) > 25
    assert not train & heldout
    assert not train & {question(make(seed=5).problem(index, split="heldout")) for index in range(50)}


def test_a_space_too_small_for_the_split_is_an_error():
    task = make(heldout_fraction=0.0001)
    task._max_tries = 50
    with pytest.raises(ValueError, match=r"'chain_sum': no heldout question among 50 .* too few different questions"):
        task.problem(0, split="heldout")


def test_grade_is_the_data_sets_own_score():
    task = make()
    problem = task.problem(3, split="train")
    assert task.grade(problem.answer, problem) == 1.0
    assert task.grade(f" {problem.answer}\n", problem) == 1.0
    assert task.grade(str(int(problem.answer) + 1), problem) == 0.0
    for bad in (None, "", "  ", "x" * 100_000, "\x00", "__import__('os')"):
        assert task.grade(bad, problem) == 0.0


def test_a_score_below_one_is_passed_on():
    task = gym("countdown")
    problem = task.problem(0, split="train")
    assert task.grade("1 + 1", problem) == 0.05
    assert task.grade("9**9**9**9", problem) == 0.0
    assert task.grade(task.entry(problem)["metadata"]["expression"], problem) == 1.0


def test_a_scorer_that_raises_on_the_answer_gives_zero_and_on_its_own_answer_an_error(monkeypatch):
    task = make()
    problem = task.problem(0, split="train")

    def picky(answer, entry):
        return float(int(answer) == int(entry["answer"]))

    monkeypatch.setattr(task, "_score", picky)
    assert task.grade("not a number", problem) == 0.0

    def broken(answer, entry):
        raise OSError("no disk")

    monkeypatch.setattr(task, "_score", broken)
    with pytest.raises(GradingError, match=r"chain_sum.*no disk"):
        task.grade("1", problem)


def test_a_problem_of_another_task_or_configuration_is_not_graded():
    problem = make().problem(0, split="train")
    with pytest.raises(GradingError, match="task 'other' was given a problem of task 'chain_sum'"):
        make(name="other").grade("1", problem)
    with pytest.raises(GradingError, match="another question"):
        make(config={**ONE_DIGIT, "max_terms": 6}).grade(
            "1", Problem(({"role": "user", "content": "?"},), "", problem.columns)
        )


def test_answer_instruction_follows_the_question():
    plain, task = make(), make(answer_instruction="Put only the number inside <answer>.")
    problem = task.problem(0, split="train")
    assert question(problem) == question(plain.problem(0, split="train")) + "\nPut only the number inside <answer>."
    assert task.grade(problem.answer, problem) == 1.0


def test_global_random_state_neither_matters_nor_changes():
    task = gym("list_functions")
    random.seed(1)
    before = random.getstate()
    first = task.problem(0, split="train")
    assert random.getstate() == before
    random.seed(2)
    reasoning_gym._entry.cache_clear()
    assert task.problem(0, split="train") == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "chainsum"}, "no data set 'chainsum'; near it: chain_sum"),
        ({"dataset": "qqqq"}, "there are ab, "),
        (
            {"dataset": "chain_sum", "config": {"digits": 1}},
            "unknown config key digits; known are allow_negation, max_digits",
        ),
        ({"dataset": "chain_sum", "config": {"seed": 1}}, "unknown config key seed"),
        (
            {"dataset": "chain_sum", "config": {"min_terms": 9}},
            "bad config {'min_terms': 9}: max_terms must be >= min_terms",
        ),
        ({"dataset": "chain_sum", "heldout_fraction": 1.0}, "task.heldout_fraction=1.0 must be in (0, 1)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as error:
        gym(**arguments)
    assert message in str(error.value)


def test_a_data_set_that_depends_on_the_hash_seed_needs_it_fixed(monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(ValueError, match=r"'ransom_note'.*PYTHONHASHSEED=0"):
        gym("ransom_note")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    gym("ransom_note")


def test_tasks_import_no_jax_and_reasoning_gym_only_when_used():
    code = (
        "import sys, r1jax.tasks.mixture, r1jax.tasks.reasoning_gym, r1jax.rewards.rubric;"
        "import r1jax.rewards.accuracy, r1jax.text.chat;"
        "sys.exit(any(name in sys.modules for name in ('jax', 'reasoning_gym', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
