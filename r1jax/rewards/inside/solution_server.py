"""Answers calls of a function of /box/solution.py: one line in, one line out, each the ``repr`` of literals.

/box/prelude.py runs first, in the same module. In: ``(name, arguments, keyword arguments)``. Out: ``("value", value)`` or
``("error", name of the exception, message)``.
"""

import ast
import os
import sys
import types
from typing import Any


def main() -> None:
    """Ends where its input ends."""
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
        name, arguments, options = ast.literal_eval(line)
        try:
            reply = f"('value', {literal(getattr(solution, name)(*arguments, **options))})"
        except Exception as error:
            reply = repr(("error", type(error).__name__, str(error)))
        print(reply, file=replies, flush=True)


def literal(value: Any) -> str:
    """A value as it is written: of a subclass as what it is a kind of (a Counter as a dict), infinity as 1e999."""
    if isinstance(value, float):
        return float.__repr__(value).replace("inf", "1e999")
    kinds: tuple[Any, ...] = (bool, int, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return kind.__repr__(value)
    if isinstance(value, dict):
        return "{" + "".join(f"{literal(key)}: {literal(item)}, " for key, item in value.items()) + "}"
    for kind, (opening, closing) in {list: "[]", tuple: "()", (set, frozenset): "{}"}.items():
        if isinstance(value, kind):
            items = "".join(f"{literal(item)}, " for item in value)
            return opening + items + closing if items or opening != "{" else "set()"
    return repr(value)


if __name__ == "__main__":
    main()
