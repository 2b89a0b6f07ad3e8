import asyncio
import math
import time

import numpy as np
import pytest

from r1jax.rewards.rubric import Rubric, load_function

PROMPTS, COMPLETIONS = ["p", "q", "r"], ["a", "bb", "ccc"]


def length_reward(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def some_reward(prompts, completions, **columns):
    return [1.0, None, 0.5]


async def slow_reward(prompts, completions, **columns):
    await asyncio.sleep(0.2)
    return [1, 2, 3]


async def other_slow_reward(prompts, completions, **columns):
    await asyncio.sleep(0.2)
    raise TimeoutError("judge is away")


def raising_reward(prompts, completions, **columns):
    return [1.0 / len(text[3:]) for text in completions]


def score(*specs, columns=None):
    return Rubric(specs).score(PROMPTS, COMPLETIONS, columns or {})


def test_weights_none_and_log_only():
    scores = score(
        {"function": length_reward, "weight": 2.0},
        {"function": some_reward},
        {"function": lambda prompts, completions, **columns: [100.0] * 3, "weight": 0.0, "name": "logged"},
    )
    np.testing.assert_array_equal(scores.total, [3.0, 4.0, 6.5])
    np.testing.assert_array_equal(scores.by_name["length_reward"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(scores.by_name["some_reward"], [1.0, math.nan, 0.5])
    np.testing.assert_array_equal(scores.by_name["logged"], [100.0] * 3)
    assert scores.errors == {"length_reward": 0, "some_reward": 0, "logged": 0}
    assert scores.failed == scores.messages == {}


def test_no_reward_applies_gives_zero():
    scores = score({"function": lambda prompts, completions, **columns: [None] * 3})
    np.testing.assert_array_equal(scores.total, [0.0] * 3)
    assert np.isnan(scores.by_name["<lambda>"]).all()


def test_async_functions_run_at_the_same_time_even_inside_a_running_loop():
    rubric = Rubric([{"function": slow_reward}, {"function": other_slow_reward}, {"function": length_reward}])

    async def notebook():
        return rubric.score(PROMPTS, COMPLETIONS, {})

    start = time.perf_counter()
    scores = asyncio.run(notebook())
    assert time.perf_counter() - start < 0.39
    np.testing.assert_array_equal(scores.total, [2.0, 4.0, 6.0])
    assert scores.errors == {"slow_reward": 0, "other_slow_reward": 3, "length_reward": 0}
    assert scores.messages == {"other_slow_reward": "TimeoutError: judge is away"}
    assert scores.seconds["slow_reward"] > 0.15 > scores.seconds["length_reward"]


def test_a_function_that_raises_is_counted_and_scores_zero():
    scores = score({"function": raising_reward, "weight": 5.0}, {"function": length_reward})
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(scores.by_name["raising_reward"], [0.0] * 3)
    assert scores.failed["raising_reward"].all() and scores.errors["raising_reward"] == 3
    assert scores.messages == {"raising_reward": "ZeroDivisionError: float division by zero"}


def test_a_failure_on_one_completion_spares_the_others():
    failing = {"function": lambda prompts, completions, **columns: [1.0, OSError("gone"), math.inf], "name": "f"}
    scores = score(failing)
    np.testing.assert_array_equal(scores.total, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(scores.failed["f"], [False, True, True])
    assert scores.errors == {"f": 2} and scores.messages == {"f": "OSError: gone"}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0], "'f' returned 2 scores for 3 completions"),
        (1.0, "'f' returned a float, not a list of 3 scores"),
        ("abc", "'f' returned a str"),
        (None, "'f' returned a NoneType"),
        ([1.0, "2", 3.0], "'f' returned '2' for completion 1"),
    ],
)
def test_a_wrong_result_names_the_function(result, message):
    with pytest.raises(ValueError, match=message):
        score({"function": lambda prompts, completions, **columns: result, "name": "f"})


def test_arrays_are_scores_too():
    scores = score({"function": lambda completions: np.array([1, 2, 3]), "name": "f"})
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 3.0])


def test_columns_are_passed_by_name():
    columns = {"answer": ["x", "y", "z"], "task": [None] * 3}

    def by_name(completions, answer):
        return [float(text + right == "ax") for text, right in zip(completions, answer, strict=True)]

    def everything(prompts, completions, **rest):
        return [float(len(rest)) for _ in completions]

    scores = score({"function": by_name}, {"function": everything}, columns=columns)
    np.testing.assert_array_equal(scores.total, [3.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="'by_name' needs answer; there are prompts, completions"):
        score({"function": by_name})
    with pytest.raises(ValueError, match="column 'answer' has 2 entries for 3 completions"):
        score({"function": everything}, columns={"answer": ["x", "y"]})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("accuracy_reward", "must have the form 'module:function'"),
        ("r1jax.rewards.accuracy:", "must have the form 'module:function'"),
        ("r1jax.rewards.nothing:f", "cannot import module 'r1jax.rewards.nothing': ModuleNotFoundError"),
        ("r1jax.rewards.accuracy:nothing", "module 'r1jax.rewards.accuracy' has no 'nothing'"),
        ("math:pi", "is a float, not a function"),
    ],
)
def test_a_bad_path_is_an_error_at_construction(path, message):
    with pytest.raises(ValueError) as error:
        Rubric([{"function": path}])
    assert message in str(error.value) and path in str(error.value)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "at least one reward"),
        ([{"function": length_reward}, {"function": length_reward}], "two rewards are named 'length_reward'"),
        ([{"function": length_reward, "weight": math.nan}], "'length_reward': weight nan must be finite"),
        ([{"function": length_reward, "wieght": 1.0}], "wieght"),
        ([{"weight": 1.0}], "keys 'function'"),
        ([{"function": 3}], "callable; got 3"),
    ],
)
def test_bad_specs_are_errors_at_construction(specs, message):
    with pytest.raises(ValueError, match=message):
        Rubric(specs)


def test_built_in_rewards_load():
    for path in (
        "r1jax.rewards.accuracy:accuracy_reward",
        "r1jax.rewards.accuracy:last_number_reward",
        "r1jax.rewards.format:format_reward",
        "r1jax.rewards.reflection:reflection_reward",
        "r1jax.rewards.language:chinese_share_reward",
    ):
        assert load_function(path).__name__ == path.split(":")[1]
