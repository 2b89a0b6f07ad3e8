"""What a mini base can do before any RL: the table of r1jax.tasks.mini.gate for files of completions.

.venv/bin/python experiments/mini_base/measure.py runs/zero/zero/completions/heldout_*.jsonl
"""

import json
import sys
from pathlib import Path

from r1jax.tasks.mini.gate import analyse
from r1jax.tasks.problem import Problem


def main(paths: list[str]) -> None:
    """Prints one table a file."""
    for path in paths:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        problems = [
            Problem(({"role": "user", "content": row["prompt"]},), row["problem"]["answer"], row["problem"])
            for row in rows
        ]
        table = analyse([row["completion"] for row in rows], problems)
        print(path)
        for name, value in table.items():
            print(f"  {name:24s} {value if isinstance(value, int) else round(value, 3)}")


if __name__ == "__main__":
    main(sys.argv[1:])
