from r1jax.rewards.reflection import REFLECTION_WORDS, count_reflections, reflection_reward


def test_the_words_are_the_reports():
    assert list(REFLECTION_WORDS) == [
        "wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check",
    ]  # fmt: skip


def test_whole_words_in_any_case():
    text = "Wait, but BUT. Butter waiting checked checks; check/verify error_1 (wrong)"
    assert count_reflections(text) == {"wait": 1, "but": 2, "check": 1, "verify": 1, "error": 1, "wrong": 1}


def test_chinese_words_count_once_under_their_english_word():
    assert count_reflections("等等,不对。错误!再试。检查:但是wait一下") == {
        "wait": 2, "wrong": 1, "error": 1, "retry": 1, "check": 1, "but": 1,
    }  # fmt: skip
    assert count_reflections("错了") == {"wrong": 1}


def test_reward_counts_each_completion():
    assert reflection_reward(["", ""], ["wait, wait 验证", "fine"], answer=["", ""]) == [3.0, 0.0]
