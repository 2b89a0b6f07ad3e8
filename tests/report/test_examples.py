from r1jax.report.examples import examples, pair_up
from r1jax.workdir.read import read_run
from tests.report.synthetic import completion_rows, make_rl_stage, write_lines


def row(kind, prompt, text="t"):
    return {"problem": {"task": kind}, "prompt": prompt, "completion": text}


def asked(pairs):
    return [(first[0]["prompt"], last[0]["prompt"]) for first, last in pairs]


def test_same_problems_are_paired_and_kinds_take_turns():
    first = [row("a", "1"), row("a", "2"), row("b", "3"), row("a", "4")]
    last = [row("b", "3"), row("a", "2"), row("a", "1"), row("a", "5")]
    assert asked(pair_up(first, last, limit=2)) == [("1", "1"), ("3", "3")]
    assert asked(pair_up(first, last, limit=9)) == [("1", "1"), ("3", "3"), ("2", "2")]


def test_other_problems_are_paired_by_kind():
    first = [row("a", "1"), row("b", "2"), row("c", "3")]
    last = [row("b", "8"), row("a", "9")]
    assert asked(pair_up(first, last, limit=9)) == [("1", "9"), ("2", "8")]


def test_samples_of_a_problem_stay_together():
    rows = completion_rows(1, "heldout", late=False)
    pairs = pair_up(rows, rows, limit=9)
    assert [len(group) for group, _ in pairs] == [2, 2, 2, 2]


def test_page_shows_scores_and_reflection(tmp_path):
    text = examples(read_run(make_rl_stage(tmp_path / "rl", updates=20)).stages[0])
    assert "Held-out problems: update 1 and update 20" in text
    assert "Training problems: update 1 and update 20" in text
    assert "0 of 2 samples right" in text and "2 of 2 samples right" in text
    assert "reward 2 (accuracy 1, format 1)" in text and "advantage 0.700" in text
    assert "<mark>Wait</mark>" in text and "Most reflection words, update 20" in text
    assert text.count("8 + 64 = ?") >= 2


def test_what_failed_or_was_dropped_is_said(tmp_path):
    stage = make_rl_stage(tmp_path / "rl", updates=3)
    rows = completion_rows(3, "train", late=True)
    rows[0] |= {"errors": {"accuracy": "TimeoutError: 5 s"}, "reward": None, "dropped": True}
    write_lines(stage / "completions" / "update_000003.jsonl", rows)
    text = examples(read_run(stage).stages[0])
    assert "no verdict of accuracy" in text and "not trained on" in text and "TimeoutError" not in text


def test_a_problem_without_an_answer_shows_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    rows = [{"problem": {"task": "t", "answer": answer}, "prompt": "?", "completion": "x"} for answer in (None, 7)]
    write_lines(tmp_path / "completions" / "heldout_000001.jsonl", rows)
    text = examples(read_run(tmp_path).stages[0])
    assert '<p class="prompt">t: ?</p>' in text and '<p class="prompt">t: ? <b>= 7</b></p>' in text


def test_hostile_rows_are_shown_or_left_out(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    hostile = "<script>alert(1)</script></pre><img src=x onerror=y>\x00\ud800\u202e" + "<" * 5000
    rows = [
        {"problem": {"task": hostile, "answer": hostile}, "prompt": hostile, "completion": hostile, "reward": hostile}
        | {"rewards": {hostile: None}, "advantage": hostile, "num_tokens": hostile, "correct": hostile},
        {"problem": {}, "completion": "", "correct": True, "rewards": [1], "reward": 10**400},
        {"problem": {"task": ["x"]}, "prompt": 5, "completion": "fine", "reward": 1.0, "correct": 0.5}
        | {"stop_reason": "length"},
        {"problem": None, "completion": "no problem"},
        {"completion": None},
        {},
    ]
    write_lines(tmp_path / "completions" / "update_000003.jsonl", rows)
    (tmp_path / "completions" / "heldout_000001.jsonl").write_text("")
    text = examples(read_run(tmp_path).stages[0])
    assert "<script" not in text and "<img" not in text and text.count("</pre>") == text.count("<pre>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "characters left out" in text
    assert "cut off" in text and "(empty)" in text
    text.encode("utf-8")
