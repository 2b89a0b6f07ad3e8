"""Functions that a config names: "module:function", of this package, an installed one, or a file next to the config."""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from r1jax.specs.reader import near


def load_function(path: str) -> Callable[..., Any]:
    """The function that "module:function" names.

    ValueError, which begins with that text: another form, a module that cannot be imported or lacks the name, no
    function.
    """
    module_name, colon, function_name = path.partition(":")
    if not (colon and module_name and function_name):
        raise ValueError(f"{path!r} must have the form 'module:function'")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path!r}: cannot import module {module_name!r}: {last_line(error)}") from error
    if not hasattr(module, function_name):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        hint = near(function_name, known) if known else ""
        raise ValueError(f"{path!r}: module {module_name!r} has no {function_name!r}{hint}")
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(f"{path!r} is a {type(function).__name__}, not a function")
    return function


def check_function(path: str, *, where: str) -> None:
    """Raises ValueError, beginning with the dotted key ``where``, for what ``load_function`` cannot load."""
    try:
        load_function(path)
    except ValueError as error:
        raise ValueError(f"{where}={error}") from error


@contextlib.contextmanager
def naming_function(path: str) -> Iterator[None]:
    """Makes any exception of the function that ``path`` names a ValueError of one line; those that are one already stay."""
    try:
        yield
    except (ValueError, OSError, TypeError):
        raise
    except Exception as error:
        if type(error).__module__.startswith("r1jax."):
            raise
        raise ValueError(f"{path!r} raised {last_line(error)}") from error


def last_line(error: BaseException) -> str:
    """An exception as the last line of its traceback; a message of several lines is joined to one."""
    return " ".join(line.strip() for line in traceback.format_exception_only(error)[-1].splitlines()).strip()
