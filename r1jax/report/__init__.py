"""Turns a work directory into one HTML page: `python -m r1jax.report WORKDIR`.

Reads files only (config.json, environment.json, metrics.jsonl, summary.json, table.json, claims.json,
completions/), so it needs neither jax nor an accelerator, and works on a run that has not ended.
"""

from r1jax.report.page import compare, write_report
from r1jax.workdir.read import NotAWorkdirError

__all__ = ["NotAWorkdirError", "compare", "write_report"]
