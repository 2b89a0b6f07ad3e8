"""Problems of reasoning-gym: any of its data sets by name, with its generator and its scorer.

reasoning-gym (Apache-2.0) is imported only when a task is made. What this module adds to it:

1. Random access without end: problem ``index`` is drawn from a slice of a freshly seeded data set.
2. A held-out split that shares no question with the training split, by a hash of the question's text. Different seeds
   are not enough: a small space (one-digit sums) would be seen whole in training.
3. Determinism: a few generators use the global random state, which is set and restored here.
4. ``answer_guard``: several scorers evaluate the model's text as Python, and several give full marks to wrong answers.
"""

import dataclasses
import functools
import json
import math
import os
import random
import sys
from typing import Any

import numpy as np

from r1jax.specs.reader import near
from r1jax.specs.tasks import ReasoningGymSpec
from r1jax.tasks.answer_guard import confirms, is_harmless
from r1jax.tasks.problem import GradingError, Problem, canonical_answer, check_index, check_task, split_of, stable_hash

_SHOWN = 3
_INDICES_PER_SLICE = 250
_SLICE_SIZE = 5000
_TRIES_PER_SLICE = _SLICE_SIZE // _INDICES_PER_SLICE

# They depend on the order of Python sets, so on the process, unless PYTHONHASHSEED is fixed (measured, version 0.1.25).
_HASH_DEPENDENT = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)


