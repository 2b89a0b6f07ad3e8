"""Answers calls of a function of /box/solution.py: one line in, one line out. /box/prelude.py runs first, in the same
module.

Its one argument is how a line is written: as Python's "literals", or as "json". In: ``(name, arguments, keyword
arguments)``, where the name may be "Class.method" of an instance made anew. Out: ``("value", value, arguments)``, the
arguments as the call left them, None where that is as they were; or ``("error", name of the exception, message)``. What
is right is not here: whatever the program does to this process, it can only choose the values that it is judged by.
"""

import ast
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Ends where its input ends."""
    read: Callable[[str], Any] = json.loads if sys.argv[1] == "json" else ast.literal_eval
    write: Callable[[Any], str] = _json if sys.argv[1] == "json" else literal_of
    calls = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for descriptor in (0, 1):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    for name in ("prelude", "solution"):
        with open(f"/box/{name}.py", encoding="utf-8") as file:
            exec(compile(file.read(), f"{name}.py", "exec"), solution.__dict__)
    for line in calls:
        path, arguments, options = read(line)
        before = write(arguments)
        try:
            function: Any = solution
            for name in path.split("."):
                function = getattr(function() if isinstance(function, type) else function, name)
            value = function(*arguments, **options)
            reply = write(("value", value, None if write(arguments) == before else arguments))
        except Exception as error:
            reply = write(("error", type(error).__name__, str(error)))
        print(reply, file=replies, flush=True)


def literal_of(value: Any) -> str:
    """A value as it is written: of a subclass as what it is a kind of (a Counter as a dict), infinity as 1e999."""
    value = _plain(value)
    if isinstance(value, float):
        return float.__repr__(value).replace("inf", "1e999")
    kinds: tuple[Any, ...] = (bool, int, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return kind.__repr__(value)
    if isinstance(value, dict):
        return "{" + "".join(f"{literal_of(key)}: {literal_of(item)}, " for key, item in value.items()) + "}"
    for kind, (opening, closing) in {list: "[]", tuple: "()", (set, frozenset): "{}"}.items():
        if isinstance(value, kind):
            items = "".join(f"{literal_of(item)}, " for item in value)
            return opening + items + closing if items or opening != "{" else "set()"
    return repr(value)


def _json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """A scalar of numpy as the number that it is; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


if __name__ == "__main__":
    main()
