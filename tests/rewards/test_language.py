import time

import pytest

from r1jax.rewards.language import (
    chinese_share,
    chinese_share_reward,
    consistency,
    count_languages,
    is_mixed,
    language_of,
)
from r1jax.tasks.mini.general import Helpful, Safety
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.problem import Problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two plus 二加三", (3, 2)),
        ("<think>二</think> <answer>4</answer>", (1, 0)),
        (r"so $\alpha + beta$ and \(cos x\) and \[sin\] 是 \frac{ab}{cd}", (1, 3)),
        ("use `print` ```python\nimport os\n``` 好", (1, 1)),
        ("x 等于 3a + b2", (2, 0)),
        ("naïve Straße", (0, 2)),
        ("等wait等", (2, 1)),
        ("123 + 4 = !", (0, 0)),
        ("unclosed ```code here", (0, 1)),
    ],
)
def test_count_languages(text, expected):
    counts = count_languages(text)
    assert (counts["zh"], counts["en"] + counts["other"]) == expected


def test_share_and_mixing():
    assert chinese_share("two 二三四") == 0.75
    assert chinese_share("only English words") == 0.0
    assert chinese_share("12 = 12") is None
    assert is_mixed("two 二三四")
    assert not is_mixed("only English words")
    assert not is_mixed("二三四")
    assert not is_mixed("12")
    assert not is_mixed("word " * 99 + "二")
    assert is_mixed("word " * 99 + "二", minimum_share=0.01)


def test_reward_does_not_apply_without_words():
    assert chinese_share_reward(["", ""], ["two 二", "3"]) == [0.5, None]


@pytest.mark.parametrize("piece", [r"\(", r"\[", "$$", "$", "`", "<a", r"\a{", "```"])
def test_no_text_takes_long(piece):
    start = time.thread_time()
    count_languages(piece * 100_000)
    assert time.thread_time() - start < 1.0


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is two plus two?", "en"),
        ("二加二等于几?", "zh"),
        ("求 $\\sin x$ 的导数", "zh"),
        ("Сколько будет два плюс два?", "other"),
        # short ones
        ("求 x", "zh"),
        ("1+1=几?", "zh"),
        ("解方程 2x+3=7", "zh"),
        ("3米加5米", "zh"),
        ("5元+3元=", "zh"),
        ("三角形ABC中AB=3", "zh"),
        ("2x+y=7的解", "zh"),
        ("证明: 若 ABCD 是平行四边形, 则 AB = CD", "zh"),
        ("Solve: 2x=7", "en"),
        ("Compute 3*4", "en"),
        ("WHAT IS 2+2?", "en"),
        # formulas, code and names alone
        ("1 + 1 = ?", None),
        ("", None),
        ("$1+1=?$", None),
        (r"\[\int_0^1 x^2 dx\]", None),
        ("sin x + cos x = ?", None),
        ("gcd(12, 18)", None),
        ("AB + CD = ?", None),
        ("5 km + 3 km = ?", None),
        ("`import os`", None),
        # mixed
        ("Alice和Bob谁大?", "zh"),
        ("Alice 有 3 个苹果，Bob 有 5 个，一共几个？", "zh"),
        ("Python的list和tuple有什么区别", "zh"),
        ("写函数 sort_by_key(items)", "zh"),
        ("'Thank you' 是 \"Thank you very much\" 吗?", "zh"),
        ("Where is 北京大学?", "en"),
        ("How old is 小明?", "en"),
        ("Who wrote 三国演义, 水浒传 and 红楼梦?", "en"),
        ("Translate 你好世界 into English", "en"),
        # with an instruction of the data's own
        ("小明有5个苹果,还剩几个? Please reason step by step, and put your final answer within \\boxed{}.", "zh"),
        ("求和。 Let's think step by step and output the final answer within \\boxed{}.", "zh"),
        ("请将下面的英文翻译成中文:\nThe cat is on the mat and it is happy.", "zh"),
        ("请翻译: I like the apples and the oranges that are in the box", "zh"),
        ("Solve the following problem: 小明有5个苹果,他吃了2个,还剩几个?", "zh"),
        ("State the final answer to the following arithmetic problem: 4 + 5 =", "en"),
        ("$1+1=?$ Put your answer within \\boxed{}.", None),
    ],
)
def test_language_of_the_question(question, expected):
    assert language_of(question) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [("zh", "zh"), ("zh-CN", "zh"), ("Chinese", "zh"), ("中文", "zh"), ("en_US", "en"), ("English", "en"), ("other", "other")],
)  # fmt: skip
def test_a_column_wins(column, expected):
    assert language_of("What is it?", column=column) == language_of("求和。", column=column) == expected


