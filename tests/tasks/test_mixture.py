import pytest

from r1jax.tasks.mixture import Mixture, make_mixture, make_task
from r1jax.tasks.problem import GradingError, Problem, canonical_answer
from tests.tasks.specs import spec, specs

SUM = {"kind": "reasoning_gym", "dataset": "chain_sum"}
GCD = {"kind": "reasoning_gym", "dataset": "gcd"}
MINI = {"kind": "mini", "name": "pair_sum"}


class Fixed:
    def __init__(self, name):
        self.name = name

    def problem(self, index, *, split):
        return Problem(({"role": "user", "content": f"{self.name} {index} {split}"},), self.name, {"task": self.name})

    def grade(self, answer, problem):
        return float(answer == problem.answer)

    def canonical(self, answer):
        return canonical_answer(answer)


def test_weights_decide_the_shares_and_the_draw_is_fixed():
    mixture = Mixture([Fixed("a"), Fixed("b")], [3.0, 1.0], seed=0)
    names = [mixture.problem(index, split="train").columns["task"] for index in range(2000)]
    assert 1420 < names.count("a") < 1580
    assert names == [mixture.problem(index, split="heldout").columns["task"] for index in range(2000)]
    other = Mixture([Fixed("a"), Fixed("b")], [3.0, 1.0], seed=1)
    assert names != [other.problem(index, split="train").columns["task"] for index in range(2000)]


def test_each_problem_is_graded_by_its_own_task():
    mixture = make_mixture(specs([SUM, GCD, MINI]))
    assert mixture.name == "chain_sum+gcd+pair_sum"
    problems = [mixture.problem(index, split="train") for index in range(30)]
    assert {problem.columns["task"] for problem in problems} == {"chain_sum", "gcd", "pair_sum"}
    assert [mixture.grade(problem.answer, problem) for problem in problems] == [1.0] * 30
    assert [mixture.grade("no", problem) for problem in problems] == [0.0] * 30
    assert mixture.task_of(problems[0]).name == problems[0].columns["task"]
    with pytest.raises(GradingError, match="task 'other'"):
        mixture.grade("1", Problem((), "", {"task": "other"}))


def test_one_spec_gives_the_task_itself():
    assert make_mixture(specs([MINI])).name == "pair_sum"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "tasks: needs at least one"),
        ([SUM, SUM], "two are named 'chain_sum'"),
        ([SUM, {**GCD, "weight": 0.0}], r"tasks\[1\].weight=0.0 must be more than 0"),
        ([SUM, {**GCD, "weight": float("nan")}], r"tasks\[1\].weight=nan must be "),
    ],
)
def test_bad_mixtures_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        make_mixture(specs(tasks))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "maths"}, "task.kind='maths' must be one of 'reasoning_gym', 'mini', 'files'"),
        ({"dataset": "gcd"}, "the key 'task.kind' is missing"),
        ({"kind": "reasoning_gym"}, "the key 'task.dataset' is missing"),
        ({**SUM, "digits": 2}, "there is no key 'task.digits'"),
        ({"kind": "mini", "name": "nothing"}, "task.name='nothing' must be one of"),
    ],
)
def test_bad_specs_are_refused(task, message):
    with pytest.raises(ValueError, match=message):
        make_task(spec(task))
