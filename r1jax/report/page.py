"""The report of one work directory, and the comparison of several: seeds, ablations."""

import collections
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.report.claim_table import claims
from r1jax.report.examples import examples
from r1jax.report.figures import compared_figures, stage_figures
from r1jax.report.headline import headline, length_ends, score, score_names, status, updates_of
from r1jax.report.markup import duration, fill, show, show_interval
from r1jax.report.tables import scores, tables
from r1jax.workdir.read import Stage, flatten, read_run

_MANY = 6  # stages; of more than these there is a table, and all are folded


def write_report(workdir: str | Path, *, out: str | Path | None = None) -> Path:
    """Writes the report of a stage's folder, or a folder of stages, to `out` or `workdir`/report.html; returns its
    path.

    Raises NotAWorkdirError where there is no stage, OSError where the page cannot be written.
    """
    run = read_run(workdir)
    is_long = len(run.stages) > _MANY
    # What a reader looks for first: the stages that learn from rewards. Those before them are folded.
    leading = [] if is_long else [stage for stage in run.stages if stage.is_rl] or list(run.stages)
    seconds = [stage.wall_seconds for stage in run.stages if math.isfinite(stage.wall_seconds)]
    total = f"{len(run.stages)} stages" + (f", {duration(sum(seconds))} altogether" if seconds else "")
    values = {"name": run.path.resolve().name, "stages": run.stages, "is_long": is_long, "leading": leading}
    return _save(Path(out) if out else run.path / "report.html", "run.html", **values, total_time=total)


def _facts(stage: Stage) -> list[str]:
    """Where the stage stands, and its main figures."""
    facts = [status(stage)]
    for name in score_names(stage):
        before, after = (score(stage, name, when)[0] for when in ("before", "after"))
        facts.append(f"{name} {show(before)} → {show(after)}")
    if (loss := stage.metrics.get("loss")) and not stage.is_rl:
        facts.append(f"loss {' → '.join(show(value) for value in loss.ends)}")
    return facts + scores(stage)


def compare(workdirs: Sequence[str | Path], *, out: str | Path = "compare.html") -> Path:
    """Writes one page with the runs of `workdirs` over each other and returns its path.

    Stages are matched by kind and order, so `seed0/rl` goes with `seed1` if that is an RL stage itself.

    Raises ValueError for fewer than two work directories, NotAWorkdirError where one of them holds no stage, OSError
    where the page cannot be written.
    """
    if len(workdirs) < 2:
        raise ValueError(f"a comparison needs two work directories or more, got {len(workdirs)}")
    runs = [read_run(workdir) for workdir in workdirs]
    groups: dict[tuple[str, int], dict[str, Stage]] = {}
    for label, run in zip(_labels([run.path for run in runs]), runs, strict=True):
        seen: collections.Counter[str] = collections.Counter()
        for stage in run.stages:
            kind = stage.kind or ("rl" if stage.is_rl else stage.name)
            groups.setdefault((kind, seen[kind]), {})[label] = stage
            seen[kind] += 1
    rl_first = sorted(groups.values(), key=lambda stages: not any(stage.is_rl for stage in stages.values()))
    return _save(Path(out), "compare.html", num_runs=len(runs), groups=[_group(stages) for stages in rl_first])


def _labels(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; numbered if the same path comes twice."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while depth < max(map(len, parts)) and len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(part[-depth:]) for part in parts]
    if depth > 1:
        while len({name.rpartition("/")[2] for name in names}) == 1 and all("/" in name for name in names):
            names = [name.rpartition("/")[0] for name in names]
    return [name if names.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(names)]


def _group(stages: dict[str, Stage]) -> dict[str, Any]:
    """What the page shows of the stages that go together, by the labels of their runs."""
    every = list(stages.values())
    titles = list(dict.fromkeys(stage.name for stage in every))
    names = list(dict.fromkeys(name for stage in every for name in score_names(stage, with_pass_at_k=True)))
    finals = [[score(stage, name, "after")[0] for stage in every] for name in names]
    has_spread = any(np.isfinite(values).sum() > 1 for values in finals)
    settings = {label: dict(flatten(stage.config)) for label, stage in stages.items()}
    keys = dict.fromkeys(key for tree in settings.values() for key in tree if key)
    lines = [[key, *(tree.get(key, "–") for tree in settings.values())] for key in keys]
    return {
        "title": " / ".join(titles) if len(stages) <= 4 else every[0].name,
        "stages": stages,
        "names": names,
        "has_lengths": any(np.isfinite(length_ends(stage)).any() for stage in every),
        "has_scores": any(map(scores, every)),
        "spreads": [_spread(values) for values in finals] if has_spread else [],
        "has_settings": any(settings.values()),
        "different": [line for line in lines if len({json.dumps(value, default=str) for value in line[1:]}) > 1],
        "sections": compared_figures(stages) if all(stage.has_curves for stage in every) else [],
    }


def _spread(values: list[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{show(float(np.mean(known)))} ({show(min(known))} to {show(max(known))})" if known else "–"


def _save(path: Path, template: str, **values: Any) -> Path:
    """Writes a page in one move, so that a reader never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(fill(template, **_FUNCTIONS, **values), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


_FUNCTIONS: dict[str, Any] = {
    "claims": claims,
    "examples": examples,
    "facts": _facts,
    "figures": stage_figures,
    "flatten": flatten,
    "headline": headline,
    "interval": show_interval,
    "length_ends": length_ends,
    "score": score,
    "scores": scores,
    "status": status,
    "tables": tables,
    "updates_of": updates_of,
}
"""What the templates call."""
