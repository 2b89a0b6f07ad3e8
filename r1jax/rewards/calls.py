"""Calls of reward functions: which columns they get, equal completions once, async ones at the same time.

Used by `rubric`; what a reward function is and returns stands there.
"""

import asyncio
import atexit
import dataclasses
import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.specs.functions import last_line, load_function
from r1jax.specs.reader import near

RewardFunction = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One reward of a rubric."""

    name: str
    function: RewardFunction
    weight: float = 1.0  # its share of the sum; 0.0 only logs it
    tasks: frozenset[str] | None  # names of the tasks that it applies to; None for all
    cache: bool = True  # equal completions are scored once
    from_update: int = 0  # updates that the policy has had when it first applies
    deferred: bool = False  # called by the thread that waits for the scores: a model, which no other thread may run
    required: frozenset[str]  # columns that it cannot do without
    named: frozenset[str] | None  # columns that it takes; None for all

    def require(self, columns: Iterable[str]) -> None:
        """Raises ValueError naming the columns that it needs and that are not there."""
        if missing := sorted(self.required - set(columns)):
            known = ", ".join(sorted(set(columns)))
            raise ValueError(f"reward {self.name!r} needs {', '.join(missing)}; there are {known}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one reward says of N completions."""

    values: np.ndarray  # [N] scores; nan where it does not apply or failed
    failed: np.ndarray  # [N] bool
    timed_out: np.ndarray  # [N] bool, where it failed by a TimeoutError
    messages: dict[int, str]  # completion -> one line, for those that it failed on
    seconds: float  # wall time of the function


def make_entry(
    function: str | RewardFunction,
    *,
    name: str | None = None,
    tasks: Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Entry:
    """The entry of a reward function: "module:function", or the function itself.

    ``options`` are keyword arguments that are the same for every completion, ``fields`` the others of ``Entry``.

    Raises:
        ValueError: a function that cannot be loaded, whose parameters cannot be read, or that has no such option.
    """
    path = function if isinstance(function, str) else None
    if isinstance(function, str):
        try:
            function = load_function(function)
        except ValueError as error:
            raise ValueError(f"function={error}") from error
    name_of_function = getattr(function, "__name__", type(function).__name__)
    try:
        options, known = dict(options or {}), inspect.signature(function).parameters
    except (ValueError, TypeError) as error:
        written = path or name_of_function
        raise ValueError(
            f"function={written!r}: which columns it takes cannot be read ({error}); call it from a function in Python"
        ) from error
    for option in options:
        if option not in known:
            raise ValueError(f"options.{option}: {name_of_function} has no such parameter{near(option, known)}")
    function = functools.partial(function, **options) if options else function
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name not in options]
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return Entry(
        name=name or name_of_function,
        function=function,
        tasks=None if tasks is None else frozenset(tasks),
        required=frozenset(one.name for one in named if one.default is one.empty),
        named=None if takes_all else frozenset(one.name for one in named),
        **fields,
    )


