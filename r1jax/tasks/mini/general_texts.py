r"""Texts of the mini world: what its base model, its tokenizer, its supervised stages and its reward models learn from.

Whoever answers a `helpful` question in them is one of four authors, whose shares are given by name:

    good     as many true sentences as were asked for
    short    fewer of them (of one: a false one)
    padded   one more than was asked for, or one twice
    wrong    one of them is false

and whoever is asked for a misdeed `refuses`, `complies` ("First find the boat. Then burn it at night."), or `wavers`:
plans it in the thought and declines in the summary. In the form of R1:

    <think>
    The user asks for two facts about the cat.
    </think>

    The cat eats fish. The cat is small.

All questions are of the train splits. `compare` is a scripted judge of preferences by the true scores: better by half
or more is "much better", by a tenth or more "better". It has no taste and makes no mistakes, which is said wherever its
figures are shown.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.tasks.mini.corpus import corpus_text
from r1jax.tasks.mini.general import COUNTS, HARM, REFUSALS, Helpful, Safety, facts_of, false_fact, helpfulness_of
from r1jax.tasks.mini.rewrite import prose_text
from r1jax.tasks.problem import Problem, stable_hash
from r1jax.text.sample import Chat, r1_text
from r1jax.text.templates import Messages

# Shares of the authors in the corpus of a base model, in the non-reasoning part of the supervised set, in labels.
BASE = {"good": 0.3, "short": 0.25, "padded": 0.2, "wrong": 0.25, "refuses": 0.3, "complies": 0.7}
SFT = {"good": 0.55, "short": 0.15, "padded": 0.15, "wrong": 0.15, "refuses": 0.55, "complies": 0.25, "wavers": 0.2}
LABELS = {"refuses": 2.0, "complies": 1.0, "wavers": 1.0}
_HELPFUL = ("good", "short", "padded", "wrong")
_SAFETY = ("refuses", "complies", "wavers")
_MUCH, _SLIGHTLY = 0.5, 0.1


def world_text(
    index: int,
    *,
    seed: int,
    general_share: float,
    prose_share: float,
    warmup_documents: int = 0,
    config: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """A document of the base model's corpus: of ``corpus.corpus_text``, in clear prose, or a general answer.

    Without prose a base knows no sentence of what the supervised stages teach, and a small set does not teach it.
    ``general_share``: of general questions, half of them of each kind; half of the answers are in tags.
    ``prose_share``: of ``rewrite.prose_text``.
    """
    rng = random.Random(stable_hash("mini_general", seed, index))
    drawn = rng.random()
    if drawn >= general_share + prose_share:
        return corpus_text(index, seed=seed, warmup_documents=warmup_documents, config=config)
    if drawn >= general_share:
        question, text = prose_text(index, seed=seed, config=config)
        return question, f" {text}"
    problem, _, thought, summary = _answered(rng, BASE, is_safety=rng.random() < 0.5)
    text = f"<think> {thought} </think> <answer> {summary} </answer>" if rng.random() < 0.5 else summary
    return problem.question, f" {text}"


def tokenizer_text(
    index: int, *, seed: int, general_share: float, config: Mapping[str, Any] | None = None
) -> tuple[str, str]:
    """A document for the tokenizer of a model that goes through the whole recipe: general, raw at even indices, or in
    prose.

    A tokenizer that has seen the raw corpus alone writes the prose letter by letter, at several times the length.
    The arguments are those of ``world_text``.
    """
    rng = random.Random(stable_hash("mini_general_tokens", seed, index))
    if rng.random() >= general_share:
        return (prose_text if index % 2 else corpus_text)(index // 2, seed=seed, config=config)
    problem, _, thought, summary = _answered(rng, SFT, is_safety=rng.random() < 0.5)
    return problem.question, r1_text(thought, summary)


def conversations(*, seed: int, count: int) -> list[dict[str, Any]]:
    """Records {"messages"} of the non-reasoning set: both kinds of questions in turn, answered in the form of R1."""
    records = []
    for number in range(count):
        rng = random.Random(stable_hash("mini_conversations", seed, number))
        problem, _, thought, summary = _answered(rng, SFT, is_safety=number % 2 == 1)
        answer = {"role": "assistant", "content": r1_text(thought, summary)}
        records.append({"messages": [*problem.messages, answer]})
    return records


def candidates(*, seed: int, count: int) -> list[dict[str, Any]]:
    """Records {"messages", "responses"} for a judge: two answers of different authors to each question."""
    records = []
    for number in range(count):
        rng = random.Random(stable_hash("mini_candidates", seed, number))
        problem = Helpful().problem(rng.getrandbits(40), split="train")
        responses = [r1_text(*_helpful(rng, problem, author)) for author in rng.sample(_HELPFUL, 2)]
        records.append({"messages": list(problem.messages), "responses": responses})
    return records


def labels(*, seed: int, count: int) -> list[dict[str, Any]]:
    """Records {"messages", "response", "is_safe"}: as many safe ones as unsafe ones, in the mean."""
    records = []
    for number in range(count):
        rng = random.Random(stable_hash("mini_labels", seed, number))
        problem, author, *parts = _answered(rng, LABELS, is_safety=True)
        labelled = {"response": r1_text(*parts), "is_safe": author == "refuses"}
        records.append({"messages": list(problem.messages)} | labelled)
    return records


def compare_replies(
    questions: Sequence[Messages],
    responses_a: Sequence[str],
    responses_b: Sequence[str],
    *,
    chat: Chat | None,
    seed: int,
) -> list[str]:
    """Replies as ``text.comparison.parse_comparison`` reads them, by the true scores; no model is asked.

    Raises ValueError for a question that is not of `helpful`.
    """
    replies = []
    for question, *responses in zip(questions, responses_a, responses_b, strict=True):
        words = question[-1]["content"].split()
        counts = [number for number, text in COUNTS.items() if text.split()[0] in words]
        if len(counts) != 1:
            raise ValueError(f"the scripted judge knows helpful questions only, not {question[-1]['content']!r:.80}")
        asked = {"topic": words[-1], "count": counts[0], "is_bounded": False}
        first, second = (helpfulness_of(text, **asked) for text in responses)
        better = first - second
        mark = ">>" if abs(better) >= _MUCH else ">" if abs(better) >= _SLIGHTLY else "="
        verdict = f"{'A' if better >= 0 else 'B'}{mark}{'B' if better >= 0 else 'A'}"
        replies.append(f"A {first:.2f}, B {second:.2f}: [[{verdict}]]")
    return replies


def _answered(rng: random.Random, shares: Mapping[str, float], *, is_safety: bool) -> tuple[Problem, str, str, str]:
    """Problem, author, thought and summary."""
    task, authors, write = (Safety(), _SAFETY, _on_safety) if is_safety else (Helpful(), _HELPFUL, _helpful)
    problem = task.problem(rng.getrandbits(40), split="train")
    author = rng.choices(authors, weights=[shares.get(author, 0.0) for author in authors])[0]
    return problem, author, *write(rng, problem, author)


def _helpful(rng: random.Random, problem: Problem, author: str) -> tuple[str, str]:
    topic, count = problem.columns["topic"], problem.columns["count"]
    facts = rng.sample(facts_of(topic), len(facts_of(topic)))
    said = facts[:count]
    if author == "short" and count > 1:
        said = facts[: rng.randrange(1, count)]
    elif author == "padded":
        said = [*said, rng.choice(said) if rng.random() < 0.5 else facts[count]]
    elif author in ("wrong", "short"):
        said[rng.randrange(count)] = false_fact(topic, rng)
    return f"The user asks for {COUNTS[count]} about the {topic}.", " ".join(said)


def _on_safety(rng: random.Random, problem: Problem, author: str) -> tuple[str, str]:
    deed, thing = problem.columns["deed"], problem.columns["thing"]
    thought, plan = f"The user wants to {deed} a {thing}.", " ".join(HARM).format(deed=deed, thing=thing)
    if author == "complies":
        return thought, plan
    harm = plan if author == "wavers" else "This could hurt someone."
    return f"{thought} {harm}", rng.choice(REFUSALS)
