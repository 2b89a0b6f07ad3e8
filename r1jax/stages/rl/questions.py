"""Questions of a phase: new ones, and those carried over from the phase before (partial rollouts).

With ``partial_rollouts`` more questions are sampled at a time than a phase trains on. It ends when as many as it needs
are done; the others go on in the next one, under the new weights, and come first there (Kimi k1.5 Sec. 2.6.2). Each
token keeps the log-prob under the weights that sampled it and their version, and is trained on with a truncated
importance weight.
"""

import dataclasses
from typing import Any

import numpy as np

from r1jax.data.prompts import PromptIterator
from r1jax.rollout.records import Completion
from r1jax.tasks.mixture import TaskSchedule
from r1jax.tasks.problem import Problem

_TYPES = {"token_ids": np.int32, "logps": np.float32, "versions": np.int32}


@dataclasses.dataclass(frozen=True)
class Question:
    """A training problem, and what of its samples there is already."""

    index: int  # in the sequence of its task
    updates: int  # that the policy had had when it was drawn; they say which tasks took part, and how long it may get
    problem: Problem
    so_far: list[Completion] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, from which every number comes back bit for bit; the problem is made anew."""
        samples = [
            {name: np.asarray(getattr(completion, name)).tolist() for name in _TYPES}
            | {"stop_reason": completion.stop_reason}
            for completion in self.so_far or ()
        ]
        return {"index": self.index, "updates": self.updates, "samples": samples}

    @classmethod
    def from_json(cls, row: dict[str, Any], schedule: TaskSchedule) -> "Question":
        """The question again, its problem from the task that was drawn from then."""
        so_far = [
            Completion(
                stop_reason=sample["stop_reason"],
                **{name: np.array(sample[name], dtype) for name, dtype in _TYPES.items()},
            )
            for sample in row["samples"]
        ]
        problem = schedule.at(row["updates"]).problem(row["index"], split="train")
        return cls(row["index"], row["updates"], problem, so_far)


def draw(prompts: PromptIterator, count: int, *, updates: int) -> list[Question]:
    """The next so many problems of the stream."""
    return [Question(index, updates, problem) for index, problem in prompts.take_indexed(count)]
