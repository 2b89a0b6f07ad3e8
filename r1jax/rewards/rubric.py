"""A weighted sum of reward functions, with every function's own score kept.

A reward function has TRL's signature ``f(prompts, completions, **columns) -> list[float | None]``, plain or async; a
notebook's own function is as good as a built-in. It is called by keyword, with the columns that it names, or all of
them if it takes ``**columns``.

- None: the reward does not apply to this completion. It is left out of the sum.
- An exception in the place of a score, or a score that is not finite: the verifier failed on this completion. It counts
  as an error, a TimeoutError as a timeout too, and is no score: the completion has no total (unless the weight is 0),
  so that nobody learns from it.
- A function that raises has failed on the whole batch, likewise.

Equal completions of a prompt are scored once: rows with the same prompt and completion and the same value in every
column that the function is given. A function whose score depends on the other rows (a reward for variety) says
``"cache": False`` in its spec; it sees whole groups, one a call.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.rewards.calls import Entry, load_function, make_entry, start_call

__all__ = ["Rubric", "Scores", "load_function"]

_OF_THE_BATCH = frozenset({"prompts", "completions"})


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N completions.

    Attributes:
        total: [N] weighted sum; nan where no reward of a weight applies or one of them failed.
        by_name: [N] raw scores of each function, nan where it does not apply or failed.
        failed: [N] bool of each function.
        timed_out: [N] bool of each function; a part of ``failed``.
        messages: for each completion the last line of the traceback of each function that failed on it.
        seconds: wall time of each function.
    """

    total: np.ndarray
    by_name: dict[str, np.ndarray]
    failed: dict[str, np.ndarray]
    timed_out: dict[str, np.ndarray]
    messages: list[dict[str, str]]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """All but the total as JSON's types, for another process; ``Rubric.join`` makes the total."""
        columns = ("by_name", "failed", "timed_out")
        arrays = {key: {name: array.tolist() for name, array in getattr(self, key).items()} for key in columns}
        return arrays | {"messages": self.messages, "seconds": self.seconds}

    @property
    def errors(self) -> dict[str, int]:
        """Number of completions that each function failed on."""
        return {name: int(failed.sum()) for name, failed in self.failed.items()}

    @property
    def timeouts(self) -> dict[str, int]:
        """Number of completions on which each function ran out of time."""
        return {name: int(timed_out.sum()) for name, timed_out in self.timed_out.items()}


