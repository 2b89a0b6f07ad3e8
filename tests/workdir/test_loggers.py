"""Stand-ins for the packages: what they are given, and that neither they nor their absence stops a run."""

import json
import sys
import types

import pytest

from r1jax.workdir.loggers import check_loggers
from r1jax.workdir.metrics import MetricsWriter


class Run:
    def __init__(self, calls, **options):
        self.calls = calls
        calls.append(options)

    def log(self, values, step=None):
        self.calls.append((step, values))

    def define_metric(self, *names, **options):
        pass

    def finish(self):
        self.calls.append("finished")


class Client:
    """MLflow's, which refuses names that it would refuse."""

    calls: list
    get_experiment_by_name = staticmethod(lambda name: None)
    create_experiment = staticmethod(lambda name: name)

    def create_run(self, number, run_name):
        self.calls.append((number, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))

    def log_batch(self, run_id, metrics=(), params=()):
        assert not any("@" in metric[0] for metric in metrics)
        self.calls.append((run_id, [(metric[0], metric[1], metric[3]) for metric in metrics]))

    def set_terminated(self, run_id):
        self.calls.append("finished")


@pytest.fixture
def packages(monkeypatch):
    calls = {"wandb": [], "mlflow": [], "trackio": []}
    for name in ("wandb", "trackio"):
        module = types.ModuleType(name)
        module.init = lambda name=name, package=name, **options: Run(calls[package], name=name, **options)
        module.finish = lambda package=name: calls[package].append("finished")
        monkeypatch.setitem(sys.modules, name, module)
    Client.calls = calls["mlflow"]
    entities = types.SimpleNamespace(Metric=lambda *of: of, Param=lambda *of: of)
    mlflow = types.ModuleType("mlflow")
    mlflow.entities, mlflow.MlflowClient = entities, Client
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


def write(folder, step, *, resume_step=0, **options):
    (folder / "config.json").write_text(json.dumps({"seed": 3}))
    options = {"loggers": ("wandb", "mlflow", "trackio")} | options
    with MetricsWriter(folder, resume_step=resume_step, **options) as metrics:
        metrics.write(step, {"eval/pass@1": 0.5, "loss": float("nan")})


def test_finite_figures_go_to_each_with_the_settings(packages, tmp_path):
    write(tmp_path, 7)
    (init, (_, values), end) = packages["wandb"]
    assert init["config"] == {"seed": 3} and init["name"].endswith(f"/{tmp_path.name}") and end == "finished"
    assert values["update"] == 7 and values["eval/pass@1"] == 0.5 and "loss" not in values
    assert ("eval/pass_at_1", 0.5, 7) in packages["mlflow"][2][1]
    assert packages["trackio"][1][0] == 7 and packages["trackio"][-1] == packages["mlflow"][-1] == "finished"


def test_a_run_that_goes_on_is_the_same_run_there(packages, tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, resume_step=1)
    inits = [call for call in packages["wandb"] if isinstance(call, dict)]
    assert len(inits) == 2 and inits[0]["id"] == inits[1]["id"]
    assert [call[0] for call in packages["mlflow"] if isinstance(call, tuple)].count("r1jax") == 1


def test_one_that_fails_is_left_out_and_the_run_goes_on(packages, tmp_path, monkeypatch, capsys):
    def fails(*arguments, **options):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(Run, "log", fails)
    with MetricsWriter(tmp_path, resume_step=0, loggers=("wandb", "mlflow")) as metrics:
        metrics.write(1, {"loss": 1.0})
        metrics.write(2, {"loss": 2.0})
    said = capsys.readouterr().err
    assert said == "loggers: wandb gets no more metrics (no network); metrics.jsonl does\n"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert [call[1] for call in packages["mlflow"][2:4]] == [
        [("time", pytest.approx(0, abs=60), step), ("loss", float(step), step)] for step in (1, 2)
    ]


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^loggers: 'trackio' is not installed; pip install trackio$"):
        check_loggers(["trackio"])
