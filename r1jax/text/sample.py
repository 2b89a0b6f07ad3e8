"""A sampled answer as filters, judges and rewriters see it, and the answer of a model that one of them asks.

Judges and rewriters are functions ``f(samples, *, chat, seed, **options)`` that return a result for each sample, or an
exception in its place: that sample failed, and is counted. A ``Rejection`` among them says why in a few words.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.text.response import Response, parse


class Rejection(ValueError):
    """A sample is not kept. The message is the reason under which it is counted: few words, no figures."""


class ChatError(RuntimeError):
    """A model that was asked gave no answer: unreachable, out of time, cut off, or nonsense in place of a reply."""


Chat = Callable[..., list[str | ChatError]]
"""``chat(conversations, *, seed)``: a model's next message of each conversation, whose last is the user's; or why there is none."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sampled answer to one problem."""

    messages: Sequence[Mapping[str, str]]  # that were answered; the last one is the user's
    text: str  # the answer, without its stop token
    style: str = "r1_zero"  # of the text, see `text.response`
    token_ids: Sequence[int] = ()  # of the text, with the stop token where there is one
    stop_reason: str = "stop"  # or "length": it was cut off
    answer: str | None = None  # the final answer in the text
    is_correct: bool = False  # the task's verdict on that
    reference: str = ""  # the task's own answer; empty where it has none
    rewards: Mapping[str, float] = dataclasses.field(default_factory=dict)  # nan: it does not apply, or failed
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of verifiers; of the task's: "task_metric"
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the problem; "task" is its task's name
    problem_text: str = ""  # the problem's, without the wording of a prompt; "" is the question

    @property
    def question(self) -> str:
        """The last message, which the sample answers."""
        return self.messages[-1]["content"]

    @property
    def parts(self) -> Response:
        """Thought and answer or summary."""
        return parse(self.text, style=self.style)


def r1_text(think: str, summary: str) -> str:
    """A thought and a summary in the form of R1: what the assistant's message of a training conversation holds."""
    return f"<think>\n{think.strip()}\n</think>\n\n{summary.strip()}"
