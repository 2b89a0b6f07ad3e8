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
    """Markdown of the lines of JSON; of several for one program and generation, the last."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    kernels = {}
    for row in map(json.loads, lines):
        name = program(row["test"], row["generation"])
        vmem = max((kernel["vmem_bytes"] for kernel in row["kernels"]), default=0)
        cells[name][row["generation"]] = f"{row['cpu_seconds']:.1f} s, {vmem / 2**20:.1f} MiB"
        kernels[name] = len(row["kernels"])
    head = ["program", "kernel calls", *GENERATIONS]
    rows = [[name, str(kernels[name]), *(by.get(g, "") for g in GENERATIONS)] for name, by in cells.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["-"] * len(head), *rows])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text().splitlines()))
