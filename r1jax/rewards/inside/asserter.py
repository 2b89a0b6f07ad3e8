"""Runs /box/asserts.py, where a function stands for that of a program in another sandbox: calls go out, values come in.

Its one argument is the function's name. Exit code 0: everything held. Otherwise the last word on stderr is "failed", or
"broken" where the assertions failed before the function was first called: they are at fault, not the program. What the
function changed in its arguments, lists, dicts and sets, is changed here too.
"""

import ast
import builtins
import os
import re
import sys

_LONGEST_REPLY = 1 << 22
_INFINITY = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|\binf\b""")  # but for what is in a text
# An iterator takes the first two for its end: ``all(map(f, xs))`` would hold.
_NOT_RAISED = (StopIteration, StopAsyncIteration, AssertionError)


def main() -> None:
    """Exit code 0 or 1, as the module says."""
    replies = os.fdopen(os.dup(0), encoding="utf-8")
    calls = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for descriptor in (0, 1):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
    verdict = "broken"

    def candidate(*arguments, **options):
        nonlocal verdict
        line = _INFINITY.sub(lambda match: match[1] or "1e999", repr((sys.argv[1], arguments, options)))
        ast.literal_eval(line)
        verdict = "failed"
        print(line, file=calls, flush=True)
        kind, *content = ast.literal_eval(replies.readline(_LONGEST_REPLY))
        if kind == "value":
            for argument, changed in zip(arguments, content[1] or (), strict=False):
                if isinstance(argument, list | dict | set) and argument != changed:
                    argument.clear()
                    getattr(argument, "extend" if isinstance(argument, list) else "update")(changed)
            return content[0]
        error = getattr(builtins, str(content[0]), RuntimeError)
        is_error = isinstance(error, type) and issubclass(error, Exception) and not issubclass(error, _NOT_RAISED)
        raise (error if is_error else RuntimeError)(content[1])

    with open("/box/asserts.py", encoding="utf-8") as file:
        text = file.read()
    try:
        exec(
            compile(text, "asserts.py", "exec"), {"__name__": "asserts", sys.argv[1]: candidate, "candidate": candidate}
        )
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", verdict, sep="\n", file=sys.stderr)
        sys.exit(1)
    if verdict == "broken":
        print("the function was never called", verdict, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
