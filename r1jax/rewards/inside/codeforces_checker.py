"""``check`` for a checker of open-r1/codeforces: a script that is started as ``checker.py input.txt correct_output.txt
solution_output.txt`` and prints 1 where the solution's output is right. Its text is put into ``SOURCE``; the three files
are in memory, since the sandbox has no place to write to."""

import builtins
import contextlib
import io
import sys

SOURCE = ""


def check(given: str, got: str, expected: str) -> bool:
    """Whether the script prints 1."""
    files = {"input.txt": given, "correct_output.txt": expected, "solution_output.txt": got}

    def opened(name, mode="r", *arguments, **options):
        if str(name) not in files or set(mode) & set("wax+"):
            raise FileNotFoundError(f"{name}, mode {mode}")
        text = files[str(name)]
        return io.BytesIO(text.encode()) if "b" in mode else io.StringIO(text)

    printed = io.StringIO()
    real = builtins.open, io.open, sys.argv
    builtins.open, io.open, sys.argv = opened, opened, ["checker.py", *files]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            exec(compile(SOURCE, "checker.py", "exec"), {"__name__": "__main__"})
    finally:
        builtins.open, io.open, sys.argv = real
    return printed.getvalue().strip() == "1"
