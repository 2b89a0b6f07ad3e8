"""The report of one work directory."""

import os
from pathlib import Path

from r1jax.report.examples import examples
from r1jax.report.figures import ends, stage_figures
from r1jax.report.headline import headline, status
from r1jax.report.markup import escape, page, setting, show, table
from r1jax.report.panels import resolve
from r1jax.report.read import Stage, flatten, read_run


def write_report(workdir: str | Path, *, out: str | Path | None = None) -> Path:
    """Writes the report of `workdir` and returns its path.

    Args:
        workdir: a stage's folder or a folder of stages, finished or not.
        out: where to write; default `workdir`/report.html.

    Raises:
        NotAWorkdirError: `workdir` holds no stage.
        OSError: the page cannot be written.
    """
    run = read_run(workdir)
    name = run.path.resolve().name
    is_long = len(run.stages) > 1
    body = [f"<h1>{escape(name)}</h1>"]
    if is_long:
        links = " · ".join(f'<a href="#{index}">{escape(stage.name)}</a>' for index, stage in enumerate(run.stages))
        body.append(f"<p>{links}</p>")
    told = [stage for stage in run.stages if stage.is_rl] or list(run.stages)
    for stage in told:
        body.append(f"<h2>{escape(stage.name)}</h2>" if len(told) > 1 else "")
        body.append(f'<p class="quiet">{status(stage)}</p>{headline(stage)}')
    for index, stage in enumerate(run.stages):
        body.append(_stage(stage, index, folded=is_long and stage not in told and stage.done, named=is_long))
    return save(page(f"{name}: r1jax report", "".join(body)), Path(out) if out else run.path / "report.html")


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
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in stage.notes)
    completions = examples(stage)
    body = [
        notes,
        stage_figures(stage, resolve(stage.metrics)) if stage.metrics else "<p>No metrics yet.</p>",
        f"<h3>Completions</h3>{completions}" if completions else "",
        _settings("Settings", stage.config),
        _settings("Environment", stage.environment),
    ]
    content = "".join(body)
    if not named:
        return content
    title = f'<h2 id="{index}">{escape(stage.name)}</h2>'
    if folded:
        facts = status(stage)
        loss = stage.metrics.get("loss")
        if loss is not None:
            facts += f", loss {' → '.join(show(value) for value in ends(loss))}"
        return f'<details class="stage"><summary>{title} <small>{facts}</small></summary>{content}</details>'
    return title + (f'<p class="quiet">{status(stage)}</p>' if not stage.is_rl else "") + content


def _settings(title: str, tree: dict) -> str:
    rows = [[escape(key), setting(value)] for key, value in flatten(tree) if key]
    if not rows:
        return ""
    return f"<details><summary><h3>{title}</h3> <small>({len(rows)})</small></summary>{table(rows)}</details>"
