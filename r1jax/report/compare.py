"""Several runs over each other: seeds, ablations."""

import collections
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r1jax.report.figures import compared_figures, swatch
from r1jax.report.headline import length_ends, score, score_names, seed_of, status, updates_of
from r1jax.report.markup import duration, escape, page, setting, show, show_interval, table
from r1jax.report.page import save
from r1jax.report.panels import resolve
from r1jax.report.tables import scores
from r1jax.workdir.read import Stage, flatten, read_run


def compare(workdirs: Sequence[str | Path], *, out: str | Path = "compare.html") -> Path:
    """Writes one page with the runs of `workdirs` over each other and returns its path.

    Stages are matched by kind and order, so `seed0/rl` goes with `seed1` if that is an RL stage itself.

    Raises ValueError for fewer than two work directories, NotAWorkdirError where one of them holds no stage, OSError where
    the page cannot be written.
    """
    if len(workdirs) < 2:
        raise ValueError(f"a comparison needs two work directories or more, got {len(workdirs)}")
    runs = [read_run(workdir) for workdir in workdirs]
    labels = _labels([run.path for run in runs])
    groups: dict[tuple[str, int], dict[str, Stage]] = {}
    for label, run in zip(labels, runs, strict=True):
        seen: collections.Counter[str] = collections.Counter()
        for stage in run.stages:
            kind = stage.kind or ("rl" if stage.is_rl else stage.name)
            groups.setdefault((kind, seen[kind]), {})[label] = stage
            seen[kind] += 1
    rl_first = sorted(groups.values(), key=lambda stages: not any(stage.is_rl for stage in stages.values()))
    body = f"<h1>Comparison of {len(runs)} runs</h1>{''.join(map(_group, rl_first))}"
    return save(page("r1jax comparison", body), Path(out))


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


def _group(stages: dict[str, Stage]) -> str:
    names = {name: None for stage in stages.values() for name in stage.metrics}
    titles = [stage.name for stage in stages.values()]
    title = " / ".join(dict.fromkeys(titles)) if len(stages) <= 4 else titles[0]
    notes = [f"{label}: {note}" for label, stage in stages.items() for note in stage.notes]
    figures = compared_figures(stages, resolve(names)) if all(s.has_curves for s in stages.values()) else ""
    notes_text = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return f"<h2>{escape(title)}</h2>{_scores(stages)}{_differences(stages)}{notes_text}{figures}"


def _scores(stages: dict[str, Stage]) -> str:
    names = list(dict.fromkeys(name for stage in stages.values() for name in score_names(stage, with_pass_at_k=True)))
    columns = ["mean length"] if any(np.isfinite(length_ends(stage)).any() for stage in stages.values()) else []
    figures = {label: facts for label, stage in stages.items() if (facts := scores(stage))}
    head = ["run", *names, *columns, *(["figures"] if figures else []), "updates", "wall time", "seed", "status"]
    rows = []
    for index, (label, stage) in enumerate(stages.items()):
        line = f'<div class="legend"><span>{swatch(index)}{escape(label)}</span></div>'
        scored = [
            f"{show(score(stage, name, 'before')[0])} → {show_interval(*score(stage, name, 'after'))}" for name in names
        ]
        scored += [" → ".join(show(round(value, 1)) for value in length_ends(stage))] if columns else []
        state = "finished" if stage.done else status(stage)
        run = [f"{updates_of(stage):,}", duration(stage.wall_seconds), escape(seed_of(stage)), state]
        scored, run = ([f'<span class="one">{cell}</span>' for cell in cells] for cells in (scored, run))
        rows.append([line, *scored, *([figures.get(label, "")] if figures else []), *run])
    finals = [[score(stage, name, "after")[0] for stage in stages.values()] for name in names]
    if len(stages) > 1 and any(np.isfinite(values).sum() > 1 for values in finals):
        blank = [""] * (len(head) - len(names) - 1)
        title = '<span class="wide">mean after (lowest to highest)</span>'
        rows.append([title, *map(_spread, finals), *blank])
    return table(rows, head=head)


def _spread(values: list[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{show(float(np.mean(known)))} ({show(min(known))} to {show(max(known))})" if known else "–"


def _differences(stages: dict[str, Stage]) -> str:
    """The settings in which the runs differ."""
    settings = {label: dict(flatten(stage.config)) for label, stage in stages.items()}
    keys = dict.fromkeys(key for tree in settings.values() for key in tree if key)
    rows = []
    for key in keys:
        values = [tree.get(key, "–") for tree in settings.values()]
        if len({json.dumps(value, default=str) for value in values}) > 1:
            rows.append([escape(key), *(setting(value) for value in values)])
    if not rows:
        return "<p>The settings are equal.</p>" if any(settings.values()) else ""
    return f"<h3>Settings that differ</h3>{table(rows, head=['setting', *(escape(label) for label in stages)])}"