class Rubric:
    """Reward functions and their weights.

    Args:
        specs: each ``{"function": "module:function" or a callable, "weight": 1.0, "name": ..., "tasks": None, "cache":
            True, "options": {}, "from_update": 0, "deferred": False}``. The weight is 1.0 by default; 0.0 means to log
            only. The name, under which scores are logged, is by default the function's own. "tasks" are names of tasks
            (column ``task_name``): to problems of others the reward does not apply, and they need not have its columns.
            "options" are keyword arguments of the function that are the same for every row. "from_update" is for
            ``at``. A "deferred" function is called when the scores are waited for, by the thread that does: a model,
            which no other thread may run.

    Raises:
        ValueError: no spec, an unknown key, a function that cannot be found or called, a weight that is not finite, a
            name used twice.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]):
        if not specs:
            raise ValueError("rubric: needs at least one reward")
        self._entries = [make_entry(spec) for spec in specs]
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rubric: two rewards are named {name!r}; give one of them another 'name'")

    @property
    def names(self) -> list[str]:
        """Names of the rewards, in order."""
        return [entry.name for entry in self._entries]

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward by name."""
        return {entry.name: entry.weight for entry in self._entries}

    @property
    def starts(self) -> dict[str, int]:
        """The update from which each reward applies, by name."""
        return {entry.name: entry.from_update for entry in self._entries}

    def at(self, updates: int) -> "Rubric":
        """The rubric of a policy that has had so many updates: of the rewards that apply by then.

        Raises ValueError if there are none.
        """
        applying = copy.copy(self)
        applying._entries = [entry for entry in self._entries if entry.from_update <= updates]
        if not applying._entries:
            raise ValueError(
                f"rubric: no reward applies at update {updates}; the first does from {min(self.starts.values())}"
            )
        return applying

    def part(self, *, deferred: bool) -> "Rubric":
        """The rubric of the rewards alone that are deferred, or are not; there may be none. ``join`` puts both together."""
        own = copy.copy(self)
        own._entries = [entry for entry in self._entries if entry.deferred == deferred]
        return own

    def join(self, parts: Iterable[Mapping[str, Any]], *, count: int) -> Scores:
        """The scores of this rubric on N completions from those of its parts, each as ``Scores.to_json`` gives it."""
        merged: dict[str, dict[str, Any]] = {"by_name": {}, "failed": {}, "timed_out": {}, "seconds": {}}
        messages: list[dict[str, str]] = [{} for _ in range(count)]
        for part in parts:
            merged = {key: values | part[key] for key, values in merged.items()}
            messages = [own | more for own, more in zip(messages, part["messages"], strict=True)]
        by_name = {name: np.array(merged["by_name"][name], np.float64) for name in self.names}
        failed, timed_out = (
            {name: np.array(merged[key][name], bool) for name in self.names} for key in ("failed", "timed_out")
        )
        return Scores(
            total=self._total(by_name, failed, count=count),
            by_name=by_name,
            failed=failed,
            timed_out=timed_out,
            messages=[{name: own[name] for name in self.names if name in own} for own in messages],
            seconds={name: merged["seconds"][name] for name in self.names},
        )

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

    def _applying_to(self, task_name: str) -> list[Entry]:
        """The rewards, logged ones too, that apply to problems of a task."""
        return [entry for entry in self._entries if entry.tasks is None or task_name in entry.tasks]

    def score(self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Scores:
        """Scores a batch. Plain functions run one after the other, async ones at the same time.

        Args:
            prompts: [N] prompt texts.
            completions: [N] response texts.
            columns: further lists of N entries, by name.

        Raises:
            ValueError: a column, or what a function returned, has not N entries; a function needs a column that is not
                there; an entry that is no number, None or exception.
        """
        return self.start(prompts, completions, columns)()

    def start(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> Callable[[], Scores]:
        """``score`` in two steps: plain functions have run and async ones have begun when this returns.

        What it returns waits for the async ones, whose event loop is one for the whole process.
        """
        count = len(completions)
        available = {"prompts": prompts, "completions": completions, **columns}
        for name, values in available.items():
            if len(values) != count:
                raise ValueError(f"rubric: column {name!r} has {len(values)} entries for {count} completions")
        calls = [start_call(entry, available, count=count) for entry in self._entries]

        def finish() -> Scores:
            outcomes = {entry.name: call() for entry, call in zip(self._entries, calls, strict=True)}
            return Scores(
                total=self._total(
                    {name: outcome.values for name, outcome in outcomes.items()},
                    {name: outcome.failed for name, outcome in outcomes.items()},
                    count=count,
                ),
                by_name={name: outcome.values for name, outcome in outcomes.items()},
                failed={name: outcome.failed for name, outcome in outcomes.items()},
                timed_out={name: outcome.timed_out for name, outcome in outcomes.items()},
                messages=[
                    {name: outcome.messages[row] for name, outcome in outcomes.items() if row in outcome.messages}
                    for row in range(count)
                ],
                seconds={name: outcome.seconds for name, outcome in outcomes.items()},
            )

        return finish

    def _total(self, values: Mapping[str, np.ndarray], failed: Mapping[str, np.ndarray], *, count: int) -> np.ndarray:
        """[N] weighted sums; nan where nothing of a weight applies, or something of a weight failed."""
        weights = {name: weight for name, weight in self.weights.items() if weight != 0.0}
        total, applies, is_bad = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for name, weight in weights.items():
            total += weight * np.nan_to_num(values[name])
            applies |= ~np.isnan(values[name])
            is_bad |= failed[name]
        return np.where(applies & ~is_bad, total, np.nan)