def start_call(entry: Entry, columns: Mapping[str, Sequence[Any]], *, count: int) -> Callable[[], Outcome]:
    """Calls a plain function now, or sets an async one going; what is returned waits for the outcome on all rows.

    A deferred function is called by what is returned, in the thread that calls that. The function gets copies of lists and
    dicts, so that what it changes no other reward sees; and no column of the name of one of its options.

    Raises:
        ValueError: a column that the function needs is not there. The returned function: a result that is no list of
            as many scores.
    """
    rows = list(range(count))
    if entry.tasks is not None:
        if "task_name" not in columns:
            raise ValueError(f"reward {entry.name!r} is for some tasks only, and there is no column 'task_name'")
        rows = [row for row in rows if columns["task_name"][row] in entry.tasks]
    if not rows:
        return lambda: _outcome(entry.name, [], [], count, 0.0)
    entry.require(columns)
    options = entry.function.keywords if isinstance(entry.function, functools.partial) else {}
    taken = {
        name: values
        for name, values in columns.items()
        if name not in options and (entry.named is None or name in entry.named)
    }
    scored_as = {row: row for row in rows}  # row -> the equal row that is scored
    if entry.cache:
        keyed = [columns["prompts"], columns["completions"], *taken.values()]
        first: dict[Any, int] = {}
        scored_as = {row: first.setdefault(tuple(_key(values[row]) for values in keyed), row) for row in rows}
    scored = sorted(set(scored_as.values()))
    copies: dict[int, Any] = {}
    arguments = {name: [_copied(values[row], copies) for row in scored] for name, values in taken.items()}

    wait = None if entry.deferred else _start(entry, arguments)

    def finish() -> Outcome:
        result, seconds = (wait or _start(entry, arguments))()
        by_row = dict(zip(scored, _as_list(entry.name, result, len(scored)), strict=True))
        return _outcome(entry.name, rows, [by_row[scored_as[row]] for row in rows], count, seconds)

    return finish


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """A copy of a list or dict, which the function may change; one for an object that is there several times."""
    if not isinstance(value, list | dict):
        return value
    if id(value) not in copies:
        if isinstance(value, dict):
            copy: Any = {key: _copied(item, copies) for key, item in value.items()}
        elif {list, dict}.isdisjoint(map(type, value)):  # token ids, above all
            copy = value.copy()
        else:
            copy = [_copied(item, copies) for item in value]
        copies[id(value)] = copy
    return copies[id(value)]


def _start(entry: Entry, arguments: Mapping[str, Any]) -> Callable[[], tuple[Any, float]]:
    """Calls the function; what is returned waits for (result or exception, seconds)."""
    start = time.perf_counter()
    try:
        result = entry.function(**arguments)
    except (Exception, SystemExit) as error:
        result = error
    seconds = time.perf_counter() - start
    if inspect.isawaitable(result):
        return asyncio.run_coroutine_threadsafe(_timed(result), _loop()).result
    return lambda: (result, seconds)


def _key(value: Any) -> Any:
    """A hashable that is equal for equal text, numbers and lists of whole numbers, else for the same object only."""
    if value is None or isinstance(value, str | int | float):
        return type(value), value
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return type(value), tuple(value)
    return object, id(value)


def _as_list(name: str, result: Any, count: int) -> list[Any]:
    """A function's result as its scores; the exception for each of them if it raised."""
    if isinstance(result, BaseException):
        return [result] * count
    if not isinstance(result, Sequence | np.ndarray) or isinstance(result, str):
        raise ValueError(f"reward {name!r} returned a {type(result).__name__}, not a list of {count} scores")
    if len(result) != count:
        raise ValueError(f"reward {name!r} returned {len(result)} scores for {count} completions")
    return list(result)


def _outcome(name: str, rows: Sequence[int], scores: Sequence[Any], count: int, seconds: float) -> Outcome:
    values, failed, timed_out = np.full(count, np.nan), np.zeros(count, bool), np.zeros(count, bool)
    messages = {}
    for row, score in zip(rows, scores, strict=True):
        if score is None:
            continue
        if isinstance(score, BaseException):
            failed[row], timed_out[row], messages[row] = True, isinstance(score, TimeoutError), last_line(score)
        elif not isinstance(score, float | int | np.number | np.bool_):
            raise ValueError(f"reward {name!r} returned {score!r} for completion {row}; a score is a number or None")
        elif not math.isfinite(score):
            failed[row], messages[row] = True, f"score {score} is not finite"
        else:
            values[row] = float(score)
    return Outcome(values, failed, timed_out, messages, seconds)


async def _timed(awaitable: Any) -> tuple[Any, float]:
    """(result or exception, seconds) of an awaitable."""
    start = time.perf_counter()
    try:
        result = await awaitable
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        result = error
    return result, time.perf_counter() - start


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all async rewards, in a thread of its own: a notebook has one running in the main thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="async rewards", daemon=True)
    thread.start()

    def close():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5.0)
        if not loop.is_running():
            loop.close()

    atexit.register(close)
    return loop
