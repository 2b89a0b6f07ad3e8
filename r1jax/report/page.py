"""The report of one work directory, and the comparison of several: seeds, ablations."""

import collections
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from r1jax.report.claim_table import claims
from r1jax.report.completions import write_completions
from r1jax.report.figures import axes_of, compared_figures, stage_figures
from r1jax.report.headline import headline, length_ends, score, score_names, status, updates_of
from r1jax.report.markup import REFLECTION, code, duration, fill, setting, show, show_interval, write_whole
from r1jax.report.tables import scores, tables
from r1jax.workdir.read import Series, Stage, flatten, read_run

_REWARD = re.compile("reward|rewards/[^/]+/mean")
_FEW = 5  # settings that differ: they stand before the scores; more stand behind them
_MANY = 6  # stages; of more than these there is a table, and all are folded


def write_report(workdir: str | Path, *, out: str | Path | None = None) -> Path:
    """Writes the report of a stage's folder, or a folder of stages, to `out` or `workdir`/report.html; returns its
    path. The completions are in a folder next to it: report_data/.

    Raises NotAWorkdirError where there is no stage, OSError where the page cannot be written.
    """
    run = read_run(workdir)
    is_long = len(run.stages) > _MANY
    # What a reader looks for first: the stages that learn from rewards. Those before them are folded.
    leading = [] if is_long else [stage for stage in run.stages if stage.is_rl] or list(run.stages)
    seconds = [stage.wall_seconds for stage in run.stages if math.isfinite(stage.wall_seconds)]
    total = f"{len(run.stages)} stages" + (f", {duration(sum(seconds))} altogether" if seconds else "")
    values = {"name": run.path.resolve().name, "stages": run.stages, "is_long": is_long, "leading": leading}
    stages = dict(zip(_labels([stage.path for stage in run.stages]), run.stages, strict=True))
    out = Path(out) if out else run.path / "report.html"
    return _save(out, "run.html", stages, **values, total_time=total)


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
    labels = list(dict.fromkeys(label for stages in groups.values() for label in stages))
    shown: dict[str, Stage] = {}
    numbers: dict[str, list[int]] = {label: [] for label in labels}  # label -> its stages among those of the page
    compared = []
    for stages in sorted(groups.values(), key=lambda stages: not any(stage.is_rl for stage in stages.values())):
        compared.append(_group(stages, {label: labels.index(label) for label in stages}, len(shown)))
        for label, stage in stages.items():
            numbers[label].append(len(shown))
            shown[label if not compared[1:] else f"{label}, {stage.name} ({len(compared)})"] = stage
    return _save(Path(out), "compare.html", shown, labels=labels, numbers=numbers, groups=compared)


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


def _group(stages: dict[str, Stage], looks: dict[str, int], first_run: int) -> dict[str, Any]:
    """What the page shows of the stages that go together, by the labels of their runs."""
    every = list(stages.values())
    titles = list(dict.fromkeys(stage.name for stage in every))
    settings = {label: dict(flatten(stage.config)) for label, stage in stages.items()}
    keys = dict.fromkeys(key for tree in settings.values() for key in tree if key)
    values = {key: [tree.get(key, "–") for tree in settings.values()] for key in keys}
    different = {key: row for key, row in values.items() if len({json.dumps(value, default=str) for value in row}) > 1}
    differing = {
        key: [(f"{value:.5g}" if isinstance(value, float) else setting(value), value) for value in row]
        for key, row in different.items()
        if key != "seed"
    }
    columns = dict(differing) if len(differing) <= _FEW else {}
    names = list(dict.fromkeys(name for stage in every for name in score_names(stage, with_pass_at_k=True)))
    finals = [[score(stage, name, "after")[0] for stage in every] for name in names]
    spreads = {
        name: _spread(values) for name, values in zip(names, finals, strict=True) if np.isfinite(values).sum() > 1
    }
    columns |= {name: [_score_cell(stage, name) for stage in every] for name in names}
    rewards = dict.fromkeys(name for stage in every for name in stage.metrics if _REWARD.fullmatch(name))
    columns |= {name: [_ends_cell(stage.metrics.get(name)) for stage in every] for name in rewards}
    columns["mean length"] = [_arrow_cell(*length_ends(stage)) for stage in every]
    columns["figures"] = [(Markup(", ").join(scores(stage)), "") for stage in every]
    columns["updates"] = [(f"{updates_of(stage):,}", updates_of(stage)) for stage in every]
    tokens = [s.values[-1] if (s := stage.metrics.get("num_tokens")) else math.nan for stage in every]
    columns["tokens"] = [(show(value), value) for value in tokens]
    columns["wall time"] = [(duration(stage.wall_seconds), stage.wall_seconds) for stage in every]
    columns["seed"] = [("" if stage.seed is None else str(stage.seed), stage.seed) for stage in every]
    columns["status"] = [("finished" if stage.done else status(stage), "") for stage in every]
    columns |= differing
    columns = {name: cells for name, cells in columns.items() if any(text not in ("", "–") for text, _ in cells)}
    return {
        "title": " / ".join(titles) if len(stages) <= 4 else every[0].name,
        "stages": stages,
        "looks": looks,
        "head": {name: "setting" if name in differing else "score" if name in names[:1] else "" for name in columns},
        "rows": list(zip(*columns.values(), strict=True)),
        "spreads": [spreads.get(name, "") for name in columns] if spreads else [],
        "is_equal": any(settings.values()) and not different,
        "has_completions": len([stage for stage in every if stage.completion_files("heldout")]) > 1,
        "sections": compared_figures(stages, looks, first_run) if all(stage.has_curves for stage in every) else [],
    }


def _score_cell(stage: Stage, name: str) -> tuple[Markup, float]:
    before, after = score(stage, name, "before")[0], score(stage, name, "after")
    return Markup("{} → {}").format(show(before), show_interval(*after)), after[0]


def _ends_cell(series: Series | None) -> tuple[str, float]:
    return _arrow_cell(*series.ends) if series else ("–", math.nan)


def _arrow_cell(before: float, after: float) -> tuple[str, float]:
    known = math.isfinite(before) or math.isfinite(after)
    return f"{show(before)} → {show(after)}" if known else "–", after


def _spread(values: list[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{show(float(np.mean(known)))} ({show(min(known))} to {show(max(known))})" if known else "–"


def _save(path: Path, template: str, runs: Mapping[str, Stage], **values: Any) -> Path:
    """Writes a page, and the completions of its `runs` (label -> stage) next to it."""
    folder = path.with_name(f"{path.stem}_data")
    num_completions, notes = write_completions(runs, folder)
    values |= {"folder": folder.name, "num_completions": num_completions, "notes": notes, "reflection": REFLECTION}
    values |= {"runs": axes_of(runs)} | code(*SCRIPTS)
    write_whole(path, fill(template, **_FUNCTIONS, **values))
    return path


SCRIPTS = ("vendor/uPlot.iife.min.js", "plots.js", "tables.js", "completions.js")

_FUNCTIONS: dict[str, Any] = {
    "claims": claims,
    "facts": _facts,
    "figures": stage_figures,
    "flatten": flatten,
    "headline": headline,
    "scores": scores,
    "status": status,
    "tables": tables,
}
"""What the templates call."""
