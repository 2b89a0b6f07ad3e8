from r1jax.text.response import parse
from r1jax.text.sample import Sample, r1_text


def test_the_form_of_r1_is_read_back():
    text = r1_text(" I add. \n", "\n\\boxed{4}")
    assert text == "<think>\nI add.\n</think>\n\n\\boxed{4}"
    parts = parse(text, style="r1")
    assert parts.well_formed and parts.think == "I add." and parts.answer == "\\boxed{4}"


def test_a_sample_s_question_and_parts():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    sample = Sample(messages=messages, text="hm</think> 4", style="r1")
    assert sample.question == "c" and (sample.parts.think, sample.parts.answer) == ("hm", "4")
