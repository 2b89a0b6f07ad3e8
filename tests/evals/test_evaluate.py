import threading

import jax
import pytest

from r1jax.evals.evaluate import distinct_problems, evaluate
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.tasks.mixture import make_task
from r1jax.tasks.problem import Problem
from tests.rollout.test_collect import Engine, Task, Tokenizer, has_answer, make_problem


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


def fails_on_five(prompts, completions, answer, **columns):
    return [TimeoutError("late") if a == "5" else OSError("gone") if a == "6" else 1.0 for a in answer]


def test_failures_are_counted_by_reward_however_problems_are_batched():
    engine = Engine()
    rubric = Rubric([{"function": has_answer}, {"function": fails_on_five}])
    collector = Collector(engine, Tokenizer(), Task(), rubric, template="plain", max_prompt_tokens=40)
    problems = [make_problem(f"2+{i}=?", str(2 + i)) for i in range(2, 8)]
    arguments = {"num_samples": 3, "max_new_tokens": 9, "temperature": 0.6, "top_p": 0.95, "policy_version": 0}
    arguments |= {"key": jax.random.key(0)}
    batches = []
    metrics, groups = evaluate(
        collector, {}, {}, problems, problems_per_batch=2, before_batch=lambda: batches.append(None), **arguments
    )
    assert len(batches) == len(engine.calls) == 3
    assert {settings["top_p"] for _, settings in engine.calls} == {0.95}
    assert [group.problem for group in groups] == problems
    failures = {name: value for name, value in metrics.items() if name.startswith("rewards/")}
    assert failures == {
        "rewards/has_answer/errors": 0,
        "rewards/has_answer/timeouts": 0,
        "rewards/fails_on_five/errors": 6,
        "rewards/fails_on_five/timeouts": 3,
    }
    assert "errors" not in metrics
    assert metrics["clipped_ratio"] == pytest.approx(1 / 3)
    together, groups_together = evaluate(collector, {}, {}, problems, problems_per_batch=6, **arguments)
    assert together == metrics
    assert [r.rewards["has_answer"] for g in groups for r in g.rollouts] == [
        r.rewards["has_answer"] for g in groups_together for r in g.rollouts
    ]


def test_a_batch_is_scored_while_the_next_is_sampled():
    sampled_next = threading.Event()

    class TwoBatches(Engine):
        def generate(self, *arguments, **settings):
            if self.calls:
                sampled_next.set()
            return super().generate(*arguments, **settings)

    def waits(prompts, completions):
        return [float(sampled_next.wait(timeout=10))] * len(completions)

    rubric = Rubric([{"function": waits}])
    collector = Collector(TwoBatches(), Tokenizer(), Task(), rubric, template="plain", max_prompt_tokens=40)
    problems = [make_problem(f"2+{i}=?", str(2 + i)) for i in range(2)]
    _, groups = evaluate(
        collector, {}, {}, problems, problems_per_batch=1, num_samples=2, max_new_tokens=9, temperature=1.0,
        policy_version=0, key=jax.random.key(0),
    )  # fmt: skip
    assert [r.reward for g in groups for r in g.rollouts] == [1.0] * 4
