"""A weighted sum of reward functions, with the score of every function kept.

A reward function has TRL's signature ``f(prompts, completions, **columns) -> list[float | None]``, plain or async; a
notebook's function is as good as a built-in. It is called by keyword, with the columns that it names, or all of
them if it takes ``**columns``; which there are in training says ``rollout.collect.reward_columns``.

- None: the reward does not apply to this completion. It is left out of the sum.
- An exception in place of a score, or a score that is not finite: the verifier failed on this completion. It counts
  as an error, a TimeoutError as a timeout too, and is no score: the completion has no total (unless the weight is 0),
  so that nothing is learned from it.
- A function that raises, takes longer than its ``timeout`` or returns no list of as many entries has failed on the
  whole batch, likewise.

It sees whole groups, one a call. With ``cache``, which functions of this package have, equal completions of a prompt
are scored once: rows with the same prompt and completion and the same value in every column that the function is given.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.rewards.calls import Entry, Outcome, TrainerState, make_entry, start_call
from r1jax.specs.rewards import FunctionReward

_OF_THE_BATCH = frozenset({"prompts", "completions"})


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N completions."""

    total: np.ndarray  # [N] weighted sum; nan where no reward of a weight applies or one of them failed
    outcomes: dict[str, Outcome]  # what each reward says, by name

    def to_json(self) -> dict[str, Any]:
        """As JSON's types, for another process."""
        outcomes = {}
        for name, one in self.outcomes.items():
            arrays = [one.values.tolist(), one.failed.tolist(), one.timed_out.tolist()]
            outcomes[name] = [*arrays, one.messages, one.seconds, one.extra, one.metrics]
        return {"total": self.total.tolist(), "outcomes": outcomes}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scores":
        """What ``to_json`` gave in another process."""
        outcomes = {}
        for name, (values, failed, timed_out, messages, *rest) in value["outcomes"].items():
            arrays = np.array(values, np.float64), np.array(failed, bool), np.array(timed_out, bool)
            outcomes[name] = Outcome(*arrays, {int(row): message for row, message in messages.items()}, *rest)
        return cls(np.array(value["total"], np.float64), outcomes)

    @property
    def by_name(self) -> dict[str, np.ndarray]:
        """[N] raw scores of each function, nan where it does not apply or failed."""
        return {name: outcome.values for name, outcome in self.outcomes.items()}

    @property
    def failed(self) -> dict[str, np.ndarray]:
        """[N] bool of each function."""
        return {name: outcome.failed for name, outcome in self.outcomes.items()}

    @property
    def messages(self) -> list[dict[str, str]]:
        """For each completion the last line of the traceback of each function that failed on it."""
        return [
            {name: outcome.messages[row] for name, outcome in self.outcomes.items() if row in outcome.messages}
            for row in range(len(self.total))
        ]

    @property
    def extra(self) -> list[dict[str, Any]]:
        """For each completion what the functions logged of it, as "reward/column"."""
        columns = {f"{name}/{key}": column for name, one in self.outcomes.items() for key, column in one.extra.items()}
        return [{key: column[row] for key, column in columns.items()} for row in range(len(self.total))]

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that the functions logged, as "reward/figure"."""
        return {f"{name}/{key}": value for name, one in self.outcomes.items() for key, value in one.metrics.items()}

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each function."""
        return {name: outcome.seconds for name, outcome in self.outcomes.items()}

    @property
    def errors(self) -> dict[str, int]:
        """Number of completions that each function failed on."""
        return {name: int(outcome.failed.sum()) for name, outcome in self.outcomes.items()}

    @property
    def timeouts(self) -> dict[str, int]:
        """Number of completions on which each function ran out of time."""
        return {name: int(outcome.timed_out.sum()) for name, outcome in self.outcomes.items()}


