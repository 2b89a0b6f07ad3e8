"""One split for a whole pipeline: what an RL stage holds out, no stage before it may have trained on.

Which side a problem is on follows from its content and from ``heldout_fraction`` alone. So two stages that agree on the
fraction agree on the split, and two that do not would let held-out problems into training without a word.
"""

import collections
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from r1jax.data.records import records_of
from r1jax.policies.policy import make_source
from r1jax.policies.preview import Previews
from r1jax.specs.fields import paths_of
from r1jax.specs.policy import SourceSpec
from r1jax.specs.stages import StageSpec, SupervisedSpec
from r1jax.specs.tasks import AnyTask
from r1jax.tasks.mixture import make_task
from r1jax.tasks.problem import recorded_splits

_NUM_DOCUMENTS = 16


def check_same_split(spec: Any, previews: Previews) -> None:
    """Compares the split of a stage's tasks with those of the stages that its policy comes from.

    A few problems or documents of each are made, and what they ask of ``split_of`` is compared. A stage whose data
    cannot be made here is named on stderr and left out.

    Raises ValueError naming both fractions and the stage before.
    """
    here = _fractions(lambda: _make_problems(spec.tasks))
    for path, before in _stages_before(spec.init, previews):
        try:
            if path not in previews.splits:
                previews.splits[path] = _fractions(lambda before=before: _make_data(before))
            there = previews.splits[path]
        except Exception as error:
            print(f"warning: cannot tell which problems {path} was trained on: {error}", file=sys.stderr, flush=True)
            continue
        for space in sorted(here.keys() & there.keys()):
            if len(here[space] | there[space]) > 1:
                ours, theirs = (" and ".join(map(str, sorted(side[space]))) for side in (here, there))
                raise ValueError(
                    f"tasks: heldout_fraction of {space} is {ours} here and {theirs} in "
                    f"{path}, which the policy comes from: problems held out here would have been trained on there"
                )


def _stages_before(init: Any, previews: Previews) -> Iterator[tuple[str, StageSpec]]:
    """(work directory, spec) of the stage that a policy is taken from, of those that a path of its spec names, ..."""
    seen, coming = set(), list(paths_of(init).values())
    while coming:
        path = coming.pop(0)
        if path in seen:
            continue
        seen.add(path)
        spec = previews.stage_at(path)
        if spec is not None:
            yield path, spec
            coming += paths_of(spec).values()


def _fractions(make: Callable[[], None]) -> dict[str, set[float]]:
    with recorded_splits() as fractions:
        make()
    return fractions


def _make_problems(tasks: Sequence[AnyTask]) -> None:
    for spec in tasks:
        make_task(spec).problem(0, split="train")


def _make_data(spec: Any) -> None:
    """A few documents of a supervised stage, records that a function makes, or problems of the tasks that a stage has.

    Records of a path are those of a stage before.
    """
    if isinstance(spec, SupervisedSpec):
        if spec.data.function is not None:
            source = make_source(spec.data, seed=spec.seed)
            for index in range(_NUM_DOCUMENTS):
                source(index)
    else:
        sources: list[SourceSpec] = [getattr(spec, name) for name in ("data", "candidates") if hasattr(spec, name)]
        for source in (*sources, *getattr(spec, "others", ())):
            if source.function is not None:
                collections.deque(itertools.islice(records_of(source, seed=spec.seed), _NUM_DOCUMENTS), maxlen=0)
    _make_problems(getattr(spec, "tasks", ()))
