import numpy as np

from r1jax.tasks.decontaminate import NgramIndex, words

TEST = "Ada has twelve red apples and gives five of them to Bo, who is hungry."  # 15 words


def decontaminate(problems, index):
    """(places of the problems that share no n-gram with a test set, (place, test set, n-gram) of the others)."""
    hits = [(place, index.find(text)) for place, text in enumerate(problems)]
    return [place for place, hit in hits if hit is None], [(place, *hit) for place, hit in hits if hit is not None]


def test_words_are_folded_and_cjk_characters_stand_alone():
    assert words("Find \\frac{1}{2} of Ｘ_1, then: STRASSE straße") == [
        *["find", "frac", "1", "2", "of", "x", "1", "then", "strasse", "strasse"]
    ]
    assert words("小明有12个apple。") == ["小", "明", "有", "12", "个", "apple"]
    assert words(" \n—!") == []


def test_ten_shared_words_drop_a_problem_and_nine_do_not():
    shared = TEST.split()
    problems = [
        "Other text entirely, of more than ten words, that shares nothing with it.",
        "Once " + " ".join(shared[2:12]) + " and then some",
        "Once " + " ".join(shared[2:11]) + " and then some",
        TEST.upper().replace(" ", "  \n"),
    ]
    kept, dropped = decontaminate(iter(problems), NgramIndex({"first": ["nothing"], "second": iter([TEST])}))
    assert kept == [0, 2]
    assert dropped == [
        (1, "second", "twelve red apples and gives five of them to bo"),
        (3, "second", "ada has twelve red apples and gives five of them"),
    ]


def test_n_is_the_number_of_words():
    kept, dropped = decontaminate(["x red apples y", "x red y apples"], NgramIndex({"t": [TEST]}, n=2))
    assert (kept, [ngram for _, _, ngram in dropped]) == ([1], ["red apples"])


def test_short_texts_match_only_as_a_whole():
    problems = ["What is 2 + 3?", "What is 2 + 3? Answer as a word, please, and nothing else.", "what is 2 3", ""]
    kept, dropped = decontaminate(problems, NgramIndex({"t": ["What is 2 + 3?", ""]}))
    assert kept == [1, 3]
    assert [ngram for _, _, ngram in dropped] == ["what is 2 3"] * 2


def test_the_order_of_words_counts():
    assert decontaminate(["a b c d", "d c b a"], NgramIndex({"t": ["d c b a"]}, n=4))[0] == [0]


def test_chinese_is_compared_by_character():
    test = "小明有十二个红苹果他给了小红五个"
    assert decontaminate(["昨天" + test[:10] + "。", "昨天" + test[:9] + "。"], NgramIndex({"t": [test]}))[0] == [1]


def test_agrees_with_a_plain_search():
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 3, rng.integers(0, 12)))) for _ in range(400)]
    test, problems = texts[:40], texts[40:]
    for n in (1, 4, 6):

        def grams(text, n=n):
            found = text.split()
            return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)} or {tuple(found)} - {()}

        seen = set().union(*map(grams, test))
        expected = [place for place, text in enumerate(problems) if not grams(text) & seen]
        assert decontaminate(problems, NgramIndex({"t": test}, n=n))[0] == expected


def test_nothing_to_compare_with_keeps_all():
    assert decontaminate(["a b", ""], NgramIndex({})) == ([0, 1], [])
    assert len(NgramIndex({"t": [TEST, TEST]})) == 6
