"""Runs /box/prelude.py and then /box/solution.py as one script; ``sys.exit`` ends it well, whatever its code."""

import contextlib

with contextlib.suppress(SystemExit):
    for name in ("prelude", "solution"):
        with open(f"/box/{name}.py", encoding="utf-8") as file:
            text = file.read()
        exec(compile(text, f"{name}.py", "exec"), globals())
