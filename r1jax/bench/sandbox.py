"""How fast are programs confined, and does load change what they do? ``r1jax bench sandbox``.

Programs of six kinds, from one that adds two numbers to one that never ends, first each alone, then many at once.
"""

import concurrent.futures
import os
import resource
import statistics
import time
from typing import Any

from r1jax.rewards import sandbox

_LIMITS = {"cpu_seconds": 1, "seconds": 120.0, "memory_mb": 256, "output_kb": 64}
_SOURCES = (
    *["print(sum(map(int, input().split())))"] * 5,
    *["print(sum(i * i for i in range(200_000)))"] * 5,
    *["import collections, heapq, json, re\nprint(len(json.dumps(list(range(1000)))))"] * 5,
    *["raise SystemExit(input() and 3)"] * 2,
    *["x = bytearray(10**10)", "while True: print('x' * 1000)"],
    "while True: pass",
)


def run(*, num_programs: int = 500, workers: int | None = None) -> dict[str, Any]:
    """Milliseconds of a run alone, programs a second at once and one by one, memory of this process, results that load
    changed.

    Args:
        num_programs: how many at once; one in twenty burns its whole CPU second.
        workers: how many of them run at a time, by default one a core.
    """
    jobs = [{"source": source, "stdin": "1 2\n", **_LIMITS} for source in _SOURCES]
    sandbox.require()
    warm = [sandbox.run_source("pass").seconds for _ in range(30)]
    start = time.perf_counter()
    alone = [sandbox.run_source(**job) for job in jobs]
    seconds_alone = (time.perf_counter() - start) / len(jobs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        results = list(
            pool.map(lambda job: sandbox.run_source(**job), (jobs[i % len(jobs)] for i in range(num_programs)))
        )
    seconds = time.perf_counter() - start
    return {
        "alone_ms": {"median": round(1e3 * statistics.median(warm), 1), "slowest": round(1e3 * max(warm), 1)},
        "programs": num_programs,
        "seconds": round(seconds, 1),
        "programs_per_second": round(num_programs / seconds, 1),
        "programs_per_second_one_by_one": round(1 / seconds_alone, 1),
        "peak_memory_grew_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "differ_from_alone": sum(result != alone[i % len(alone)] for i, result in enumerate(results)),
    }
