"""A weighted sum of reward functions, with every function's own score kept.

A reward function has TRL's signature ``f(prompts, completions, **columns) -> list[float | None]``, plain or async; a
notebook's own function is as good as a built-in. It is called by keyword, with the columns that it names, or all of
them if it takes ``**columns``.

- None: the reward does not apply to this completion. It is left out of the sum.
- An exception in the place of a score, or a score that is not finite: the verifier failed on this completion. It counts
  as an error and scores 0.
- A function that raises has failed on the whole batch, likewise.
"""

import asyncio
import concurrent.futures
import dataclasses
import importlib
import inspect
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

RewardFunction = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N completions.

    Attributes:
        total: [N] weighted sum; 0 where no reward applies.
        by_name: [N] raw scores of each function, nan where it does not apply, 0 where it failed.
        failed: [N] bool of each function that failed on some completion.
        errors: number of completions that each function failed on; 0 for those that did not.
        messages: the last line of the first failure's traceback, for each function that failed.
        seconds: wall time of each function.
    """

    total: np.ndarray
    by_name: dict[str, np.ndarray]
    failed: dict[str, np.ndarray]
    errors: dict[str, int]
    messages: dict[str, str]
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    function: RewardFunction
    weight: float
    required: frozenset[str]  # columns that it cannot do without
    named: frozenset[str] | None  # columns that it takes; None for all


class Rubric:
    """Reward functions and their weights.

    Args:
        specs: each ``{"function": "module:function" or a callable, "weight": 1.0, "name": ...}``. The weight is 1.0 by
            default; 0.0 means to log only. The name, under which scores are logged, is by default the function's own.

    Raises:
        ValueError: no spec, an unknown key, a function that cannot be found or called, a weight that is not finite, a
            name used twice.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]):
        if not specs:
            raise ValueError("rubric: needs at least one reward")
        self._entries = [_make_entry(spec) for spec in specs]
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
        count = len(completions)
        available = {"prompts": prompts, "completions": completions, **columns}
        for name, values in available.items():
            if len(values) != count:
                raise ValueError(f"rubric: column {name!r} has {len(values)} entries for {count} completions")
        calls = [(entry, _arguments(entry, available)) for entry in self._entries]
        outcomes = _run_all(calls)
        total = np.zeros(count)
        by_name, failed, messages = {}, {}, {}
        for entry, (result, _) in zip(self._entries, outcomes, strict=True):
            values, bad, message = _read(entry.name, result, count)
            by_name[entry.name] = values
            if bad.any():
                failed[entry.name], messages[entry.name] = bad, message
            if entry.weight != 0.0:
                total += entry.weight * np.where(np.isnan(values), 0.0, values)
        return Scores(
            total=total,
            by_name=by_name,
            failed=failed,
            errors={name: int(failed[name].sum()) if name in failed else 0 for name in self.names},
            messages=messages,
            seconds={entry.name: seconds for entry, (_, seconds) in zip(self._entries, outcomes, strict=True)},
        )


def load_function(path: str) -> RewardFunction:
    """The function that "module:function" names.

    Raises:
        ValueError: not of that form, the module cannot be imported, it has no such name, or that is not callable.
    """
    module_name, colon, function_name = path.partition(":")
    if not (colon and module_name and function_name):
        raise ValueError(f"reward {path!r}: must have the form 'module:function'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"reward {path!r}: cannot import module {module_name!r}: {_last_line(error)}") from error
    if not hasattr(module, function_name):
        raise ValueError(f"reward {path!r}: module {module_name!r} has no {function_name!r}")
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(f"reward {path!r}: is a {type(function).__name__}, not a function")
    return function


def _make_entry(spec: Mapping[str, Any]) -> _Entry:
    unknown = sorted(set(spec) - {"function", "weight", "name"})
    if unknown or "function" not in spec:
        raise ValueError(f"rubric: a reward has the keys 'function', 'weight' and 'name'; got {dict(spec)}")
    function = spec["function"]
    if isinstance(function, str):
        function = load_function(function)
    elif not callable(function):
        raise ValueError(f"rubric: 'function' must be 'module:function' or a callable; got {function!r}")
    name = spec.get("name") or getattr(function, "__name__", type(function).__name__)
    weight = float(spec.get("weight", 1.0))
    if not math.isfinite(weight):
        raise ValueError(f"reward {name!r}: weight {weight} must be finite")
    parameters = inspect.signature(function).parameters.values()
    named = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return _Entry(
        name=name,
        function=function,
        weight=weight,
        required=frozenset(parameter.name for parameter in named if parameter.default is parameter.empty),
        named=None if takes_all else frozenset(parameter.name for parameter in named),
    )


def _arguments(entry: _Entry, available: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    missing = sorted(entry.required - set(available))
    if missing:
        raise ValueError(f"reward {entry.name!r} needs {', '.join(missing)}; there are {', '.join(available)}")
    return {name: values for name, values in available.items() if entry.named is None or name in entry.named}


def _run_all(calls: Sequence[tuple[_Entry, dict[str, Any]]]) -> list[tuple[Any, float]]:
    """Result, or exception, and seconds of each call."""
    outcomes: list[tuple[Any, float]] = []
    for entry, arguments in calls:
        start = time.perf_counter()
        try:
            result = entry.function(**arguments)
        except Exception as error:
            result = error
        outcomes.append((result, time.perf_counter() - start))
    waiting = [place for place, (result, _) in enumerate(outcomes) if inspect.isawaitable(result)]
    if waiting:
        # In a thread of its own, since a notebook has an event loop running in this one.
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
            finished = pool.submit(asyncio.run, _gather([outcomes[place][0] for place in waiting])).result()
        for place, outcome in zip(waiting, finished, strict=True):
            outcomes[place] = outcome
    return outcomes


async def _gather(awaitables: Sequence[Any]) -> list[tuple[Any, float]]:
    async def timed(awaitable: Any) -> tuple[Any, float]:
        start = time.perf_counter()
        try:
            result = await awaitable
        except Exception as error:
            result = error
        return result, time.perf_counter() - start

    return await asyncio.gather(*map(timed, awaitables))


def _read(name: str, result: Any, count: int) -> tuple[np.ndarray, np.ndarray, str]:
    """A function's result as [N] scores, [N] failures and the first failure's message."""
    if isinstance(result, Exception):
        return np.zeros(count), np.ones(count, bool), _last_line(result)
    if not isinstance(result, Sequence | np.ndarray) or isinstance(result, str):
        raise ValueError(f"reward {name!r} returned a {type(result).__name__}, not a list of {count} scores")
    if len(result) != count:
        raise ValueError(f"reward {name!r} returned {len(result)} scores for {count} completions")
    values, failed, message = np.zeros(count), np.zeros(count, bool), ""
    for place, score in enumerate(result):
        if score is None:
            values[place] = np.nan
        elif isinstance(score, Exception):
            failed[place], message = True, message or _last_line(score)
        elif not isinstance(score, float | int | np.number | np.bool_):
            raise ValueError(f"reward {name!r} returned {score!r} for completion {place}; a score is a number or None")
        elif not math.isfinite(score):
            failed[place], message = True, message or f"score {score} is not finite"
        else:
            values[place] = float(score)
    return values, failed, message


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()
