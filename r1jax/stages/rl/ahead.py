"""The next phase, sampled on devices of the sampler's own while the trainer updates (``overlap``).

Its weights are a copy of those from before the update, so it is one phase off-policy. Nothing is sampled ahead across a
checkpoint, an evaluation, a change of tasks or rewards, or the end: after these the weights are the newest ones, and a
run that goes on from a checkpoint is the same.
"""

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from r1jax.background import Background
from r1jax.data.prompts import PromptIterator
from r1jax.rewards.calls import CALLS
from r1jax.rollout.collect import SCORING
from r1jax.rollout.weight_sync import WeightSync
from r1jax.specs.stages import RlSpec
from r1jax.stages.open_run import OpenRun

SAMPLING = Background("sampling")
"""The thread that samples the next phase."""


class _GivenUp(Exception):
    """The phase is no longer wanted."""


class Ahead(contextlib.AbstractContextManager["Ahead"]):
    """What is sampled ahead, if anything is. At the end of the context, and where that raises, it is given up."""

    def __init__(self, sync: WeightSync, prompts: PromptIterator):
        self._sync, self._prompts = sync, prompts
        self._position = prompts.get_state()
        self._sampled: concurrent.futures.Future | None = None
        self._is_given_up = threading.Event()

    @property
    def is_under_way(self) -> bool:
        """Whether a phase was begun that was not taken."""
        return self._sampled is not None

    def begin(self, state, draw: Callable[[], list], start: Callable[..., Any]) -> float:
        """Calls ``start(weights, questions, before_segment=...)`` in a thread, on the sampler's mesh, with a copy of the
        weights of ``state``, which is there when this returns; returns the seconds that it took.

        draw: gives the questions, of the prompts whose position is put back where the phase is given up.
        """
        self._position, self._is_given_up = self._prompts.get_state(), threading.Event()
        questions = draw()
        mark = time.perf_counter()
        weights = jax.block_until_ready(self._sync.weights_of(state))
        is_given_up = self._is_given_up

        def before_segment() -> None:
            if is_given_up.is_set():
                raise _GivenUp

        def sample(weights: dict[str, Any]) -> Any:
            with self._sync.lent(weights):
                return start(weights, questions, before_segment=before_segment)

        self._sampled = SAMPLING.run(sample, weights)
        return time.perf_counter() - mark

    def take(self) -> tuple[Any, float]:
        """(what ``start`` returned, the seconds that this waited for it); raises what that raised."""
        mark = time.perf_counter()
        assert self._sampled is not None
        started = self._sampled.result()
        self._sampled = None
        return started, time.perf_counter() - mark

    def give_up(self) -> None:
        """Ends what is under way, after its segment, and puts the prompts back to where they were before it."""
        if self._sampled is None:
            return
        self._is_given_up.set()
        concurrent.futures.wait([self._sampled])
        SCORING.give_up()
        CALLS.give_up()
        self._sampled = None
        self._prompts.set_state(self._position)

    def __exit__(self, *error: object) -> None:
        self.give_up()


def may_sample_ahead(spec: RlSpec, run: OpenRun, updates: int) -> bool:
    """Whether the phase that begins after so many updates may be sampled from the weights before them."""
    joins = any(entry.from_update == updates for entry in (*spec.tasks, *spec.rewards))
    is_next = updates < spec.num_updates and not run.stop.requested
    return spec.overlap and is_next and not (joins or updates % spec.eval.every == 0 or run.checkpoints.is_due(updates))