class Rubric:
    """Reward functions and their weights.

    Args:
        rewards: specs, or entries that are made already (``calls.make_entry``: of a function that has no path, of a
            trained reward model).

    Raises:
        ValueError: a function that cannot be loaded, an option that it does not have, a name used twice.
    """

    def __init__(self, rewards: Sequence[FunctionReward | Entry]):
        self._entries = [
            reward if isinstance(reward, Entry) else _entry_of(reward, f"rewards[{index}]")
            for index, reward in enumerate(rewards)
        ]
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rewards: two are named {name!r}; give one of them another 'name'")

    @property
    def names(self) -> list[str]:
        """Names of the rewards, in order."""
        return [entry.name for entry in self._entries]

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward by name."""
        return {entry.name: entry.weight for entry in self._entries}

    def at(self, updates: int) -> "Rubric":
        """The rubric of a policy that has had so many updates: of the rewards that apply by then.

        Raises ValueError if there are none.
        """
        if not (entries := [entry for entry in self._entries if entry.from_update <= updates]):
            first = min(entry.from_update for entry in self._entries)
            raise ValueError(f"rewards: none applies at update {updates}; the first does from {first}")
        return Rubric(entries)

    def part(self, *, deferred: bool) -> "Rubric":
        """The rubric of the rewards alone that are deferred, or are not; there may be none. ``join`` puts both together."""
        return Rubric([entry for entry in self._entries if entry.deferred == deferred])

    def join(self, parts: Sequence[Scores]) -> Scores:
        """The scores of this rubric from those of its parts, on the same completions."""
        outcomes = {name: outcome for part in parts for name, outcome in part.outcomes.items()}
        return self._scores({name: outcomes[name] for name in self.names}, count=len(parts[0].total))

    def applies_to(self, task_name: str) -> list[str]:
        """Names of the rewards with a weight that apply to problems of a task."""
        return [entry.name for entry in self._applying_to(task_name) if entry.weight != 0.0]

    def check_tasks(self, names: Iterable[str]) -> None:
        """Raises ValueError for a reward whose "tasks" name one that is not among ``names``."""
        known = set(names)
        for entry in self._entries:
            if unknown := sorted((entry.tasks or set()) - known):
                raise ValueError(
                    f"reward {entry.name!r}: there is no task {unknown[0]!r}; there are {', '.join(sorted(known))}"
                )

    def check_columns(self, columns: Iterable[str], *, task_name: str) -> None:
        """Raises ValueError for a reward that applies to a task and needs a column that its problems do not have."""
        for entry in self._applying_to(task_name):
            entry.require({*_OF_THE_BATCH, *columns})

    def required(self, task_name: str) -> frozenset[str]:
        """The columns that the rewards of a task's problems cannot do without."""
        required = (entry.required for entry in self._applying_to(task_name))
        return frozenset[str]().union(*required) - _OF_THE_BATCH

    def that_need(self, column: str, *, task_name: str) -> list[str]:
        """Names of the rewards with a weight that apply to a task's problems and cannot do without a column."""
        applying = (entry for entry in self._applying_to(task_name) if entry.weight != 0.0)
        return [entry.name for entry in applying if column in entry.required]

    def _applying_to(self, task_name: str) -> list[Entry]:
        """The rewards, logged ones too, that apply to problems of a task."""
        return [entry for entry in self._entries if entry.tasks is None or task_name in entry.tasks]

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        state: TrainerState | None = None,
    ) -> Scores:
        """Scores a batch. Plain functions run one after the other, async ones at the same time.

        ValueError: a column has not N entries; a function needs a column that is not there.
        """
        return self.start(prompts, completions, columns, state)()

    def start(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        state: TrainerState | None = None,
    ) -> Callable[[], Scores]:
        """``score`` in two steps: plain functions have run and async ones have begun when this returns.

        What it returns waits for the async ones, whose event loop is one for the whole process.
        """
        count = len(completions)
        available = {**columns, "prompts": prompts, "completions": completions}
        for name, values in available.items():
            if len(values) != count:
                raise ValueError(f"rewards: column {name!r} has {len(values)} entries for {count} completions")
        calls = [start_call(entry, available, count=count, state=state) for entry in self._entries]

        def finish() -> Scores:
            outcomes = {entry.name: call() for entry, call in zip(self._entries, calls, strict=True)}
            return self._scores(outcomes, count=count)

        return finish

    def _scores(self, outcomes: dict[str, Outcome], *, count: int) -> Scores:
        """With the weighted sums: nan where nothing of a weight applies, or something of a weight failed."""
        total, applies, is_bad = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for name, weight in self.weights.items():
            if weight != 0.0:
                outcome = outcomes[name] = outcomes[name].weighed(weight)
                total += weight * np.nan_to_num(outcome.values)
                applies |= ~np.isnan(outcome.values)
                is_bad |= outcome.failed
        return Scores(np.where(applies & ~is_bad, total, np.nan), outcomes)


def _entry_of(reward: FunctionReward, where: str) -> Entry:
    """The entry of a spec that stands at ``where``."""
    try:
        return make_entry(**vars(reward))
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error
