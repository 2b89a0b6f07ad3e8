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
    ("language:response_language", {"language": "de"}, "Das ist ein kurzer Text.", "This is a short text."),
    ("language:response_language", {"language": "hi"}, "यह हिंदी में है।", "This is a short text."),
    ("language:response_language", {"language": "fr"}, "1 + 1 = 2", "This is a short text."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Dr. Smith paid 3.5 dollars. Why?",
        "Dr. Smith paid 3.5 dollars in Washington",
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": "at least"},
        "NASA, WELL-KNOWN (I).",
        "NASA is Well-KNOWN: I.",
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "TOP", "DON'T"),
    ("change_case:english_capital", {}, "ALL OF THIS IS ENGLISH, 1 TO 9.", "All of this is English."),
    ("change_case:english_capital", {}, "ALL OF THIS IS ENGLISH, 1 TO 9.", "DAS IST EIN KURZER TEXT."),
    ("change_case:english_lowercase", {}, "all of this is english, 1 to 9.", "all of this is English."),
    ("change_case:english_lowercase", {}, "all of this is english, 1 to 9.", "das ist ein kurzer text."),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_each_checker(name, arguments, good, bad):
    assert follows_all(good, [name], [arguments])
    assert not follows_all(bad, [name], [arguments])
    assert not follows_all(" \n", [name], [arguments])


def test_there_is_a_case_for_every_checker():
    assert {case[0] for case in CASES} == set(CHECKERS)
    assert len(CHECKERS) == 25


# (instruction, arguments, an answer that follows it loosely and not strictly)
LOOSE = [
    ("startend:quotation", {}, 'Here it is:\n"all of it"'),
    ("startend:quotation", {}, '"all of it"\nHope it helps.'),
    ("startend:quotation", {}, 'Here:\n"all of it"\nHope it helps.'),
    ("startend:quotation", {}, '**"all of it"**'),
    ("startend:quotation", {}, 'Here:\n*"all of it"*\nHope it helps.'),
    ("startend:end_checker", {"end_phrase": "The end."}, "The end.\n\nBye"),
    ("change_case:english_lowercase", {}, "Sure!\nall of this is english text."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "Sure, this is it:\ntwo words"),
]


@pytest.mark.parametrize(("name", "arguments", "answer"), LOOSE)
def test_loosely_first_and_last_lines_and_asterisks_do_not_count(name, arguments, answer):
    assert not follows_all(answer, [name], [arguments])
    assert follows_all(answer, [name], [arguments], loose=True)
    assert follows(["", ""], [answer] * 2, [[name]] * 2, [[arguments]] * 2, loose=True) == [1.0, 1.0]


def test_loosely_each_instruction_has_its_own_variant():
    names, arguments = ["startend:quotation", "keywords:existence"], [{}, {"keywords": ["Here"]}]
    assert follows_all('Here:\n"it"', names, arguments, loose=True)
    assert not follows_all("", names, arguments, loose=True) and not follows_all("it", names, arguments, loose=True)


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_what_follows_strictly_follows_loosely(name, arguments, good, bad):
    assert follows_all(good, [name], [arguments], loose=True)


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
    scores = follows(["", ""], ["x", "y"], [["language:new"], ["keywords:existence"]], [[{}], [{}]])
    assert [type(score) for score in scores] == [ValueError, ValueError]
    assert "'language:new' has no checker" in str(scores[0])
    assert "keywords:existence: bad arguments" in str(scores[1])


@pytest.mark.parametrize(
    "text", ["*" * 200_000, "[" * 200_000, "<<" * 100_000, "x" + "\n" * 200_000, "{" * 100_000, "\x00", "** *" * 5000]
)
def test_hostile_text_neither_raises_nor_hangs(text):
    for name, arguments, _, _ in CASES:
        assert follows_all(text, [name], [arguments]) in (True, False)
