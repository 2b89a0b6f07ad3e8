"""Claims stage: a row for each claim of the paper, with our figures and whether it held, from what earlier stages
wrote.

What it leaves, besides what every work directory has: claims.json, a list of {"claim", "paper", "kind", "ours",
"values", "held": true | false | null, "rule", "protocol", "figures", "table"}. ``held`` follows from the figures by the
rule, no config can set it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.evals.claim_kinds import judge_claim
from r1jax.policies.preview import Previews
from r1jax.processes import is_first, on_first
from r1jax.specs.claims import AnyClaim
from r1jax.specs.reader import read
from r1jax.specs.stages import ClaimsSpec
from r1jax.stages.open_run import open_run
from r1jax.workdir.directory import write_json

CLAIMS = "claims.json"


def check(spec: ClaimsSpec, previews: Previews | None = None) -> None:
    """Nothing to try: what the claims are read from may come to be."""


def main(spec: ClaimsSpec, workdir: Path) -> dict[str, Any]:
    """Reads the figures and decides. Returns the summary: how many claims held, did not, and are open.

    Raises ValueError naming the claim, the stage and the key where a figure is missing.
    """
    spec = read(ClaimsSpec, spec)
    with open_run(spec, workdir) as run:
        rows = on_first(lambda: rows_of(spec.claims))
        if is_first():
            write_json(run.path / CLAIMS, rows)
        held = [row["held"] for row in rows]
        counts = {"held": held.count(True), "not_held": held.count(False), "open": held.count(None)}
        return run.mark_done({"claims": len(rows)} | counts)


def rows_of(claims: Sequence[AnyClaim]) -> list[dict[str, Any]]:
    """The row of each claim; see the module."""
    rows = []
    for index, claim in enumerate(claims):
        try:
            verdict = dataclasses.asdict(judge_claim(claim))
        except ValueError as error:
            raise ValueError(f"claims[{index}] ({claim.kind}): {error}") from error
        rows.append({"claim": claim.claim, "paper": claim.paper, "kind": claim.kind} | verdict)
    return rows