class ReasoningGymTask:
    """A data set of reasoning-gym as a ``Task``. Another seed gives other problems; a question's split never depends on
    it.

    passed_over: how often a question that was made could not be a problem.

    Columns of its problems: "task", and "source_seed" and "source_index", from which the same entry is made again.
    """

    def __init__(self, spec: ReasoningGymSpec):
        """Makes nothing yet.

        Raises ValueError for an unknown data set, an unknown or bad setting, or a data set whose questions depend on
        PYTHONHASHSEED where that is not set.
        """
        self.name, self.dataset = spec.name or spec.dataset, spec.dataset
        self._spec = spec
        self.passed_over = 0
        _check_config(spec.dataset, spec.config)
        self._config_json = json.dumps(spec.config, sort_keys=True)
        self._max_tries = math.ceil(64 / min(spec.heldout_fraction, 1 - spec.heldout_fraction))

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index`` of the split; on average 1 / (the split's share) questions are made for it.

        Passed over, and said on stderr, is one that the generator fails to make (codeio's: once in 40), or whose
        reference, where it has one, its scorer does not give 1.0. Raises ValueError for an unknown split, a negative
        index, or a data set so small that no question of it falls in the split.
        """
        check_index(index, split)
        slice_index, offset = divmod(index, _INDICES_PER_SLICE)
        fraction, reason = self._spec.heldout_fraction, ""
        for attempt in range(self._max_tries):
            round_index, turn = divmod(attempt, _TRIES_PER_SLICE)
            source_seed = stable_hash("reasoning_gym", self._spec.seed, slice_index, round_index) % 2**31
            source_index = offset + _INDICES_PER_SLICE * turn
            try:
                entry = self._entry(source_seed, source_index)
                if split_of(entry["question"], heldout_fraction=fraction, space=self.dataset) != split:
                    continue
                problem = Problem(
                    messages=({"role": "user", "content": self._content(entry)},),
                    answer="" if entry["answer"] is None else str(entry["answer"]),
                    columns={"task": self.name, "source_seed": source_seed, "source_index": source_index},
                    question=entry["question"],
                )
                if entry["answer"] is None or self.grade(problem.answer, problem) >= 1.0:
                    return problem
                reason = f"its reference {problem.answer!r:.80} does not score 1.0"
            except Exception as error:  # whatever the package's code does
                reason = f"it cannot be made or scored: {error!r:.200}"
            self.passed_over += 1
            if self.passed_over <= _SHOWN:
                print(f"task {self.name!r}, question {index} passed over: {reason}", file=sys.stderr)
        raise ValueError(
            f"reasoning_gym {self.dataset!r}: no {split} question among {self._max_tries} generated for index {index}: "
            f"with config {self._spec.config} it has too few different questions for heldout_fraction {fraction}"
            f"{f'; the last one passed over: {reason}' if reason else ''}"
        )

    def entry(self, problem: Problem) -> dict[str, Any]:
        """reasoning-gym's entry of a problem: question, answer, metadata. Do not change it: it is cached.

        Raises GradingError for a problem of another task, or of a data set that now makes another question from its
        seed.
        """
        check_task(self.name, problem)
        entry = self._entry(problem.columns["source_seed"], problem.columns["source_index"])
        if self._content(entry) != problem.messages[-1]["content"]:
            what = "made another question from this seed: another configuration?"
            raise GradingError(f"reasoning_gym {self.dataset!r} {what}")
        return entry

    def grade(self, answer: str | None, problem: Problem) -> float:
        """The data set's score in [0, 1]; only 1.0 is right (some give 0.01 to anything).

        0.0 for an answer that is absent, unsafe or not confirmed by `answer_guard`, and where the scorer raises on the
        answer but not on the reference. Where it does on both, and for a problem of another task, it raises
        GradingError.
        """
        entry = self.entry(problem)
        reference = str(entry["answer"])
        if answer is None or not answer.strip() or not is_harmless(answer, self.dataset, reference=reference):
            return 0.0
        try:
            score = self._score(answer.strip(), entry)
        except Exception:
            try:
                self._score(entry["answer"], entry)
            except Exception as error:
                what = f"its scorer fails on its reference: {error!r}"
                raise GradingError(f"reasoning_gym {self.dataset!r}: {what}") from error
            return 0.0
        is_wrong = score >= 1.0 and not confirms(self.dataset, answer.strip(), reference, entry["metadata"])
        return 0.0 if is_wrong else min(max(score, 0.0), 1.0)

    def canonical(self, answer: str) -> str:
        """Trimmed, with numbers in their shortest form (``canonical_answer``)."""
        return canonical_answer(answer)

    def _score(self, answer: str, entry: dict[str, Any]) -> float:
        # The seed does not matter to a scorer; a slice that exists already costs nothing.
        return float(_dataset(self.dataset, self._config_json, 0).score_answer(answer, entry))

    def _entry(self, source_seed: int, source_index: int) -> dict[str, Any]:
        return _entry(self.dataset, self._config_json, source_seed, source_index)

    def _content(self, entry: dict[str, Any]) -> str:
        return "\n".join(filter(None, (entry["question"], self._spec.answer_instruction)))


def _check_config(dataset: str, config: dict[str, Any]) -> None:
    from reasoning_gym.factory import DATASETS  # the first import fills it and takes about a second

    datasets = {name: DATASETS[name] for name in sorted(DATASETS) if name != "composite"}  # a mixture of ours does that
    if dataset not in datasets:
        raise ValueError(f"reasoning_gym has no data set {dataset!r}{near(dataset, datasets)}")
    if dataset in _HASH_DEPENDENT and not os.environ.get("PYTHONHASHSEED", "").isdigit():
        raise ValueError(
            f"reasoning_gym {dataset!r} differs from process to process: start Python with PYTHONHASHSEED=0"
        )
    config_class = datasets[dataset][1]
    known = sorted({field.name for field in dataclasses.fields(config_class)} - {"seed", "size"})
    if unknown := sorted(set(config) - set(known)):
        keys = f"unknown config key {', '.join(unknown)}; known are {', '.join(known)}"
        raise ValueError(f"reasoning_gym {dataset!r}: {keys}")
    try:
        instance = config_class(**config, seed=0, size=1)
        if hasattr(instance, "validate"):
            instance.validate()
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"reasoning_gym {dataset!r}: bad config {config}: {error}") from error


@functools.lru_cache(maxsize=16)
def _dataset(name: str, config_json: str, seed: int) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, **json.loads(config_json), seed=seed, size=_SLICE_SIZE)


@functools.lru_cache(maxsize=4096)
def _entry(name: str, config_json: str, seed: int, index: int) -> dict[str, Any]:
    dataset = _dataset(name, config_json, seed)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(stable_hash(seed, index))
    np.random.seed(stable_hash(seed, index) % 2**32)
    try:
        return dataset[index]
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
