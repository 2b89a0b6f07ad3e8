"""Runs /box/prelude.py and then /box/solution.py as one script; ``sys.exit`` ends it well, whatever its code."""

import contextlib

if __name__ == "__main__":
    with contextlib.suppress(SystemExit):
        for part in ("prelude", "solution"):
            with open(f"/box/{part}.py", encoding="utf-8") as file:
                text = file.read()
            exec(compile(text, f"{part}.py", "exec"), globals())
