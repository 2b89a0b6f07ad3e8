"""Makes work directories of finished stages as far as claims read them."""

import json


def make_stage(path, *, kind, summary, rows=(), seed=0, **config):
    """A stage's folder with config.json, summary.json, metrics.jsonl and DONE; returns its path as text."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"stage": kind, "seed": seed} | config))
    (path / "environment.json").write_text(json.dumps({"commit": "abc"}))
    (path / "summary.json").write_text(json.dumps({"seed": seed} | summary))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "DONE").touch()
    return str(path)


def with_interval(name, value, half):
    """A figure of a summary and its limits, as evaluations write them."""
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def evaluated(path, *, seed=0, config=None, **tasks):
    """An evaluate stage; of each task a dict of (value, half width of the interval)."""
    tasks = {
        task: {k: v for name, (value, half) in figures.items() for k, v in with_interval(name, value, half).items()}
        for task, figures in tasks.items()
    }
    return make_stage(path, kind="evaluate", summary={"tasks": tasks, "wall_seconds": 5.0}, seed=seed, **(config or {}))
