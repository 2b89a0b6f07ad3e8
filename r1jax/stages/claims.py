"""Claims stage: a row for each claim of the paper, with our figures and whether it held, from what earlier stages wrote.

    {"claim": what the paper says, "paper": its figures, "kind": a function of ``r1jax.evals.claim_kinds``, its parameters ...}

A "note" in the config is printed above the claims in the report: what a reader must know of the data, say.
What it leaves, besides what every work directory has: claims.json, a list of {"claim", "paper", "kind", "ours", "values",
"held": true | false | null, "rule", "figures", "table"}. ``held`` follows from the figures by the rule, no config can set it.
"""

import dataclasses
import inspect
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from r1jax.evals.claim_kinds import CHECKS, KINDS
from r1jax.processes import is_first, on_first
from r1jax.stages.keys import check_counts, check_finite, check_keys, options_of
from r1jax.workdir.directory import open_workdir, write_json
from r1jax.workdir.lineage import record_lineage

CLAIMS = "claims.json"
_TEXTS = ("claim", "paper", "kind")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot run; opens none of the paths, which may come to be."""
    check_keys(config, required=("stage", "seed", "claims"), optional=("note",), where="claims")
    check_counts(config, ("seed",), where="claims", least=0)
    check_finite(config.to_dict(), where="claims")
    if not config.claims:
        raise ValueError("claims: claims: needs at least one")
    for place, claim in enumerate(config.to_dict()["claims"]):
        _check_claim(claim, where=f"claims[{place}]")


def main(config: ConfigDict, workdir: Path) -> dict:
    """Reads the figures and decides. Returns the summary: how many claims held, did not, and are open.

    Raises ValueError naming the claim, the stage and the key where a figure is missing.
    """
    start_time = time.monotonic()
    check(config)
    values, workdir = config.to_dict(), Path(workdir)
    with open_workdir(workdir, values) as run:
        record_lineage(workdir, values)
        rows = on_first(
            lambda: [row_of(claim, where=f"claims[{place}]") for place, claim in enumerate(values["claims"])]
        )
        if is_first():
            write_json(workdir / CLAIMS, rows)
        held = [row["held"] for row in rows]
        summary = {
            "claims": len(rows),
            "held": held.count(True),
            "not_held": held.count(False),
            "open": held.count(None),
        }
        summary |= {"wall_seconds": time.monotonic() - start_time, "seed": config.seed}
        run.mark_done(summary)
    return summary


def row_of(claim: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The row of a claim; see the module."""
    try:
        verdict = KINDS[claim["kind"]](**_arguments(claim))
    except ValueError as error:
        raise ValueError(f"{where} ({claim['kind']}): {error}") from error
    return {name: claim[name] for name in _TEXTS} | dataclasses.asdict(verdict)


def _check_claim(claim: Mapping[str, Any], *, where: str) -> None:
    check_keys(claim, required=_TEXTS, optional=claim, where=where)
    for name in _TEXTS:
        if not isinstance(claim[name], str) or not claim[name].strip():
            raise ValueError(f"{where}: {name}={claim[name]!r} must be a text")
    if claim["kind"] not in KINDS:
        raise ValueError(f"{where}: kind={claim['kind']!r} must be one of {', '.join(KINDS)}")
    where = f"{where} ({claim['kind']})"
    parameters = inspect.signature(KINDS[claim["kind"]]).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    check_keys(_arguments(claim), required=required, optional=[parameter.name for parameter in parameters], where=where)
    for name, value in _arguments(claim).items():
        if name.endswith("path"):
            paths, is_fine = [value], True
        elif name.endswith("paths"):
            paths, is_fine = list(value.values() if isinstance(value, Mapping) else value), bool(value)
        else:
            continue
        if not is_fine or not all(isinstance(path, str) and path for path in paths):
            raise ValueError(f"{where}: {name}={value!r} must name work directories")
    check_counts(claim, options_of(claim, ("phases",)), where=where)
    try:
        CHECKS.get(claim["kind"], lambda **arguments: None)(**_arguments(claim))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _arguments(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claim.items() if name not in _TEXTS}
