"""The figures of a finished stage by name, as claims read them, and how they were sampled, in words.

What is missing is an error that names stage and key.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.evals.estimates import Estimate
from r1jax.workdir.read import dig, read_stage, with_limits


class MissingFigureError(ValueError):
    """A claim needs a figure that a stage does not have; the message names both."""


class Finished:
    """A finished stage, read by ``r1jax.workdir.read``.

    Raises MissingFigureError if the directory is none of a finished stage, or its files are damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "DONE").is_file():
            raise MissingFigureError(f"{self.path} is not the work directory of a finished stage: it has no DONE")
        self._stage = stage = read_stage(self.path)
        self.name, self.kind, self.config, self.seed = stage.name, stage.kind, stage.config, stage.seed
        for name in ("config.json", "summary.json"):
            self._check_file(name)
            if not (self.path / name).is_file():
                raise self.missing(f"{name} is not there")

    def summary(self, *keys: str) -> float:
        """A number of summary.json, by the keys on the way to it."""
        value: Any = self._stage.summary
        for depth, key in enumerate(keys, start=1):
            if not isinstance(value, Mapping) or key not in value:
                there = f"; there are {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
                raise self.missing(f"summary.json has no {'.'.join(keys[:depth])}{there}")
            value = value[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.missing(f"summary.json: {'.'.join(keys)}={value!r} is no number")
        return float(value)

    def estimate(self, *keys: str) -> Estimate:
        """A number of summary.json with its interval, if it has "<key>_low" and "<key>_high" too."""
        *way, key = keys
        _, low, high = with_limits(dig(self._stage.summary, *way), key)
        return Estimate(self.summary(*keys), *((low, high) if math.isfinite(low + high) else ()))

    def limits(self, *keys: str) -> tuple[float, float]:
        """The interval of a number of summary.json."""
        estimate = self.estimate(*keys)
        if estimate.low is None or estimate.high is None:
            raise self.missing(f"{'.'.join(keys)} has no interval")
        return estimate.low, estimate.high

    def score(self, metric: str, *, task: str | None = None, phases: int = 5) -> Estimate:
        """A figure of the policy that the stage evaluated, or left behind.

        Of an evaluate stage: ``metric`` of ``task``. Of another: ``metric`` of the last held-out evaluation
        (summary.json's "after"), or, for what only training logs ("rewards/.../mean", ...), the mean over its last
        ``phases`` rows.
        """
        if self.kind == "evaluate":
            if task is None:
                raise self.missing(f"{metric} of which task? The claim names none")
            return self.estimate("tasks", task, metric)
        if self._is_held_out(metric):
            return self.estimate("after", metric)
        if self.has_series(metric):
            return Estimate(float(np.mean(self.series(metric)[1][-phases:])))
        raise self.missing(f"neither summary.json (after) nor metrics.jsonl has {metric!r}")

    def _is_held_out(self, metric: str) -> bool:
        """Whether ``score`` reads a metric from a held-out evaluation, not from training."""
        return self.kind == "evaluate" or metric in (dig(self._stage.summary, "after") or ())

    def series(self, metric: str, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(updates [n], values [n]) of a metric, n >= ``least``."""
        self._check_file("metrics.jsonl")
        series = self._stage.metrics.get(metric)
        count = 0 if series is None else len(series.steps)
        if series is None or count < least:
            raise self.missing(f"metrics.jsonl has {metric!r} {count} times, at least {least} are needed")
        return series.steps, series.values

    def has_series(self, metric: str) -> bool:
        """Whether a metric was logged."""
        return metric in self._stage.metrics

    def curves(self, label: str, metric: str) -> list[dict[str, Any]]:
        """A metric of metrics.jsonl for a figure of claims.json: one curve, or one for each kind of held-out evaluation."""
        self.series(metric)
        parts, drawn = self._stage.curves(metric), []
        for kind, series, low, high, is_points in parts:
            drawn.append({"label": label, "steps": series.steps.tolist(), "values": series.values.tolist()})
            if low is not None and high is not None:
                drawn[-1] |= {"low": low.tolist(), "high": high.tolist()}
            drawn[-1] |= {"label": f"{label}, {kind}", "run": label} if len(parts) > 1 else {}
            drawn[-1] |= {"is_points": True} if is_points else {}
        return drawn

    def training_tokens(self) -> float:
        """Tokens that it was trained on: an RL stage's prompts and completions sampled for training, a supervised
        stage's targets.

        A supervised stage logs every n-th update, which stands for the n of them.
        """
        if self.kind == "rl":
            return float(self.series("num_tokens")[1][-1])
        steps, tokens = self.series("num_loss_tokens")
        return float(np.sum(tokens * np.diff(steps, prepend=0.0)))

    def base(self) -> str:
        """The folder at the start of the chain of stages that this one's policy comes from, as an absolute path."""
        stage, seen = self._stage, {self._stage.path.resolve()}
        while (origin := stage.origin) is not None and origin.resolve() not in seen:
            seen.add(origin.resolve())
            stage = read_stage(origin)
        return str(stage.path.resolve())

    def how_held_out(self, *, is_full: bool = True) -> str:
        """How an evaluate stage sampled, or an RL stage at both ends, or (not full) between two updates."""
        if self.kind == "evaluate":
            return f"held-out: {_sampling(self.config, 'problems', 'samples')}"
        prefix, when = ("final_", "first and last") if is_full else ("", "along the way")
        return f"held-out, {when}: {_sampling(self.config.get('eval'), f'{prefix}problems', f'{prefix}samples')}"

    def how_trained(self) -> str:
        """How an RL stage sampled what it learned from."""
        return f"training: {_sampling(self.config, 'questions_per_phase', 'group_size')}; every phase"

    def how_scored(self, metric: str) -> str:
        """How that was sampled which ``score`` reads a metric from."""
        return f"{metric}: {self.how_held_out() if self._is_held_out(metric) else self.how_trained()}"

    def _check_file(self, name: str) -> None:
        if damage := self._stage.damaged.get(name):
            raise self.missing(damage)

    def missing(self, what: str) -> MissingFigureError:
        """The error that says what this stage does not have."""
        return MissingFigureError(f"stage {self.name} ({self.path}): {what}")


def protocol_of(stages: Sequence[Finished], *ways: Callable[[Finished], str]) -> tuple[str, ...]:
    """A sentence on the runs, then one on each way that their figures were sampled; stages are named where they differ."""
    seeds = list(dict.fromkeys(str(stage.seed) for stage in stages))
    num_bases = len({stage.base() for stage in stages})
    sentence = f"{len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(seeds)})"
    if len(stages) > 1:
        shared = f"all {len(stages)} runs start from one base"
        sentence += f"; {shared if num_bases == 1 else f'{len(stages)} runs of {num_bases} bases'}"
    sentences = [sentence]
    for way in ways:
        names: dict[str, list[str]] = {}
        for stage in stages:
            names.setdefault(way(stage), []).append(stage.name)
        sentences += [text if len(names) == 1 else f"{', '.join(of)}: {text}" for text, of in names.items()]
    return tuple(sentences)


def _sampling(config: Any, problems: str, samples: str) -> str:
    """ "512 problems, 16 samples of each, temperature 1.0, top-p 0.95"; what the config does not say is "?"."""
    config = config if isinstance(config, Mapping) else {}
    counts = [
        "default number of" if count is None else count
        for count in (config.get(key, "?") for key in (problems, samples))
    ]
    temperature, top_p = config.get("temperature", "?"), config.get("top_p", None if "temperature" in config else "?")
    tokens = "all tokens" if top_p is None else f"top-p {top_p}"
    return f"{counts[0]} problems, {counts[1]} samples of each, temperature {temperature}, {tokens}"
