"""The report of one work directory."""

import math
import os
from pathlib import Path

from r1jax.report.claim_table import claims_section
from r1jax.report.examples import examples
from r1jax.report.figures import stage_figures
from r1jax.report.headline import headline, score, score_names, seed_of, status
from r1jax.report.markup import duration, escape, page, setting, show, table
from r1jax.report.panels import resolve
from r1jax.report.tables import scores, tables
from r1jax.workdir.read import Run, Stage, flatten, read_run

_MANY = 6  # stages; of more than these there is a table, and all are folded


def write_report(workdir: str | Path, *, out: str | Path | None = None) -> Path:
    """Writes the report of a stage's folder, or a folder of stages, to `out` or `workdir`/report.html; returns its path.

    Raises NotAWorkdirError where there is no stage, OSError where the page cannot be written.
    """
    run = read_run(workdir)
    name = run.path.resolve().name
    body = [f"<h1>{escape(name)}</h1>"]
    is_long, is_named = len(run.stages) > _MANY, len(run.stages) > 1
    # What a reader looks for first: the stages that learn from rewards. Those before them are folded.
    leading = [] if is_long else [stage for stage in run.stages if stage.is_rl] or list(run.stages)
    links = [f'<a href="#{index}">{escape(stage.name)}</a>' for index, stage in enumerate(run.stages)]
    if is_named and not is_long:
        body.append(f'<p>{" · ".join(links)}</p><p class="quiet">{_total_time(run)}</p>')
    body.append(claims_section(run))
    if is_long:
        rows = [
            [link, escape(stage.kind), _facts(stage), escape(seed_of(stage))]
            for link, stage in zip(links, run.stages, strict=True)
        ]
        stages = table(rows, head=["stage", "kind", "what came of it", "seed"])
        body.append(f"<h2>Stages</h2><p>{_total_time(run)}</p>{stages}")
    for stage in leading:
        body.append(f"<h2>{escape(stage.name)}</h2>" if len(leading) > 1 else "")
        body.append(f'<p class="quiet">{status(stage)}</p>{headline(stage)}')
    for index, stage in enumerate(run.stages):
        is_folded = is_long or (is_named and stage not in leading and stage.done)
        body.append(_stage(stage, index, folded=is_folded, named=is_named))
    return save(page(f"{name}: r1jax report", "".join(body)), Path(out) if out else run.path / "report.html")


def _total_time(run: Run) -> str:
    seconds = [stage.wall_seconds for stage in run.stages if math.isfinite(stage.wall_seconds)]
    return f"{len(run.stages)} stages" + (f", {duration(sum(seconds))} altogether" if seconds else "")


def _facts(stage: Stage) -> str:
    """One line: where the stage stands, and its main figures."""
    facts = [status(stage)]
    for name in score_names(stage):
        before, after = (score(stage, name, when)[0] for when in ("before", "after"))
        facts.append(f"{escape(name)} {show(before)} → {show(after)}")
    if (loss := stage.metrics.get("loss")) and not stage.is_rl:
        facts.append(f"loss {' → '.join(show(value) for value in loss.ends)}")
    return ", ".join([*facts, *filter(None, [scores(stage)])])


def save(text: str, path: Path) -> Path:
    """Writes `text` in one move, so that a reader never sees half a page."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _stage(stage: Stage, index: int, *, folded: bool, named: bool) -> str:
    notes = list(stage.notes)
    figures_table, completions = tables(stage, notes), examples(stage)
    figures = stage_figures(stage, resolve(stage.metrics)) if stage.has_curves else ""
    body = [
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        headline(stage) if folded and stage.is_rl else "",
        figures_table,
        figures or ("" if figures_table or not stage.has_curves else "<p>No metrics yet.</p>"),
        f"<h3>Completions</h3>{completions}" if completions else "",
        _settings("Settings", stage.config),
        _settings("Environment", stage.environment),
    ]
    content = "".join(body)
    if not named:
        return content
    title = f'<h2 id="{index}">{escape(stage.name)}</h2>'
    if folded:
        return f'<details class="stage"><summary>{title} <small>{_facts(stage)}</small></summary>{content}</details>'
    return title + (f'<p class="quiet">{status(stage)}</p>' if not stage.is_rl else "") + content


def _settings(title: str, tree: dict) -> str:
    rows = [[escape(key), setting(value)] for key, value in flatten(tree) if key]
    if not rows:
        return ""
    return f"<details><summary><h3>{title}</h3> <small>({len(rows)})</small></summary>{table(rows)}</details>"
