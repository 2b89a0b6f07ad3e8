import json

import pytest

from r1jax.data.prompts import PromptIterator
from r1jax.tasks.problem import Problem


class Counting:
    """Gives its index as the question and keeps the indices that were asked for."""

    name = "counting"

    def __init__(self):
        self.asked = []

    def problem(self, index, *, split):
        self.asked.append(index)
        return Problem(({"role": "user", "content": str(index)},), str(index), {"task": self.name, "split": split})

    def grade(self, answer, problem):
        return float(answer == problem.answer)

    def canonical(self, answer):
        return answer


def test_batches_are_consecutive_training_problems_and_the_seed_decides_the_start():
    iterator = PromptIterator(Counting(), batch_size=3, seed=0)
    batches = [next(iterator) for _ in range(4)]
    answers = [int(problem.answer) for batch in batches for problem in batch]
    assert [len(batch) for batch in batches] == [3, 3, 3, 3]
    assert answers == list(range(answers[0], answers[0] + 12))
    assert {problem.columns["split"] for batch in batches for problem in batch} == {"train"}
    assert next(PromptIterator(Counting(), batch_size=3, seed=0)) == batches[0]
    assert next(PromptIterator(Counting(), batch_size=3, seed=1)) != batches[0]


def test_a_restored_iterator_goes_on_where_the_saved_one_stood_without_replaying():
    iterator = PromptIterator(Counting(), batch_size=4, seed=7)
    for _ in range(5):
        next(iterator)
    saved = json.dumps(iterator.get_state())
    expected = [next(iterator) for _ in range(3)]

    task = Counting()
    restored = PromptIterator(task, batch_size=4, seed=7)
    restored.set_state(json.loads(saved))
    assert [next(restored) for _ in range(3)] == expected
    assert task.asked == [int(problem.answer) for batch in expected for problem in batch]
    assert json.dumps(restored.get_state()) == json.dumps(iterator.get_state())


def test_a_saved_position_can_be_returned_to():
    iterator = PromptIterator(Counting(), batch_size=2, seed=0)
    first = iterator.get_state()
    batch = next(iterator)
    next(iterator)
    iterator.set_state(first)
    assert next(iterator) == batch
    former = {name: value for name, value in first.items() if name != "next"} | {"grain": {"next_index": 2}}
    iterator.set_state(former)  # of a checkpoint of the version before
    assert int(next(iterator)[0].answer) == int(batch[0].answer) + 2


@pytest.mark.parametrize(
    ("change", "message"), [({"batch_size": 3}, "batch_size 2 and this run has 3"), ({"seed": 1}, "seed 0")]
)
def test_a_position_of_another_run_is_refused(change, message):
    state = PromptIterator(Counting(), batch_size=2, seed=0).get_state()
    with pytest.raises(ValueError, match=message):
        PromptIterator(Counting(), **{"batch_size": 2, "seed": 0, **change}).set_state(state)


def test_problems_that_are_not_kept_are_passed_over_and_handed_out():
    def is_even(problem):
        return int(problem.answer) % 2 == 0

    iterator = PromptIterator(Counting(), batch_size=3, seed=0, keep=is_even)
    batches = [next(iterator) for _ in range(3)]
    answers = [int(problem.answer) for batch in batches for problem in batch]
    assert answers == list(range(answers[0], answers[0] + 18, 2))
    skipped = [int(problem.answer) for problem in iterator.take_skipped()]
    assert set(skipped) >= {answer + 1 for answer in answers[:-1]} and not any(n % 2 == 0 for n in skipped)
    assert iterator.take_skipped() == []


class Tagged(Counting):
    def __init__(self, name):
        super().__init__()
        self.name = name


def test_another_task_takes_over_at_the_index_where_the_stream_stands_also_after_a_restart():
    def stream(saved=None):
        iterator = PromptIterator(Tagged("both"), batch_size=3, seed=0)
        if saved is not None:
            iterator.set_state(json.loads(saved))
        return iterator

    iterator = stream()
    problems, positions = [], []
    for name in ("early", "early", "late", "late"):
        iterator.draw_from(Tagged(name))
        positions.append(json.dumps(iterator.get_state()))
        problems += next(iterator)
    assert [p.columns["task"] for p in problems] == ["early"] * 6 + ["late"] * 6
    answers = [int(p.answer) for p in problems]
    assert answers == list(range(answers[0], answers[0] + 12))
    for batch, name in ((1, "early"), (2, "late"), (3, "late")):
        restarted = stream(positions[batch])
        restarted.draw_from(Tagged(name))
        assert next(restarted) == problems[3 * batch : 3 * batch + 3]
