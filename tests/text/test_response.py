import gc
import time

import pytest

from r1jax.text.response import (
    Response,
    boxed_answer,
    boxes,
    final_answer,
    is_cut_off,
    marked_answer,
    parse,
    summary_of,
)

R1_ZERO_CASES = [
    ("<think>2+2</think><answer>4</answer>", Response("2+2", "4", True)),
    (" \n<think>\n2+2\n</think>\n\n<answer> 4 </answer>\n", Response("2+2", "4", True)),
    ("<think>等等</think> <answer>四</answer>", Response("等等", "四", True)),
    ("<think></think><answer>4</answer>", Response("", "4", False)),
    ("<think> \n</think><answer>4</answer>", Response("", "4", False)),
    ("<think>...</think><answer>4</answer>", Response("...", "4", False)),
    ("<think>\u200b</think><answer>4</answer>", Response("\u200b", "4", False)),
    ("<think>a</think><answer>\u200b</answer>", Response("a", "\u200b", False)),
    ("<think>a</think><answer>+</answer>", Response("a", "+", True)),
    ("<think>a</think><answer> </answer>", Response("a", None, False)),
    ("so <think>a</think><answer>4</answer>", Response("a", "4", False)),
    ("<think>a</think> so <answer>4</answer>", Response("a", "4", False)),
    ("<think>a</think><answer>4</answer> done", Response("a", "4", False)),
    ("<think>a<think>b</think><answer>4</answer>", Response("a<think>b", "4", False)),
    ("<think>a</think><think>b</think><answer>4</answer>", Response("a", "4", False)),
    ("<think>a</think><answer>4</answer><answer>5</answer>", Response("a", "5", False)),
    ("<think>a</think><answer>4<answer>5</answer>", Response("a", "5", False)),
    ("<think>a<answer>4</answer></think>", Response("a<answer>4</answer>", "4", False)),
    ("<answer>4</answer><think>a</think>", Response("a", "4", False)),
    ("<answer>4</answer>", Response(None, "4", False)),
    ("<think>a</think><answer>4", Response("a", None, False)),
    ("<think>a", Response(None, None, False)),
    ("<THINK>a</THINK><ANSWER>4</ANSWER>", Response(None, None, False)),
    ("4", Response(None, None, False)),
    ("", Response(None, None, False)),
]


@pytest.mark.parametrize(("text", "expected"), R1_ZERO_CASES)
def test_parse_r1_zero(text, expected):
    assert parse(text, style="r1_zero") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\na\n</think>\n\nIt is 4.", Response("a", "It is 4.", True)),
        ("a</think>It is 4.", Response("a", "It is 4.", True)),
        ("<think></think>It is 4.", Response("", "It is 4.", False)),
        ("-\n</think>It is 4.", Response("-", "It is 4.", False)),
        ("<think>a</think> ", Response("a", None, False)),
        ("<think>a</think>b</think>c", Response("a", "b</think>c", False)),
        ("<think>a<think>b</think>c", Response("a<think>b", "c", False)),
        ("<think>a", Response(None, None, False)),
    ],
)
def test_parse_r1(text, expected):
    assert parse(text, style="r1") == expected


def test_unknown_style_is_named():
    with pytest.raises(ValueError, match="style 'zero': must be one of r1_zero, r1"):
        parse("", style="zero")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{4}", "4"),
        (r"\boxed{3} or \boxed{ 4 }", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"\boxed{4 and \boxed{5}", "5"),
        (r"}} \boxed{4}", "4"),
        (r"{\boxed{4} ", "4"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{}", ""),
        (r"\boxed 4", "4"),
        (r"\boxed{4", None),
        ("4", None),
    ],
)
def test_boxed(text, expected):
    assert (boxes(text) or [None])[-1] == expected


