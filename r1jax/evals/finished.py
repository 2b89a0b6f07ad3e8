"""What a finished stage wrote: its figures by name. Files only; what is missing is an error that names stage and key."""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.evals.estimates import Estimate


class MissingFigureError(ValueError):
    """A claim needs a figure that a stage does not have; the message names both."""


class Finished:
    """The work directory of a finished stage.

    Raises MissingFigureError if it is none, or its files are damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "DONE").is_file():
            raise MissingFigureError(f"{self.path} is not the work directory of a finished stage: it has no DONE")
        self._config, self._summary = (self._read(name) for name in ("config.json", "summary.json"))

    @property
    def name(self) -> str:
        """The directory's name, which is the stage's in its run."""
        return self.path.name

    @property
    def kind(self) -> str:
        """The stage's module: "rl", "evaluate", ..."""
        return str(self._config.get("stage", ""))

    @property
    def seed(self) -> int | None:
        """The stage's seed."""
        return self._summary.get("seed", self._config.get("seed"))

    def summary(self, *keys: str) -> float:
        """A number of summary.json, by the keys on the way to it."""
        value: Any = self._summary
        for place, key in enumerate(keys):
            if not isinstance(value, Mapping) or key not in value:
                there = f"; there are {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
                raise self._missing(f"summary.json has no {'.'.join(keys[: place + 1])}{there}")
            value = value[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._missing(f"summary.json: {'.'.join(keys)}={value!r} is no number")
        return float(value)

    def estimate(self, *keys: str) -> Estimate:
        """A number of summary.json with its interval, if "<key>_low" and "<key>_high" stand beside it."""
        *way, key = keys
        value, limits = self.summary(*keys), []
        for suffix in ("_low", "_high"):
            try:
                limits.append(self.summary(*way, f"{key}{suffix}"))
            except MissingFigureError:
                return Estimate(value)
        return Estimate(value, *limits)

    def score(self, metric: str, *, task: str | None = None, phases: int = 5) -> Estimate:
        """A figure of the policy that the stage evaluated, or left behind.

        Of an evaluate stage: ``metric`` of ``task``. Of another: ``metric`` of the last held-out evaluation
        (summary.json's "after"), or, for what only training logs ("rewards/.../mean", ...), the mean over its last
        ``phases`` rows.
        """
        if self.kind == "evaluate":
            if task is None:
                raise self._missing(f"{metric} of which task? The claim names none")
            return self.estimate("tasks", task, metric)
        if isinstance(after := self._summary.get("after"), Mapping) and metric in after:
            return self.estimate("after", metric)
        if metric in self._series:
            return Estimate(float(np.mean(self.series(metric)[1][-phases:])))
        raise self._missing(f"neither summary.json (after) nor metrics.jsonl has {metric!r}")

    def series(self, metric: str, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(updates [n], values [n]) of a metric, n >= ``least``."""
        found = self._series.get(metric, [])
        if len(found) < least:
            raise self._missing(f"metrics.jsonl has {metric!r} {len(found)} times, at least {least} are needed")
        steps, values = zip(*found, strict=True)
        return np.array(steps, np.float64), np.array(values, np.float64)

    def has_series(self, metric: str) -> bool:
        """Whether a metric was logged."""
        return metric in self._series

    def training_tokens(self) -> float:
        """Tokens that it was trained on: an RL stage's prompts and completions sampled for training, a supervised stage's targets.

        A supervised stage logs every n-th update, which stands for the n of them.
        """
        if self.kind == "rl":
            return float(self.series("num_tokens")[1][-1])
        steps, tokens = self.series("num_loss_tokens")
        return float(np.sum(tokens * np.diff(steps, prepend=0.0)))

    @functools.cached_property
    def _series(self) -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        path = self.path / "metrics.jsonl"
        for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], start=1):
            try:
                row = json.loads(line)
                step = row["step"]
            except (ValueError, TypeError, KeyError) as error:
                raise self._missing(f"metrics.jsonl, line {number} is no metrics row") from error
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found.setdefault(name, []).append((step, value))
        return found

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._missing(f"{name} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise self._missing(f"{name} holds no object")
        return value

    def _missing(self, what: str) -> MissingFigureError:
        return MissingFigureError(f"stage {self.name} ({self.path}): {what}")
