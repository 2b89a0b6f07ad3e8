import pytest

from r1jax.evals.evaluate import distinct_problems
from r1jax.tasks.mixture import make_task
from r1jax.tasks.types import Problem


def test_held_out_problems_are_distinct_up_to_order():
    problems = distinct_problems(make_task({"kind": "mini", "name": "pair_sum"}), 512, split="heldout")
    keys = {(*sorted(p.columns["numbers"]), p.columns["target"]) for p in problems}
    assert len(keys) == 512


def test_a_task_with_too_few_problems_says_how_many_it_has():
    class Small:
        name = "small"

        def problem(self, index, *, split):
            return Problem(({"role": "user", "content": f"what is {index % 3} + 1"},), "", {"task": "small"})

    assert len(distinct_problems(Small(), 3, split="heldout")) == 3
    with pytest.raises(ValueError, match="'small' has only about 3 distinct heldout problems, 4 are asked for"):
        distinct_problems(Small(), 4, split="heldout")
