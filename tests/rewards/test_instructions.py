import pytest

from r1jax.rewards.instructions import CHECKERS, follows, follows_all

# (instruction, arguments, follows, does not): the official checkers (if-verifiable 0.1.2) say the same of each text.
CASES = [
    ("keywords:existence", {"keywords": ["Key", "lock"]}, "keys and LOCKS", "keys"),
    ("keywords:frequency", {"keyword": "a.b", "frequency": 2, "relation": "at least"}, "a.b a.b", "a.b axb"),
    ("keywords:frequency", {"keyword": "no", "frequency": 2, "relation": "less than"}, "No", "no, NO"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "cats", "a Cat."),
    ("keywords:letter_frequency", {"letter": "L", "let_frequency": 2, "let_relation": "at least"}, "lL", "l"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb", "a\n***\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one-two", "one two three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First.\n\n"Then, we go',
        "Then.\n\nwe go",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] [street]", "[name"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "End.\np. s. more", "End. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S. more", "P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b", "* a\n** b"),
    ("detectable_format:constrained_response", {}, "So: My answer is no.", "My answer is never."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "PART", "num_sections": 2},
        "PART 1 a PART 2 b",
        "PART 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', '{"a": }'),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >> text"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, "say it. Well", "Well: say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'Then came the END."', "The end. Or not"),
    ("startend:quotation", {}, ' "all of it" ', '"all" of it'),
    ("punctuation:no_comma", {}, "none; at all", "one, at least"),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_each_checker(name, arguments, good, bad):
    assert follows_all(good, [name], [arguments])
    assert not follows_all(bad, [name], [arguments])
    assert not follows_all(" \n", [name], [arguments])


def test_there_is_a_case_for_every_checker():
    assert {case[0] for case in CASES} == set(CHECKERS)
    assert len(CHECKERS) == 20


def test_all_instructions_must_be_followed():
    names, arguments = ["punctuation:no_comma", "startend:quotation"], [{}, {}]
    assert follows_all('"good"', names, arguments)
    assert not follows_all('"good, no"', names, arguments)
    assert not follows_all("good", names, arguments)


def test_the_reward_reads_the_answer_alone():
    completions = [
        "<think>first, this</think> <answer>that</answer>",
        "first, this</think>\nthat",
        "that",
        "<think>this</think> <answer>that, or not</answer>",
        "that",
        "that",
    ]
    names, arguments = [["punctuation:no_comma"]] * 5 + [None], [[{}]] * 5 + [None]
    reasons = ["stop"] * 4 + ["length"] + ["stop"]
    scores = follows([""] * 6, completions, names, arguments, stop_reason=reasons)
    assert scores == [1.0, 1.0, 1.0, 0.0, 0.0, None]


def test_nothing_of_the_thought_is_read():
    prompts = ["Do it. <think>\n", "Do it.", "<think>", "Do it."]
    completions = [
        "it goes on",
        "<think>it goes on",
        "<answer>that</answer></think> this, or that",
        "<think>perhaps <answer>this, or that</answer></think> that",
    ]
    scores = follows(prompts, completions, [["punctuation:no_comma"]] * 4, [[{}]] * 4)
    assert scores == [0.0, 0.0, 0.0, 1.0]


def test_what_cannot_be_checked_is_an_error_and_no_score():
    scores = follows(["", ""], ["x", "y"], [["language:response_language"], ["keywords:existence"]], [[{}], [{}]])
    assert [type(score) for score in scores] == [ValueError, ValueError]
    assert "'language:response_language' has no checker" in str(scores[0])
    assert "keywords:existence: bad arguments" in str(scores[1])


@pytest.mark.parametrize(
    "text", ["*" * 200_000, "[" * 200_000, "<<" * 100_000, "x" + "\n" * 200_000, "{" * 100_000, "\x00", "** *" * 5000]
)
def test_hostile_text_neither_raises_nor_hangs(text):
    for name, arguments, _, _ in CASES:
        assert follows_all(text, [name], [arguments]) in (True, False)
