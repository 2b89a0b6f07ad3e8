"""Claims stage: a row for each claim of the paper, with our figures and whether it held, from what earlier stages wrote.

What it leaves, besides what every work directory has: claims.json, a list of {"claim", "paper", "kind", "ours", "values",
"held": true | false | null, "rule", "protocol", "figures", "table"}. ``held`` follows from the figures by the rule, no config
can set it.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

from r1jax.evals.claim_kinds import judge_claim
from r1jax.processes import is_first, on_first
from r1jax.specs.claims import Claim
from r1jax.specs.fields import to_plain
from r1jax.specs.reader import read
from r1jax.specs.stages import ClaimsSpec
from r1jax.workdir.directory import open_workdir, write_json
from r1jax.workdir.lineage import record_lineage

CLAIMS = "claims.json"


def check(spec: ClaimsSpec) -> None:
    """Raises SpecError, naming the key, for a config that cannot run; opens none of the paths, which may come to be."""
    read(ClaimsSpec, spec)


def main(spec: ClaimsSpec, workdir: Path) -> dict[str, Any]:
    """Reads the figures and decides. Returns the summary: how many claims held, did not, and are open.

    Raises ValueError naming the claim, the stage and the key where a figure is missing.
    """
    start_time = time.monotonic()
    spec, workdir = read(ClaimsSpec, spec), Path(workdir)
    with open_workdir(workdir, to_plain(spec)) as run:
        record_lineage(workdir, to_plain(spec))
        rows = on_first(lambda: [row_of(claim, where=f"claims[{index}]") for index, claim in enumerate(spec.claims)])
        if is_first():
            write_json(workdir / CLAIMS, rows)
        held = [row["held"] for row in rows]
        summary = {
            "claims": len(rows),
            "held": held.count(True),
            "not_held": held.count(False),
            "open": held.count(None),
        }
        summary |= {"wall_seconds": time.monotonic() - start_time, "seed": spec.seed}
        run.mark_done(summary)
    return summary


def row_of(claim: Claim, *, where: str = "claim") -> dict[str, Any]:
    """The row of a claim; see the module. ``where`` names the claim in errors."""
    try:
        verdict = judge_claim(claim)
    except ValueError as error:
        raise ValueError(f"{where} ({claim.kind}): {error}") from error
    return {"claim": claim.claim, "paper": claim.paper, "kind": claim.kind} | dataclasses.asdict(verdict)
