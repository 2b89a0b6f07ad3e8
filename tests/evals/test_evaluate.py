import threading

import jax
import pytest

from r1jax.evals.evaluate import distinct_problems, evaluate
from r1jax.rewards.calls import make_entry
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.specs.reader import read
from r1jax.specs.tasks import AnyTask
from r1jax.tasks.mixture import make_task
from r1jax.tasks.problem import Problem
from tests.rollout.test_collect import Engine, Task, Tokenizer, has_answer, make_problem


def test_held_out_problems_are_distinct_up_to_order():
    problems = distinct_problems(make_task(read(AnyTask, {"kind": "mini", "name": "pair_sum"})), 512, split="heldout")
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


def test_a_task_that_has_fewer_gives_all_where_that_is_enough():
    class Files:
        """Ten problems, of six different questions, in the order of a file."""

        name, seen = "files", ()

        def num_problems(self, split):
            return 10 if split == "heldout" else 0

        def problem(self, index, *, split):
            if split == "train":
                raise ValueError("task 'files' has only heldout problems")
            self.seen += (index,)
            return Problem(({"role": "user", "content": f"what is {min(index, 5)} + 1"},), "", {"task": "files"})

    task = Files()
    assert len(distinct_problems(task, 64, split="heldout", at_least=1)) == 6
    assert task.seen == tuple(range(10))  # and not 20 for each of the 64
    assert len(distinct_problems(task, 4, split="heldout", at_least=1)) == 4
    with pytest.raises(ValueError, match="'files' has only 6 distinct heldout problems, 7 are asked for"):
        distinct_problems(task, 64, split="heldout", at_least=7)
    with pytest.raises(ValueError, match="'files' has only 6 distinct heldout problems, 64 are asked for"):
        distinct_problems(task, 64, split="heldout")
    with pytest.raises(ValueError, match="task 'files' has only heldout problems"):
        distinct_problems(task, 64, split="train", at_least=1)


def test_the_last_batch_may_be_smaller_and_keys_are_those_of_the_first_problem():
    engine = Engine()
    collector = Collector(engine, Tokenizer(), Task(), Rubric([make_entry(has_answer)]), "plain", 40)
    problems = [make_problem(f"2+{i}=?", str(2 + i)) for i in range(2, 9)]
    arguments = {"num_samples": 3, "max_new_tokens": 9, "temperature": 0.6, "policy_version": 0}
    metrics, groups = evaluate(collector, {}, {}, problems, key=jax.random.key(5), problems_per_batch=3, **arguments)
    assert [len(prompts) for prompts, _ in engine.calls] == [3, 3, 1]
    assert [group.problem for group in groups] == problems
    for start, (_, settings) in zip((0, 3, 6), engine.calls, strict=True):
        expected = jax.random.fold_in(jax.random.key(5), start)
        assert jax.random.key_data(settings["key"]).tolist() == jax.random.key_data(expected).tolist()
    together, _ = evaluate(collector, {}, {}, problems, key=jax.random.key(5), problems_per_batch=99, **arguments)
    assert together == metrics


def fails_on_five(prompts, completions, answer, **columns):
    return [TimeoutError("late") if a == "5" else OSError("gone") if a == "6" else 1.0 for a in answer]


def test_failures_are_counted_by_reward_however_problems_are_batched():
    engine = Engine()
    rubric = Rubric([make_entry(has_answer), make_entry(fails_on_five)])
    collector = Collector(engine, Tokenizer(), Task(), rubric, template="plain", max_prompt_tokens=40)
    problems = [make_problem(f"2+{i}=?", str(2 + i)) for i in range(2, 8)]
    arguments = {"num_samples": 3, "max_new_tokens": 9, "temperature": 0.6, "top_p": 0.95, "policy_version": 0}
    arguments |= {"key": jax.random.key(0)}
    batches = []
    metrics, groups = evaluate(
        collector, {}, {}, problems, problems_per_batch=2, before_batch=batches.append, **arguments
    )
    assert batches == [0, 2, 4] and len(engine.calls) == 3  # problems done before each
    assert {settings["top_p"] for _, settings in engine.calls} == {0.95}
    assert [group.problem for group in groups] == problems
    failures = {name: value for name, value in metrics.items() if name.endswith(("/errors", "/timeouts"))}
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

    rubric = Rubric([make_entry(waits)])
    collector = Collector(TwoBatches(), Tokenizer(), Task(), rubric, template="plain", max_prompt_tokens=40)
    problems = [make_problem(f"2+{i}=?", str(2 + i)) for i in range(2)]
    _, groups = evaluate(
        collector, {}, {}, problems, problems_per_batch=1, num_samples=2, max_new_tokens=9, temperature=1.0,
        policy_version=0, key=jax.random.key(0),
    )  # fmt: skip
    assert [r.reward for g in groups for r in g.rollouts] == [1.0] * 4
