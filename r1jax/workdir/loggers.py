"""The rows of metrics.jsonl elsewhere too: Weights & Biases, MLflow, trackio.

Each is a package of its own, with its own settings from the environment (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, TRACKIO_SPACE_ID, ...). A run that goes on keeps its run there, by `loggers.json`; what a crash
has cut off is then logged again, with the same figures at the same steps.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.workdir.directory import write_text

IDS = "loggers.json"
_PROJECT = "r1jax"


def check_loggers(names: Sequence[str]) -> None:
    """Raises ValueError, naming the package to install, for one that is not there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"loggers: {name!r} is not installed; pip install {name}")


class Loggers:
    """Those of ``names`` for the run in ``workdir``. One that fails is reported once and left out: the run goes on."""

    def __init__(self, names: Sequence[str], workdir: Path):
        path = workdir / IDS
        ids = json.loads(path.read_text()) if path.exists() else {}
        settings = json.loads((workdir / "config.json").read_text()) if (workdir / "config.json").exists() else {}
        title = f"{workdir.absolute().parent.name}/{workdir.name}"
        self._open: dict[str, Any] = {}
        for name in names:
            self._try(name, lambda name=name: self._open.update({name: _OPEN[name](ids.get(name), title, settings)}))
        if self._open:
            write_text(path, json.dumps(ids | {name: logger.id for name, logger in self._open.items()}))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs finite figures of a step."""
        for name, logger in list(self._open.items()):
            self._try(name, lambda logger=logger: logger.write(step, values))

    def close(self) -> None:
        """Ends the runs there."""
        for name, logger in list(self._open.items()):
            self._try(name, logger.close)

    def _try(self, name: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:
            self._open.pop(name, None)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            print(f"loggers: {name} gets no more metrics ({reason}); metrics.jsonl does", file=sys.stderr, flush=True)


class _Wandb:
    def __init__(self, run_id: str | None, title: str, settings: Mapping[str, Any]):
        wandb = importlib.import_module("wandb")
        self.id = run_id or secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self._run = wandb.init(project=project, id=self.id, resume="allow", name=title, config=dict(settings))
        self._run.define_metric("*", step_metric="update")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"update": step, **values})  # its own steps cannot go back

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run_id: str | None, title: str, settings: Mapping[str, Any]):
        mlflow = importlib.import_module("mlflow")
        self._metric, self._client = mlflow.entities.Metric, mlflow.MlflowClient()
        self.id = run_id or self._created(mlflow, title, settings)

    def _created(self, mlflow, title: str, settings: Mapping[str, Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = self._client.create_run(number, run_name=title).info.run_id
        params = [mlflow.entities.Param(key, json.dumps(value)[:500]) for key, value in settings.items()]
        self._client.log_batch(run_id, params=params)
        return run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Its names have no "@": pass@1 is pass_at_1."""
        names = {name: re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_")) for name in values}
        now = int(1000 * time.time())
        self._client.log_batch(self.id, [self._metric(names[name], value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self.id)


class _Trackio:
    def __init__(self, run_id: str | None, title: str, settings: Mapping[str, Any]):
        trackio = importlib.import_module("trackio")
        self.id = run_id or f"{title.replace('/', '-')}-{secrets.token_hex(4)}"
        self._run = trackio.init(project=_PROJECT, name=self.id, config=dict(settings), resume="allow", embed=False)
        self._finish = trackio.finish

    def write(self, step: int, values: Mapping[str, float]) -> None:
        names = {"time": "time/run"}  # "time" is its own
        self._run.log({names.get(name, name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._finish()


_OPEN = {"wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio}
