"""What the runs here say of a claim, how that was computed, and the figures that go with it, for claims.json and the report."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.evals.estimates import Estimate
from r1jax.evals.finished import Finished


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim; all of it JSON-able."""

    ours: str  # the figures in a sentence
    values: dict[str, Any]  # every figure that it rests on, with intervals and by run
    held: bool | None
    rule: str  # how ``held`` follows from the figures
    protocol: tuple[str, ...] = ()  # how the figures were computed: runs and bases, problems, samples, temperature
    figures: tuple[dict[str, Any], ...] = ()  # what the report draws; see ``figure``
    table: dict[str, Any] | None = None  # {"head": [...], "rows": [[text, ...], ...]}


def figure(title: str, unit: str, curves: Sequence[dict[str, Any]], *, across: str = "update") -> dict[str, Any]:
    """A plot of curves: ``unit`` is the vertical axis's, ``across`` the horizontal one's."""
    return {"title": title, "unit": unit, "across": across, "curves": list(curves)}


def limits_of(stage: Finished, *keys: str) -> tuple[float, float]:
    """The interval of a figure of summary.json. Raises MissingFigureError where it has none."""
    estimate = stage.estimate(*keys)
    if estimate.low is None or estimate.high is None:
        raise stage.missing(f"{'.'.join(keys)} has no interval")
    return estimate.low, estimate.high


def runs(stages: Sequence[Finished]) -> str:
    """How many runs, and of which seeds: "3 seeds: 0, 1, 2"."""
    return f"{len(stages)} seed{'s' * (len(stages) > 1)}: {', '.join(str(stage.seed) for stage in stages)}"


def listed(estimates: Sequence[Estimate]) -> list[dict[str, float | None]]:
    """The estimates, JSON-able."""
    return [estimate.to_json() for estimate in estimates]


def first_and_last(stage: Finished) -> str:
    """The first and the last held-out evaluation of an RL stage, or the only one of an evaluate stage."""
    if stage.kind == "evaluate":
        return f"held-out: {_sampling(stage.config, 'problems', 'samples')}"
    return f"held-out, first and last: {_sampling(stage.config.get('eval'), 'final_problems', 'final_samples')}"


def along_the_way(stage: Finished) -> str:
    """The held-out evaluations between two updates of an RL stage."""
    return f"held-out, along the way: {_sampling(stage.config.get('eval'), 'problems', 'samples')}"


def training(stage: Finished) -> str:
    """The samples that an RL stage learns from."""
    return f"training: {_sampling(stage.config, 'questions_per_phase', 'group_size')}; every phase"


def scored(stage: Finished, metric: str) -> str:
    """What ``Finished.score`` reads a metric from."""
    return f"{metric}: {first_and_last(stage) if stage.is_held_out(metric) else training(stage)}"


def protocol(stages: Sequence[Finished], *ways: Callable[[Finished], str]) -> tuple[str, ...]:
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
    named = [config.get(key, "?") for key in (problems, samples)]
    counts = ["default number of" if count is None else count for count in named]
    temperature, top_p = config.get("temperature", "?"), config.get("top_p", None if "temperature" in config else "?")
    tokens = "all tokens" if top_p is None else f"top-p {top_p}"
    return f"{counts[0]} problems, {counts[1]} samples of each, temperature {temperature}, {tokens}"
