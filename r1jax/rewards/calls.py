"""Calls of reward functions: what they get, for how long, equal completions once, async ones at the same time.

Used by `rubric`; what a reward function is and returns stands there. Whatever a call does, an exception of any kind or
a result that is no list of scores, is an error of its completions and never ends a run.
"""

import asyncio
import atexit
import concurrent.futures
import copy
import dataclasses
import functools
import inspect
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.background import Background
from r1jax.specs.functions import last_line, load_function
from r1jax.specs.reader import near

RewardFunction = Callable[..., Any]

_LARGEST = 1e30
"""A weighed score beyond it is none: advantages are float32."""
_RESERVED = frozenset({"mean", "std", "errors", "timeouts", "seconds"})
_LONGEST = 1e8
"""Seconds; what waits takes no longer limit."""
_LOOPS: dict[str, asyncio.AbstractEventLoop] = {}
_OF_THE_CALL = frozenset({"trainer_state", "log_extra", "log_metric"})
"""Arguments that are one for the whole call (TRL's names)."""
CALLS = Background("reward calls")
"""The thread that calls plain functions."""
_GRACE = 5.0
"""Seconds after its limit in which an async function may still end; after that it blocks its event loop."""


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """How far the run is, under TRL's names."""

    global_step: int = 0
    """Updates that the policy has had."""
    max_steps: int = 0
    """Updates of the whole run; 0 where nothing is trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One reward of a rubric."""

    name: str
    function: RewardFunction
    weight: float = 1.0  # its share of the sum; 0.0 only logs it
    tasks: frozenset[str] | None  # names of the tasks that it applies to; None for all
    cache: bool = False  # equal completions are scored once: their score depends on no other row
    takes_copies: bool = True  # it may change what it gets; those of this package do not
    timeout: float = 600.0  # seconds that a call may take, deferred ones aside
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
    extra: dict[str, list]  # columns [N] that it logs, JSON's types; None where it saw no row
    metrics: dict[str, float]  # figures that it logs

    def weighed(self, weight: float) -> "Outcome":
        """This outcome, with a score that is too large once it is weighed as a failure."""
        with np.errstate(over="ignore"):
            is_bad = np.abs(weight * self.values) > _LARGEST
        if not is_bad.any():
            return self
        words = {
            int(row): f"score {self.values[row]} times weight {weight} is beyond {_LARGEST:g}"
            for row in np.flatnonzero(is_bad)
        }
        return dataclasses.replace(
            self,
            values=np.where(is_bad, np.nan, self.values),
            failed=self.failed | is_bad,
            messages=self.messages | words,
        )


