"""The compile table in Markdown, from the file that R1JAX_TPU_TABLE named: ``python -m tests.kernels.tpu_table FILE``.

A row is a program of a test, a column a generation: CPU seconds to trace and compile it, and the most VMEM of a kernel of it (what
the compiled text says that the kernel's own buffers take; 0 where XLA keeps all of its operands in VMEM by itself).
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from r1jax.kernels.hardware import GENERATIONS


def program(test: str, generation: str) -> str:
    """ "flash_attention_pallas: v3_train_4k" of a test's id."""
    path, _, rest = test.removesuffix(" (call)").partition("::")
    name, _, parameters = rest.rstrip("]").partition("[")
    case = "-".join(part for part in parameters.split("-") if part != generation)
    return f"{Path(path).stem.removeprefix('test_')} {name.removeprefix('test_')}: {case}"


def table(lines: list[str]) -> str:
    """Markdown of the lines of JSON. Programs of one test are told apart by their kernel calls; of equals, the last counts."""
    cells: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for row in map(json.loads, lines):
        vmem = max((kernel["vmem_bytes"] for kernel in row["kernels"]), default=0)
        key = program(row["test"], row["generation"]), len(row["kernels"])
        cells[key][row["generation"]] = f"{row['cpu_seconds']:.1f} s, {vmem / 2**20:.1f} MiB"
    head = ["program", "kernel calls", *GENERATIONS]
    rows = [[name, str(calls), *(by.get(g, "") for g in GENERATIONS)] for (name, calls), by in cells.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["-"] * len(head), *rows])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text().splitlines()))
