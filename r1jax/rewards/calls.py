"""Calls of reward functions: which columns they get, equal completions once, async ones at the same time.

Used by `rubric`; what a reward function is and returns stands there.
"""

import asyncio
import atexit
import dataclasses
import functools
import importlib
import inspect
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

RewardFunction = Callable[..., Any]
SPEC_KEYS = ("function", "weight", "name", "tasks", "cache", "options", "from_update", "deferred")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One reward of a rubric."""

    name: str
    function: RewardFunction
    weight: float
    tasks: frozenset[str] | None  # names of the tasks that it applies to; None for all
    cache: bool  # equal completions are scored once
    from_update: int  # updates that the policy has had when it first applies
    deferred: bool  # it is called by whoever waits for the outcome, not where the call starts
    required: frozenset[str]  # columns that it cannot do without
    named: frozenset[str] | None  # columns that it takes; None for all

    def require(self, columns: Iterable[str]) -> None:
        """Raises ValueError naming the columns that it needs and that are not there."""
        there = set(columns)
        if missing := sorted(self.required - there):
            known = ", ".join(sorted(there))
            raise ValueError(f"reward {self.name!r} needs {', '.join(missing)}; there are {known}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one reward says of N completions.

    Attributes:
        values: [N] scores; nan where it does not apply or failed.
        failed: [N] bool, where it failed.
        timed_out: [N] bool, where it failed by a TimeoutError.
        messages: completion -> one line, for those that it failed on.
        seconds: wall time of the function.
    """

    values: np.ndarray
    failed: np.ndarray
    timed_out: np.ndarray
    messages: dict[int, str]
    seconds: float


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
        raise ValueError(f"reward {path!r}: cannot import module {module_name!r}: {last_line(error)}") from error
    if not hasattr(module, function_name):
        raise ValueError(f"reward {path!r}: module {module_name!r} has no {function_name!r}")
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(f"reward {path!r}: is a {type(function).__name__}, not a function")
    return function


def make_entry(spec: Mapping[str, Any]) -> Entry:
    """The entry of a rubric's spec. Raises ValueError, naming it, for a bad one."""
    if set(spec) - set(SPEC_KEYS) or "function" not in spec:
        raise ValueError(f"rubric: a reward has the keys {', '.join(map(repr, SPEC_KEYS))}; got {dict(spec)}")
    function = spec["function"]
    if isinstance(function, str):
        function = load_function(function)
    elif not callable(function):
        raise ValueError(f"rubric: 'function' must be 'module:function' or a callable; got {function!r}")
    name = spec.get("name") or getattr(function, "__name__", type(function).__name__)
    weight = float(spec.get("weight", 1.0))
    if not math.isfinite(weight):
        raise ValueError(f"reward {name!r}: weight {weight} must be finite")
    tasks = spec.get("tasks")
    if tasks is not None and (isinstance(tasks, str) or not tasks):
        raise ValueError(f"reward {name!r}: tasks={tasks!r} must be a list of names of tasks")
    options = dict(spec.get("options") or {})
    if unknown := sorted(set(options) - set(inspect.signature(function).parameters)):
        raise ValueError(f"reward {name!r} has no option {unknown[0]!r}")
    function = functools.partial(function, **options) if options else function
    parameters = [
        parameter for parameter in inspect.signature(function).parameters.values() if parameter.name not in options
    ]
    named = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return Entry(
        name=name,
        function=function,
        weight=weight,
        tasks=None if tasks is None else frozenset(tasks),
        cache=bool(spec.get("cache", True)),
        from_update=check_from_update(spec, what=f"reward {name!r}"),
        deferred=bool(spec.get("deferred", False)),
        required=frozenset(parameter.name for parameter in named if parameter.default is parameter.empty),
        named=None if takes_all else frozenset(parameter.name for parameter in named),
    )


def start_call(entry: Entry, columns: Mapping[str, Sequence[Any]], *, count: int) -> Callable[[], Outcome]:
    """Calls a plain function now, or sets an async one going; what is returned waits for the outcome on all rows.

    A deferred function is called by what is returned, in the thread that calls that.

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
    taken = {name: values for name, values in columns.items() if entry.named is None or name in entry.named}
    places = {row: row for row in rows}  # row -> the row that is scored in its place
    if entry.cache:
        keyed = [columns["prompts"], columns["completions"], *taken.values()]
        first: dict[Any, int] = {}
        places = {row: first.setdefault(tuple(_key(values[row]) for values in keyed), row) for row in rows}
    scored = sorted(set(places.values()))
    arguments = {name: [values[row] for row in scored] for name, values in taken.items()}

    wait = None if entry.deferred else _start(entry, arguments)

    def finish() -> Outcome:
        final, spent = (wait or _start(entry, arguments))()
        scores = _as_list(entry.name, final, len(scored))
        by_row = dict(zip(scored, scores, strict=True))
        return _outcome(entry.name, rows, [by_row[places[row]] for row in rows], count, spent)

    return finish


def check_from_update(spec: Mapping[str, Any], *, what: str) -> int:
    """ "from_update" of a spec, 0 by default; ValueError, beginning with ``what``, for anything but a whole number >= 0."""
    first = spec.get("from_update", 0)
    if not isinstance(first, int) or isinstance(first, bool) or first < 0:
        raise ValueError(f"{what}: from_update={first!r} must be a whole number of at least 0")
    return first


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


def last_line(error: BaseException) -> str:
    """An exception as the last line of its traceback."""
    return traceback.format_exception_only(error)[-1].strip()


def _key(value: Any) -> Any:
    """A hashable that is equal for equal text, numbers and lists of whole numbers, else for the same object only."""
    if value is None or isinstance(value, str | int | float):
        return type(value), value
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return type(value), tuple(value)
    return object, id(value)


def _as_list(name: str, result: Any, count: int) -> list[Any]:
    """A function's result as its scores; the exception for each of them if it raised."""
    if isinstance(result, Exception):
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
        if isinstance(score, Exception):
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
