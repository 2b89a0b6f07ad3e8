"""Mini tasks from their specs."""

import pytest

from r1jax.tasks.mini.make import MINI_TASKS, make_mini_task
from tests.tasks.specs import spec


def test_a_task_has_the_settings_of_its_spec():
    task = make_mini_task(spec({"kind": "mini", "name": "pair_sum", "config": {"count": 5, "high": 40}}))
    assert len(task.problem(0, split="train").columns["numbers"]) == 5
    assert (
        make_mini_task(spec({"kind": "mini", "name": "safety", "config": {"heldout_fraction": 0.4}})).heldout_fraction
        == 0.4
    )


def test_every_task_has_its_name():
    for name in MINI_TASKS:
        task = make_mini_task(spec({"kind": "mini", "name": name}))
        assert task.name == task.problem(0, split="heldout").columns["task"] == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "nothing"}, "task.name='nothing' must be one of 'pair_sum', 'helpful', 'safety'"),
        ({"name": "pair_sum", "counts": 3}, "there is no key 'task.counts'"),
        (
            {"name": "pair_sum", "config": {"counts": 3}},
            "config: task 'pair_sum' has no setting 'counts'; near it: count",
        ),
        ({"name": "safety", "config": {"count": 3}}, "no setting 'count'; there are heldout_fraction"),
        ({"name": "pair_sum", "config": {"name": "x"}}, "no setting 'name'"),
        ({"name": "pair_sum", "config": {"count": 9}}, "config: pair_sum: count=9"),
        ({"name": "pair_sum", "config": {"high": 9}}, "at least 16 numbers"),
        ({"name": "pair_sum", "config": {"count": "four"}}, "config: .*not supported between"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        make_mini_task(spec({"kind": "mini", **values}))
