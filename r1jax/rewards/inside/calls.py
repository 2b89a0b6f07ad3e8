"""Calls a function of a program and prints what it gives, as JSON.

Standard input is ``{"prelude": text, "source": text, "function": "name" or "Class.method", "calls": [[argument, ...],
...]}``, the prelude running first, in the same module; standard output is the list of values. The expected values are not
here: whatever the program does to this process, it can only choose the values that it is judged by.
"""

import json
import os
import sys
import types
from typing import Any


def main() -> None:
    """Exit code 0 and the values, or 1 and a traceback."""
    task = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    for part in ("prelude", "source"):
        exec(compile(task[part], "solution.py", "exec"), solution.__dict__)
    values = []
    for arguments in task["calls"]:
        function: Any = solution
        for name in task["function"].split("."):
            function = getattr(function() if isinstance(function, type) else function, name)
        values.append(function(*arguments))
    content = json.dumps(values).encode()
    while content:
        content = content[os.write(answer, content) :]


if __name__ == "__main__":
    main()