def test_final_answer_takes_the_box_inside_the_answer_only():
    assert final_answer(r"<think>\boxed{3}</think><answer>It is \boxed{4}.</answer>") == "4"
    assert final_answer(r"<think>\boxed{3}</think><answer>4</answer>") == "4"
    assert final_answer(r"<think>\boxed{3}</think>") is None
    assert final_answer(r"<think>\boxed{3}</think>So \boxed{4}.", style="r1") == "4"
    assert final_answer("<think>a</think> 4", style="r1") == "4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{3} and \boxed{ 4 }", "3, 4"),
        (r"$\boxed{3}$, $\boxed{4}$ \text{ or } \boxed{5}", "3, 4, 5"),
        (r"\boxed{3}. \boxed{4}", "4"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{}", ""),
        ("4", None),
    ],
)
def test_adjoining_boxes_are_one_answer(text, expected):
    assert boxed_answer(text) == expected
    assert final_answer(f"<answer>{text}</answer>") == (text if expected is None else expected)
    assert final_answer(f"<think>a</think> {text}", answer="boxed") == expected
    assert final_answer(f"a</think>{text}", style="r1") == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("所以答案是24。", "24"), ("答案为 $\\sqrt{7}$。", "$\\sqrt{7}$"), ("答案不是24。", None), ("如果答案是24，则矛盾。", None),
     ("错误答案是24。", None),
     ("答案是不是24？", None), ("So the final answer is $5$. I hope it is correct.", "5"), ("I doubt the final answer is $5$.", None),
     ("One is counted twice. **Answer: 5**", "5"), ("(1) $\\boxed{4}$\n(2) $\\boxed{9}$", "(1) 4, (2) 9"),
     ("(1) $x=\\boxed{4}$; (2) \\boxed{4}", "(1) 4, (2) 4"), ("(2) is open. \\boxed{4}", "4")],
)  # fmt: skip
def test_marks_of_an_answer(text, expected):
    assert marked_answer(text) == expected


def test_nothing_is_cut_off_unless_a_reason_says_so():
    assert is_cut_off(None, 2) == [False, False]
    assert is_cut_off(["stop", "length", "eos"], 3) == [False, True, False]


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("a </think> b ", "", "b"),
        ("<think>a</think>b</think>c", "<think>", "c"),
        (" b ", "2+2? ", "b"),
        ("a", "2+2? <think>\n", None),
        ("b <think>a", "", None),
        ("a</think> b <think>c", "<think>", None),
        ("a</think>", "<think>", ""),
    ],
)
def test_the_summary_is_what_follows_the_thought(text, prompt, expected):
    assert summary_of(text, prompt=prompt) == expected


ANSWER_CASES = [  # text, style, then what each of tags, boxed, tags_or_boxed and summary finds
    (r"<think>\boxed{1}</think><answer>\boxed{2}</answer> \boxed{3}", "r1_zero", "2", "3", "2", "2"),
    (r"<think>\boxed{1}</think> so \boxed{2}", "r1_zero", None, "2", "2", "2"),
    (r"<think>a</think> so 2", "r1_zero", None, None, None, "so 2"),
    (r"so \boxed{2}", "r1_zero", None, "2", "2", "2"),
    (r"<answer>2</answer> <think>\boxed{1}", "r1_zero", "2", "1", "2", "2"),
    ("<think>perhaps <answer>1</answer> no</think> 2", "r1_zero", None, None, None, "2"),
    ("<think>perhaps <answer>1</answer></think> <answer>2</answer>", "r1_zero", "2", None, "2", "2"),
    ("a <answer>1</answer></think><answer> 2 </answer>", "r1", "2", None, "2", "2"),
    (r"\boxed{1}</think>\boxed{2} <answer></answer>", "r1", None, "2", "2", "2"),
    (r"<answer>1</answer></think> so \boxed{2", "r1", None, None, None, r"so \boxed{2"),
    (r"a</think>b</think>\boxed{2}", "r1", None, "2", "2", "2"),
    (r"<think>a <answer>1</answer> \boxed{1}", "r1", None, None, None, None),
    ("a</think> \n", "r1", None, None, None, None),
]


@pytest.mark.parametrize(("text", "style", "tags", "box", "either", "summary"), ANSWER_CASES)
def test_ways_to_find_the_answer(text, style, tags, box, either, summary):
    found = [final_answer(text, style=style, answer=answer) for answer in ("tags", "boxed", "tags_or_boxed", "summary")]
    assert found == [tags, box, either, summary]


def test_unknown_ways_are_named():
    with pytest.raises(ValueError, match="answer 'box': must be one of tags, boxed, tags_or_boxed, summary"):
        final_answer("", answer="box")
    with pytest.raises(ValueError, match="style 'zero'"):
        final_answer("", style="zero")


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        r"\boxed{",
        "{",
        "}",
        "\\",
        "<answer></think>",
        " ",
        "答案是 ",
        "**answer:",
    ],
)
def test_no_text_takes_long(piece):
    gc.freeze()  # in a long run of tests it would be the collector's time, over all that the others left
    start = time.thread_time()
    for style in ("r1_zero", "r1"):
        parse("<think>" + piece * 20_000, style=style)
        final_answer("<think>" + piece * 20_000, style=style, answer="summary")
    boxes(r"\boxed{" + piece * 20_000)
    marked_answer("答案是a" + piece * 20_000 + "b")
    seconds = time.thread_time() - start
    gc.unfreeze()
    assert seconds < 1.0
