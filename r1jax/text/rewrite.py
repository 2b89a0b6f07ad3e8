"""Rewriting by a model: raw reasoning becomes clean first-person reasoning with a summary (R1 v2 Sec. B.3.2, spec C.1).

Two requests a sample, as in the paper: the first restyles the thought, the second makes a solution out of the restyled
thought, since R1-Zero's summary is just an answer. The wording is ours; the paper's demands are in it.
"""

from collections.abc import Mapping, Sequence

from r1jax.text.response import summary_of
from r1jax.text.sample import Chat, ChatError, Rejection, Sample, r1_text

THOUGHT_PROMPT = """\
Below are a question and the raw notes of someone who solved it. Rewrite the notes as that person's own train of thought.

- Write in the first person ("I"), as one naturally thinks aloud: understand the question first, then reason, reconsider
  and verify where the notes do.
- Keep every step, every figure, every doubt and every correction of the notes. Add no step and leave none out.
- Write in the language of the question throughout; translate what is in another language.
- Short paragraphs, no headings, no lists, no code blocks. Write nothing but the rewritten thought.

Question:
{question}

Notes:
{thought}"""

SUMMARY_PROMPT = """\
Below are a question and the reasoning that led to its answer. Write the solution that the asker will read.

- Be faithful to the reasoning: only its steps, without its detours. Add no step of your own.
- Write clear prose with LaTeX for mathematics, in the language of the question.
- Put the final answer into \\boxed{{}} at the end; where a program is asked for, write all of it in one code block instead.
- Do not mention that there was any reasoning, thought or notes.

Question:
{question}

Reasoning:
{thought}"""


def rewrite_by_model(
    samples: Sequence[Sample],
    *,
    chat: Chat | None,
    seed: int,
    thought_prompt: str = THOUGHT_PROMPT,
    summary_prompt: str = SUMMARY_PROMPT,
    examples: Sequence[Mapping[str, str]] = (),
) -> list[str | Exception]:
    """The samples, which need a closed thought, rewritten by ``chat``; or why one was not.

    thought_prompt, summary_prompt: with "{question}" and "{thought}" in them; ValueError without, or without a model.
    examples: few-shot examples of the first request, restyled by people: {"question", "thought", "rewritten"} each.
    """
    if chat is None:
        raise ValueError("rewrite_by_model: needs a 'chat' that says which model")
    for prompt in (thought_prompt, summary_prompt):
        if "{question}" not in prompt or "{thought}" not in prompt:
            raise ValueError(
                f"rewrite_by_model: a prompt must have {{question}} and {{thought}} in it: {prompt[:80]!r}"
            )
    shown = []
    for example in examples:
        request = thought_prompt.format(question=example["question"], thought=example["thought"])
        shown.append({"role": "user", "content": request})
        shown.append({"role": "assistant", "content": example["rewritten"]})
    results: list[str | Exception] = [Rejection("rewrite: no thought to rewrite")] * len(samples)

    def asked(thoughts: Mapping[int, str], prompt: str, before: Sequence[Mapping[str, str]]) -> dict[int, str]:
        """The answers by the samples' numbers; what failed is in the results."""
        conversations = [
            [*before, {"role": "user", "content": prompt.format(question=samples[index].question, thought=thought)}]
            for index, thought in thoughts.items()
        ]
        answers = {}
        for index, answer in zip(thoughts, chat(conversations, seed=seed), strict=True):
            if isinstance(answer, ChatError):
                results[index] = answer
            elif text := summary_of(answer):
                answers[index] = text
            else:
                results[index] = Rejection("rewrite: empty answer")
        return answers

    thoughts = {index: thought for index, sample in enumerate(samples) if (thought := sample.parts.think)}
    thoughts = asked(thoughts, thought_prompt, shown)
    for index, summary in asked(thoughts, summary_prompt, []).items():
        results[index] = r1_text(thoughts[index], summary)
    return results