@pytest.mark.parametrize(
    "piece", ["“", '"', "a.", "_", "A", "a(", "Aa ", "https://", "put your answer ", " \n", "$", "的"]
)
def test_no_question_takes_long(piece):
    start = time.thread_time()
    language_of(piece * 20_000)
    assert time.thread_time() - start < 1.0


def test_consistency_is_the_share_of_words_in_the_language_of_the_question():
    question = "How many are there?"
    texts = [
        "<think>two plus two</think> 四",
        "<think>two 二加三</think> four",
        "<think>二</think> four",
        "one plus 二",
        "<think>12 + 3 = 15, \\frac{a}{b}</think>",
        "<think></think> words",
        "",
        "два плюс two",
    ]
    assert consistency([question] * 8, texts) == [1.0, 0.25, 0.0, 2 / 3, 1.0, 0.0, 0.0, 1 / 3]
    assert consistency(["二加二等于几?"] * 2, ["<think>two 二加三</think> four", "abc def"]) == [0.75, 0.0]


def test_the_target_is_that_of_the_problem_and_not_of_the_template():
    problem = Problem(({"role": "user", "content": "二加二等于几?"},), "4", {"task": "t"})
    prompt = (
        "A conversation of the User and the Assistant, which is to think and to answer. User: 二加二等于几? Assistant:"
    )
    assert consistency([prompt], ["二加二"], problem=[problem]) == [1.0]
    assert consistency([prompt], ["二加二"]) == [0.0]
    assert consistency([prompt], ["二加二"], problem=[problem], language=["en"]) == [0.0]
    error = consistency([prompt], ["x"], language=["fr"])[0]
    assert isinstance(error, ValueError) and "'fr'" in str(error)


def test_the_target_is_that_of_the_problem_s_own_text():
    """The English instruction that a prompt puts after a short Chinese question makes the last message mostly English."""
    path = "Reason step by step, and put the final answer within \\boxed{}. There is more of this here."
    problem = Problem(({"role": "user", "content": f"求 x\n\n{path}"},), "4", {"task": "t"}, question="求 x")
    assert consistency(["..."], ["<think>先移项，再相除</think> 4"], problem=[problem]) == [1.0]
    assert consistency(["..."], ["<think>move it, then divide</think> 4"], problem=[problem]) == [0.0]


def test_formulas_alone_ask_for_no_language_and_only_mixing_costs():
    problem = Problem(
        ({"role": "user", "content": "$1 + 1 = ?$\nPut the answer last."},), "2", {}, question="$1 + 1 = ?$"
    )
    texts = [
        "<think>一加一等于二</think>",
        "<think>one and one make two</think>",
        "<think>one 加一等</think>",
        "<think>2</think>",
    ]
    assert consistency([""] * 4, texts, problem=[problem] * 4) == [1.0, 1.0, 0.75, 1.0]


def test_a_column_that_is_no_language_is_an_error_of_its_rows_only():
    scores = consistency(["What?"] * 3, ["it is"] * 3, language=["python", ["zh"], None])
    assert [isinstance(score, ValueError) for score in scores] == [True, True, False] and scores[2] == 1.0


def test_questions_of_the_toy_world_ask_for_english():
    for task in (PairSum(), Helpful(), Safety()):
        assert {language_of(task.problem(index, split="train").question) for index in range(100)} == {"en"}