def make_entry(
    function: str | RewardFunction,
    *,
    name: str | None = None,
    tasks: Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    cache: bool | None = None,
    **fields: Any,
) -> Entry:
    """The entry of a reward function: "module:function", the function itself, or an object that can be called.

    ``options`` are keyword arguments that are the same for every completion, ``fields`` the others of ``Entry``. A
    class is called with the options, once, and what it makes is the function: it may keep state. ``cache`` None: only a
    function of this package scores equal completions once.

    Raises:
        ValueError: a function that cannot be loaded, whose parameters cannot be read, or that has no such option.
    """
    called: Any = function
    if isinstance(function, str):
        try:
            called = load_function(function)
        except ValueError as error:
            raise ValueError(f"function={error}") from error
    name_of_function = getattr(called, "__name__", type(called).__name__)
    written = function if isinstance(function, str) else name_of_function
    try:
        options, known = dict(options or {}), inspect.signature(called).parameters
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"function={written!r}: which columns it takes cannot be read ({error}); call it from a function in Python"
        ) from error
    for option in options:
        if option not in known:
            raise ValueError(f"options.{option}: {name_of_function} has no such parameter{near(option, known)}")
    if inspect.isclass(called):
        try:
            called, options = called(**options), {}
        except Exception as error:
            raise ValueError(f"function={written!r} cannot be made: {last_line(error)}") from error
        if not callable(called):
            raise ValueError(f"function={written!r} makes what cannot be called; give the class a method __call__")
    is_ours = str(getattr(called, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]
    called = functools.partial(called, **options) if options else called
    parameters = [one for one in inspect.signature(called).parameters.values() if one.name not in options]
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    required = frozenset(one.name for one in named if one.default is one.empty)
    return Entry(
        name=name or name_of_function,
        function=called,
        tasks=None if tasks is None else frozenset(tasks),
        required=required - _OF_THE_CALL,
        named=None if takes_all else frozenset(one.name for one in named),
        cache=is_ours if cache is None else cache,
        takes_copies=not is_ours,
        **fields,
    )


def start_call(
    entry: Entry, columns: Mapping[str, Sequence[Any]], *, count: int, state: TrainerState | None = None
) -> Callable[[], Outcome]:
    """Calls a plain function now, or sets an async one going; what is returned waits for the outcome on all rows.

    A deferred function is called by what is returned, in the thread that calls that; no time limit holds for it. The
    function gets copies, for each row its own, so that what it changes no other row, reward or phase sees; and no
    column of the name of one of its options.

    Raises:
        ValueError: a column that the function needs is not there.
    """
    rows = list(range(count))
    if entry.tasks is not None:
        if "task_name" not in columns:
            raise ValueError(f"reward {entry.name!r} is for some tasks only, and there is no column 'task_name'")
        rows = [row for row in rows if columns["task_name"][row] in entry.tasks]
    if not rows:
        return lambda: _outcome([], [], count, 0.0, _Log(0))
    entry.require(columns)
    options = entry.function.keywords if isinstance(entry.function, functools.partial) else {}
    taken = {
        name: values
        for name, values in columns.items()
        if name not in options and name not in _OF_THE_CALL and (entry.named is None or name in entry.named)
    }
    scored_as = {row: row for row in rows}  # row -> the equal row that is scored
    if entry.cache:
        keyed = [columns["prompts"], columns["completions"], *taken.values()]
        first: dict[Any, int] = {}
        scored_as = {row: first.setdefault(tuple(_key(values[row]) for values in keyed), row) for row in rows}
    scored = sorted(set(scored_as.values()))
    log = _Log(len(scored))
    copied = _copied if entry.takes_copies else lambda value: value
    of_the_call = {"trainer_state": state or TrainerState(), "log_extra": log.extra, "log_metric": log.metric}
    arguments = {name: [copied(values[row]) for row in scored] for name, values in taken.items()} | {
        name: value for name, value in of_the_call.items() if entry.named is None or name in entry.named
    }
    wait = None if entry.deferred else _start(entry, arguments)

    def finish() -> Outcome:
        result, seconds = _call(entry, arguments) if wait is None else wait()
        index = {row: index for index, row in enumerate(scored)}
        scores = _as_list(result, len(scored))
        return _outcome(rows, [index[scored_as[row]] for row in rows], count, seconds, log, scores)

    return finish


class _Log:
    """What a function logs during one call that sees so many rows."""

    def __init__(self, num_rows: int):
        self._num_rows = num_rows
        self.columns: dict[str, list] = {}
        self.metrics: dict[str, float] = {}

    def extra(self, column: str, values: Sequence[Any]) -> None:
        """A column of the log of completions. Raises ValueError, TypeError for what is not a JSON value for each of them."""
        if len(values) != self._num_rows:
            raise ValueError(f"log_extra: column {column!r} has {len(values)} values for {self._num_rows} completions")
        self.columns[str(column)] = json.loads(json.dumps(list(values)))

    def metric(self, name: str, value: float) -> None:
        """A figure of the call. Raises ValueError for the name of a figure that every reward has."""
        if name in _RESERVED:
            raise ValueError(
                f"log_metric: {name!r} is taken; {', '.join(sorted(_RESERVED))} are logged of every reward"
            )
        self.metrics[str(name)] = float(value)


def _copied(value: Any) -> Any:
    """A copy that shares nothing that can be changed; of a task, which may be large, the object itself."""
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    if type(value) is list:
        return value.copy() if set(map(type, value)) <= {int, str, float} else [_copied(item) for item in value]
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value if hasattr(value, "grade") else copy.deepcopy(value)


def _start(entry: Entry, arguments: Mapping[str, Any]) -> Callable[[], tuple[Any, float]]:
    """Calls the function in a thread that is left behind if it takes too long; waits for an async one in what is returned."""
    late = TimeoutError(f"it took longer than timeout={entry.timeout:g} s")
    result, seconds = _within(CALLS.run(_call, entry, arguments), entry.timeout, (late, entry.timeout), CALLS.give_up)
    if not inspect.isawaitable(result):
        return lambda: (result, seconds)
    timed = asyncio.run_coroutine_threadsafe(_timed(result, min(entry.timeout, _LONGEST), late), _loop(entry.name))
    give_up = functools.partial(_LOOPS.pop, entry.name, None)
    return lambda: _within(timed, entry.timeout + _GRACE, (late, entry.timeout), give_up)


def _within(future: concurrent.futures.Future, seconds: float, late: Any, give_up: Callable[[], Any]) -> Any:
    """A future's result, or ``late`` after so many seconds, with its thread given up."""
    try:
        return future.result(timeout=min(seconds, _LONGEST))
    except concurrent.futures.TimeoutError:
        give_up()
        return late


def _call(entry: Entry, arguments: Mapping[str, Any]) -> tuple[Any, float]:
    """(result or exception, seconds) of the function."""
    start = time.perf_counter()
    try:
        result = entry.function(**arguments)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        result = error
    return result, time.perf_counter() - start


def _key(value: Any) -> Any:
    """A hashable that is equal for equal text, numbers and lists of whole numbers, else for the same object only."""
    if value is None or isinstance(value, str | int | float):
        return type(value), value
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return type(value), tuple(value)
    return object, id(value)


def _as_list(result: Any, count: int) -> list[Any]:
    """A function's result as its scores; an exception for each of them if it raised or returned something else."""
    try:
        if isinstance(result, BaseException):
            return [result] * count
        if not isinstance(result, Sequence | np.ndarray) or isinstance(result, str | bytes | bytearray | memoryview):
            raise TypeError(f"it returned a {type(result).__name__}, not a list of {count} scores")
        scores = list(result)
        if len(scores) != count:
            raise ValueError(f"it returned {len(scores)} scores for {count} completions")
        return scores
    except Exception as error:
        return [error] * count


def _outcome(
    rows: Sequence[int], indices: Sequence[int], count: int, seconds: float, log: _Log, scores: Sequence[Any] = ()
) -> Outcome:
    """``scores``, and the columns of the log, of a call; row ``rows[i]`` has that of ``indices[i]``."""
    values, failed, timed_out = np.full(count, np.nan), np.zeros(count, bool), np.zeros(count, bool)
    messages = {}
    extra = {name: [None] * count for name in log.columns}
    for row, index in zip(rows, indices, strict=True):
        score = scores[index]
        for name, column in log.columns.items():
            extra[name][row] = column[index]
        if score is None:
            continue
        if isinstance(score, BaseException):
            failed[row], timed_out[row], messages[row] = True, isinstance(score, TimeoutError), last_line(score)
            continue
        try:
            is_number = isinstance(score, float | int | np.floating | np.integer | np.bool_)
            values[row] = float(score) if is_number else np.nan
        except Exception:  # 10**400; a class of the user's
            values[row] = np.inf
        if not math.isfinite(values[row]):
            failed[row], messages[row] = True, f"score {_shown(score)} is no finite number, and not None"
            values[row] = np.nan
    return Outcome(values, failed, timed_out, messages, seconds, extra, dict(log.metrics))


def _shown(value: Any) -> str:
    """The beginning of what a value is written as."""
    try:
        return f"{value!r:.80}"
    except Exception:  # more than 4,300 digits; a class whose text cannot be made
        return f"of type {type(value).__name__}"


async def _timed(awaitable: Any, timeout: float, late: TimeoutError) -> tuple[Any, float]:
    """(result or exception, seconds) of an awaitable; ``late`` if it takes too long."""
    start = time.perf_counter()
    try:
        async with asyncio.timeout(timeout) as limit:
            result = await awaitable
    except BaseException as error:
        result = late if isinstance(error, TimeoutError) and limit.expired() else error
    return result, time.perf_counter() - start


def _loop(name: str) -> asyncio.AbstractEventLoop:
    """The event loop of an async reward, in a thread of its own: one that blocks its loop delays no other reward."""
    if name not in _LOOPS:
        _LOOPS[name] = loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name=f"reward {name}", daemon=True)
        thread.start()
        atexit.register(_close, loop, thread)
    return _LOOPS[name]


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=5.0)
    if not loop.is_running():
        loop.close()
