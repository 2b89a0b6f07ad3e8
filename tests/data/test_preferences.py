import pytest

from r1jax.data.preferences import Preference, parse_preference, split_preferences

ASK = [{"role": "user", "content": "Hello"}]
PAIR = {"messages": ASK, "chosen": "Hi!", "rejected": "No."}
LABEL = {"messages": ASK, "response": "Hi!", "is_safe": True}


def test_records_of_both_kinds():
    assert parse_preference(PAIR | {"delta": 1.5}, "helpful") == Preference(ASK, ("Hi!", "No."))
    assert parse_preference(LABEL, "safety") == Preference(ASK, ("Hi!",), True)


def test_what_a_message_says_besides_its_content_is_kept():
    thought = {"role": "assistant", "content": "b", "reasoning_content": "c"}
    record = PAIR | {"messages": [*ASK, thought | {"index": 3, "tool_calls": None}, *ASK]}
    assert parse_preference(record, "helpful").messages == [*ASK, thought, *ASK]


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        ([], "helpful", "here: must be an object"),
        ({}, "helpful", "here: 'messages' must be a list"),
        (PAIR | {"messages": [{"role": "user"}]}, "helpful", "here: 'messages' must be"),
        (PAIR | {"messages": [*ASK, {"role": "assistant", "content": ""}]}, "helpful", "must be the user's"),
        (PAIR | {"chosen": None}, "helpful", "here: 'chosen' must be a str"),
        (LABEL | {"is_safe": 1}, "safety", "here: 'is_safe' must be a bool"),
        (PAIR, "safety", "here: 'response' must be a str"),
        (PAIR, "harmless", "kind='harmless': must be one of helpful, safety"),
    ],
)
def test_bad_records_are_named(record, kind, words):
    with pytest.raises(ValueError, match=words):
        parse_preference(record, kind, where="here")


def test_a_prompt_is_on_one_side_and_a_tenth_is_held_out():
    examples = [
        Preference([{"role": "user", "content": f"q{n}"}], (f"r{copy}",), True)
        for n in range(1000)
        for copy in range(2)
    ]
    train, heldout = split_preferences(examples, heldout_fraction=0.1)
    prompts = [{example.messages[0]["content"] for example in side} for side in (train, heldout)]
    assert not prompts[0] & prompts[1] and len(train) == 2 * len(prompts[0])
    assert 70 <= len(prompts[1]) <= 130
    assert split_preferences(examples[::-1], heldout_fraction=0.1)[1] == heldout[::-1]
