"""The stream of training problems: a grain pipeline over a task's indices, its position saved and never replayed.

Tasks are random access and without end, so nothing is shuffled here and a position is one number.
"""

import itertools
from collections.abc import Callable
from typing import Any

import grain

from r1jax.tasks.problem import Problem, Task, stable_hash

_LENGTH = 2**40


class PromptIterator:
    """Batches of ``batch_size`` training problems of a task, in order.

    Args:
        task: the source of problems.
        batch_size: problems in each batch.
        seed: decides where in the task's endless sequence the stream begins.
        keep: problems of which it says no are passed over, and kept for ``take_skipped``.
    """

    def __init__(
        self, task: Task, *, batch_size: int, seed: int, keep: Callable[[Problem], bool] = lambda problem: True
    ):
        self._identity = {"task": task.name, "batch_size": batch_size, "seed": seed}
        self._keep, self._skipped = keep, []
        # No read-ahead threads: a generator may touch global random state, and making problems costs far less than
        # sampling.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._task, self._start = task, stable_hash("prompts", seed) % 2**32
        dataset = grain.MapDataset.range(_LENGTH).map(self._problem).to_iter_dataset(options)
        self._iterator = iter(dataset.filter(self._is_kept))

    def _problem(self, index: int) -> Problem:
        return self._task.problem(self._start + index, split="train")

    def _is_kept(self, problem: Problem) -> bool:
        is_kept = self._keep(problem)
        if not is_kept:
            self._skipped.append(problem)
        return is_kept

    def draw_from(self, task: Task) -> None:
        """From now on the problems are those of another task, at the indices where the stream stands.

        A position says nothing of the task: whoever goes on from a saved one says again which it is.
        """
        self._task = task

    def take_skipped(self) -> list[Problem]:
        """The problems that were passed over since this was asked last."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def __iter__(self) -> "PromptIterator":
        return self

    def __next__(self) -> list[Problem]:
        return self.take(self._identity["batch_size"])

    def take(self, count: int) -> list[Problem]:
        """The next so many problems."""
        return list(itertools.islice(self._iterator, count))

    def get_state(self) -> dict[str, Any]:
        """The position, JSON-able: the next problem is the first one that a restored iterator gives."""
        return {**self._identity, "grain": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved position, at once.

        Raises:
            ValueError: the state is of another task, batch size or seed.
        """
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise ValueError(f"prompts: the saved position has {key} {state.get(key)!r} and this run has {value!r}")
        self._iterator.set_state(state["grain"])
