import pytest

from r1jax.tasks.mixture import Mixture, TaskSchedule, make_mixture
from tests.tasks.specs import specs

SUMS = {"kind": "mini", "name": "pair_sum"}
LEGS = {"kind": "reasoning_gym", "dataset": "leg_counting", "weight": 3.0}
GCD = {"kind": "reasoning_gym", "dataset": "gcd"}


def drawn(task, count=40):
    return [task.problem(index, split="train") for index in range(count)]


def test_without_from_update_it_is_the_mixture():
    schedule = TaskSchedule(specs([SUMS, LEGS]), seed=3)
    mixture = make_mixture(specs([SUMS, LEGS]), seed=3)
    assert list(schedule.periods) == [0] and schedule.at(0) is schedule.at(10**6) is schedule.everything
    assert drawn(schedule.at(0)) == drawn(mixture) and schedule.everything.name == mixture.name
    assert TaskSchedule(specs([SUMS])).at(5).name == "pair_sum"


def test_a_task_is_drawn_from_its_update_on_and_not_before():
    schedule = TaskSchedule(specs([SUMS, LEGS | {"from_update": 4}, GCD | {"from_update": 8}]), seed=3)
    assert schedule.starts == {"pair_sum": 0, "leg_counting": 4, "gcd": 8}
    names = [{p.columns["task"] for p in drawn(schedule.at(updates))} for updates in (0, 3, 4, 7, 8, 99)]
    alone, two, three = {"pair_sum"}, {"pair_sum", "leg_counting"}, {"pair_sum", "leg_counting", "gcd"}
    assert names == [alone, alone, two, two, three, three]
    assert drawn(schedule.at(0)) == drawn(make_mixture(specs([SUMS])))
    assert drawn(schedule.at(4)) == drawn(make_mixture(specs([SUMS, LEGS]), seed=3))
    assert drawn(schedule.at(8)) == drawn(schedule.everything) == drawn(make_mixture(specs([SUMS, LEGS, GCD]), seed=3))
    assert list(schedule.periods) == [0, 4, 8]


def test_everything_grades_what_any_period_draws():
    schedule = TaskSchedule(specs([SUMS, LEGS | {"from_update": 4}]))
    assert isinstance(schedule.everything, Mixture)
    for updates in (0, 4):
        for problem in drawn(schedule.at(updates), 8):
            assert schedule.everything.grade(problem.answer, problem) == 1.0


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "tasks: needs at least one"),
        ([SUMS | {"from_update": 2}], "none takes part from update 0"),
        ([SUMS, LEGS | {"from_update": -1}], r"tasks\[1\].from_update=-1 must be at least 0"),
        ([SUMS, LEGS | {"from_update": True}], r"tasks\[1\].from_update=True must be a whole number"),
        ([SUMS, LEGS | {"from_update": 1.5}], r"tasks\[1\].from_update=1.5 must be a whole"),
        ([SUMS, SUMS | {"from_update": 2}], "two are named 'pair_sum'"),
        ([SUMS, LEGS | {"from_update": 2, "weight": 0.0}], r"tasks\[1\].weight=0.0 must be more than 0"),
    ],
)
def test_bad_schedules_are_named(tasks, words):
    with pytest.raises(ValueError, match=words):
        TaskSchedule(specs(tasks))
