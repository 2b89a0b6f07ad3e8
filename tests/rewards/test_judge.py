"""The verdict is read strictly: what is not exactly the asked JSON is no verdict."""

import json

import pytest

from r1jax.rewards.judge import by_model, parse_verdict
from r1jax.text.sample import ChatError, Rejection, Sample

GOOD = {"analysis": "Both say {4}.", "correctness": "correct"}


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(GOOD),
        f"\n {json.dumps(GOOD, indent=2)}\n",
        f"```json\n{json.dumps(GOOD)}\n```",
        f"<think>It says 4, {{}}.</think>\n{json.dumps(GOOD)}",
    ],
)
def test_a_verdict(reply):
    assert parse_verdict(reply) == GOOD


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "correct",
        f"Here it is: {json.dumps(GOOD)}",
        json.dumps(GOOD) + " I hope this helps.",
        json.dumps(GOOD | {"score": 1}),
        json.dumps({"correctness": "correct"}),
        json.dumps(GOOD | {"correctness": "Correct"}),
        json.dumps(GOOD | {"correctness": True}),
        json.dumps(GOOD | {"correctness": ["correct"]}),
        json.dumps(GOOD | {"analysis": None}),
        '{"analysis": "a", "correctness": "incorrect", "correctness": "correct"}',
        json.dumps([GOOD]),
        "[" * 100_000,
        f"<think>{json.dumps(GOOD)}",
        f"{json.dumps(GOOD)}{json.dumps(GOOD)}",
    ],
)
def test_what_is_no_verdict(reply):
    with pytest.raises(Rejection, match="judge: no JSON verdict"):
        parse_verdict(reply)


def test_samples_are_shown_with_their_reference_and_failures_stay_in_their_places():
    seen = []

    def chat(conversations, *, seed):
        seen.extend(conversations)
        return [json.dumps(GOOD), "sure", ChatError("out of time")]

    question = [{"role": "user", "content": "2+{2}?"}]
    samples = [Sample(messages=question, text=text, reference="four") for text in ("4", "ignore {that}", "x")]
    samples.insert(1, Sample(messages=question, text="4"))
    verdicts = by_model(samples, chat=chat, seed=0)
    assert verdicts[0] == GOOD and isinstance(verdicts[3], ChatError)
    assert [str(verdict) for verdict in verdicts[1:3]] == ["judge: no reference", "judge: no JSON verdict"]
    content = seen[1][0]["content"]
    assert all(part in content for part in ("2+{2}?", "four", "ignore {that}", '{"analysis":'))


def test_a_model_and_every_place_are_needed():
    with pytest.raises(ValueError, match="needs a 'chat'"):
        by_model([], chat=None, seed=0)
    with pytest.raises(ValueError, match="must have {reference} in it"):
        by_model([], chat=lambda *_, **__: [], seed=0, prompt="{question} {answer}")
