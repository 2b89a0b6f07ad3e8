"""What the trials of a sweep are: the product of lists that flags give, or what a Python file suggests to optuna."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from r1jax.specs.config_file import ConfigError, naming_line, run_file

Settings = dict[str, str]
"""Dotted key -> the text of its flag, as `r1jax run --config.KEY=TEXT` takes it."""
MOST_TRIALS = 10_000
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A trial of a grid, before it is in the study."""

    settings: Settings
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]


def product(texts: Sequence[str], seeds: str | None) -> list[Candidate]:
    """All combinations of lists like "stages.rl.group_size=8,16" and of the seeds "0,1,2"; the last list varies fastest.

    Commas in brackets or quotes separate no values. Raises ConfigError: no "=", a key that is there twice, an empty list
    or value, a value that is there twice.
    """
    lists: dict[str, list[str]] = {}
    flags = [("--set", text) for text in texts] + ([] if seeds is None else [("--seeds", f"seed={seeds}")])
    for flag, text in flags:
        key, equals, values = text.partition("=")
        shown = f"--seeds={values}" if flag == "--seeds" else f"--set {text}"
        if not key or not equals:
            raise ConfigError(f"{shown}: write --set KEY=VALUE,VALUE")
        if key in lists:
            raise ConfigError(f"{shown}: the key {key!r} is there twice")
        lists[key] = _split(values)
        if "" in lists[key]:
            raise ConfigError(f"{shown}: {'there is no value' if not values.strip() else 'a value is empty'}")
        known = list(map(value_of, lists[key]))
        if twice := [text for n, text in enumerate(lists[key]) if known[n] in known[:n]]:
            raise ConfigError(f"{shown}: the value {twice[0]} is there twice")
    return combinations_of(lists)


def combinations_of(lists: Mapping[str, Sequence[str]]) -> list[Candidate]:
    """Every combination of the texts of each key; the last list varies fastest."""
    distributions = {key: _distribution(list(map(value_of, values))) for key, values in lists.items()}
    combinations = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return [
        Candidate(settings, {key: value_of(text) for key, text in settings.items()}, distributions)
        for settings in combinations
    ]


def load_space(file: str) -> Callable[[Any], Settings]:
    """The function `trial` of a Python file, made to return Settings. Its mistakes are ConfigErrors with file and line."""
    function = run_file(file, flag="--space").get("trial")
    if not inspect.isfunction(function):
        raise ConfigError(f"{file} defines no function trial(trial)")

    @functools.wraps(function)
    def suggest(trial: Any) -> Settings:
        with naming_line(file):
            settings = function(trial)
        if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
            raise ConfigError(f"{file}: trial() returned {settings!r}, not a dict of dotted keys")
        return {key: text_of(value) for key, value in settings.items()}

    return suggest


def every(suggest: Callable[[Any], Settings]) -> list[Candidate]:
    """All that a function of a trial can suggest, in order, also where what it asks for depends on what it was given.

    Raises ConfigError for a float without a step, which has no end, and for more than MOST_TRIALS.
    """
    candidates: list[Candidate] = []
    chosen: list[int] = []
    while True:
        trial = _Replay(chosen)
        candidates.append(Candidate(suggest(trial), trial.params, trial.distributions))
        if len(candidates) > MOST_TRIALS:
            raise ConfigError(f"--sampler=grid: the file suggests more than {MOST_TRIALS:,} trials")
        chosen, sizes = trial.chosen, trial.sizes
        while chosen and chosen[-1] + 1 == sizes[len(chosen) - 1]:
            chosen = chosen[:-1]
        if not chosen:
            return candidates
        chosen = [*chosen[:-1], chosen[-1] + 1]


class _Replay:
    """Stands for an optuna trial: takes the choices that it is given, then the first of each."""

    def __init__(self, chosen: Sequence[int]):
        self.number, self.params, self.distributions = 0, {}, {}
        self.chosen, self.sizes, self._given = [], [], chosen

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._choose(name, list(choices), CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._choose(name, list(range(low, high + 1, step)), IntDistribution(low, high, log=log, step=step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is None:
            raise ValueError(f"a grid of {name!r} needs suggest_float(..., step=...) or suggest_categorical")
        count = math.floor((high - low) / step + 1e-8) + 1
        values = [round(low + step * index, 12) for index in range(count)]
        return self._choose(name, values, FloatDistribution(low, high, step=step))

    def _choose(self, name: str, values: list[Any], distribution: BaseDistribution) -> Any:
        if name in self.params:
            return self.params[name]
        depth = len(self.chosen)
        index = self._given[depth] if depth < len(self._given) else 0
        self.chosen, self.sizes = [*self.chosen, index], [*self.sizes, len(values)]
        self.params[name], self.distributions[name] = values[index], distribution
        return values[index]


def text_of(value: Any) -> str:
    """The text of a flag that stands for a value."""
    return value if isinstance(value, str) else repr(value)


def flags_of(settings: Settings) -> list[str]:
    """The flags of `r1jax run` that set them."""
    return [f"--config.{key}={text}" for key, text in settings.items()]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Dotted key -> its last parts, as many as it takes to tell it from the other keys."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[key] = next((end for end in ends if sum(f".{k}".endswith(f".{end}") for k in keys) == 1), key)
    return names


def shown(text: str) -> str:
    """A value as a person reads it: a number of many digits, as samplers draw them, gets four."""
    value = value_of(text)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > 8 else text


def folder_name(number: int, settings: Settings) -> str:
    """The work directory of a trial, which its number and its settings say: "003_learning_rate=1e-4_seed=0"."""
    names = short_names(list(settings))
    parts = [re.sub(r"[^A-Za-z0-9.+=_-]+", "-", f"{names[key]}={shown(text)}")[:60] for key, text in settings.items()]
    return "_".join([f"{number:03d}", *parts])[:150].rstrip(".-")


def _split(text: str) -> list[str]:
    """The values between the commas that are in no brackets and no quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        depth += 0 if quote else _BRACKETS.get(letter, 0)
        if letter == "," and depth == 0 and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def value_of(text: str) -> Any:
    """What optuna records of a value: a number, True, False or None where the text is one, else the text."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def _distribution(values: list[Any]) -> BaseDistribution:
    """Numbers get a range, which a later start with more of them may widen; other values are a choice of these."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(values)
