"""One split for a whole pipeline: what an RL stage holds out, no stage before it may have trained on.

Which side a problem is on follows from its content and from ``heldout_fraction`` alone. So two stages that agree on the
fraction agree on the split, and two that do not would let held-out problems into training without a word.
"""

import collections
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.policies.policy import make_source
from r1jax.rewards.rubric import load_function
from r1jax.tasks.mixture import make_task
from r1jax.tasks.problem import recorded_splits
from r1jax.workdir.directory import from_here
from r1jax.workdir.lineage import paths_of

_NUM_DOCUMENTS = 16


def check_same_split(init: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> None:
    """Compares the split of an RL stage's tasks with those of the stages that its policy comes from.

    A few problems or documents of each are made, and what they ask of ``split_of`` is compared. A stage whose data
    cannot be made here is told on stderr and left out.

    Raises ValueError naming both fractions and the stage before.
    """
    own = _fractions(lambda: _make_problems(tasks))
    for path, config in _stages_before(init):
        try:
            theirs = _fractions(lambda config=config: _make_data(config))
        except Exception as error:
            print(f"warning: cannot tell which problems {path} was trained on: {error}", file=sys.stderr, flush=True)
            continue
        for space in sorted(own.keys() & theirs.keys()):
            if len(own[space] | theirs[space]) > 1:
                raise ValueError(
                    f"tasks: heldout_fraction of {space} is {_listed(own[space])} here and {_listed(theirs[space])} in "
                    f"{path}, which the policy comes from: problems held out here would have been trained on there"
                )


def _stages_before(init: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(work directory, config) of the stage that a policy is taken from, of those that a path of its config names, ..."""
    seen, coming = set(), [name for _, name in paths_of(init)]
    while coming:
        name = coming.pop(0)
        if name in seen:
            continue
        seen.add(name)
        path = Path(name)
        try:
            config = from_here(json.loads((path / "config.json").read_text()), path)
        except (OSError, ValueError):
            continue  # no stage, or load_policy says what is wrong with it
        yield path, config
        coming += [name for _, name in paths_of(config)]


def _fractions(make: Callable[[], None]) -> dict[str, set[float]]:
    with recorded_splits() as found:
        make()
    return found


def _make_problems(tasks: Sequence[Mapping[str, Any]]) -> None:
    for spec in tasks:
        make_task(spec).problem(0, split="train")


def _make_data(config: Mapping[str, Any]) -> None:
    """A few documents of a supervised stage's config, records that another stage makes, or problems of an RL stage's.

    Records of a path are those of a stage before.
    """
    data = config.get("data") or {}
    if config["stage"] == "supervised" and "function" in data:
        source = make_source(data, seed=config["seed"])
        for index in range(_NUM_DOCUMENTS):
            source(index)
    elif config["stage"] != "supervised":
        for spec in (data, config.get("candidates") or {}, *(config.get("others") or ())):
            if "function" in spec:
                records = load_function(spec["function"])(seed=config["seed"], **(spec.get("arguments") or {}))
                collections.deque(itertools.islice(records, _NUM_DOCUMENTS), maxlen=0)
    _make_problems(config.get("tasks") or ())


def _listed(fractions: set[float]) -> str:
    return " and ".join(map(str, sorted(fractions)))
