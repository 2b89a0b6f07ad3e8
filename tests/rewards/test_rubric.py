import asyncio
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from r1jax.rewards import calls
from r1jax.rewards.accuracy import accuracy_reward
from r1jax.rewards.calls import TrainerState, make_entry
from r1jax.rewards.rubric import Rubric, Scores
from r1jax.specs.functions import load_function
from r1jax.specs.reader import SpecError, read
from r1jax.specs.rewards import AnyReward
from r1jax.tasks.problem import Problem

PROMPTS, COMPLETIONS = ["p", "q", "r"], ["a", "bb", "ccc"]


def length_reward(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def some_reward(prompts, completions, **columns):
    return [1.0, None, 0.5]


waiting = {"now": 0, "most": 0}
"""Calls of the slow rewards that are under way, and the most that ever were."""


async def wait():
    waiting["now"] += 1
    waiting["most"] = max(waiting.values())
    await asyncio.sleep(0.2)
    waiting["now"] -= 1


async def slow_reward(prompts, completions, **columns):
    await wait()
    return [1, 2, 3]


async def other_slow_reward(prompts, completions, **columns):
    await wait()
    raise TimeoutError("judge is away")


def raising_reward(prompts, completions, **columns):
    return [1.0 / len(text[3:]) for text in completions]


def rubric_of(*rewards):
    """Of functions, or of dicts with the arguments of ``make_entry``."""
    return Rubric([make_entry(**reward) if isinstance(reward, dict) else make_entry(reward) for reward in rewards])


def score(*rewards, columns=None):
    return rubric_of(*rewards).score(PROMPTS, COMPLETIONS, columns or {})


def appending_reward(completions, animals, **columns):
    for one in animals:
        one["names"].append("cow")
    return [float(len(one["names"])) for one in animals]


def inner_appending_reward(completions, pairs):
    for pair in pairs:
        pair[0].append(1)
        pair.append([])
    return [float(len(pair)) for pair in pairs]


def counting_reward(completions, animals, **columns):
    return [float(len(one["names"])) for one in animals]


def scaled_reward(completions, scale=1.0, **columns):
    return [scale for _ in completions]


def exiting_reward(completions):
    raise SystemExit("enough")


def several_lines_reward(completions):
    raise RuntimeError("line 1\n  line 2")


async def exiting_async_reward(completions):
    raise SystemExit("enough")


def test_what_a_reward_changes_no_other_sees():
    columns = {"animals": [{"names": ["cat"]}, {"names": []}, {"names": []}]}
    scores = score(appending_reward, counting_reward, columns=columns)
    np.testing.assert_array_equal(scores.by_name["appending_reward"], [2.0, 1.0, 1.0])
    np.testing.assert_array_equal(scores.by_name["counting_reward"], [1.0, 0.0, 0.0])
    assert columns == {"animals": [{"names": ["cat"]}, {"names": []}, {"names": []}]}
    columns = {"pairs": [[[1]], [[2]], [[3]]]}
    np.testing.assert_array_equal(score(inner_appending_reward, columns=columns).total, [2.0, 2.0, 2.0])
    assert columns == {"pairs": [[[1]], [[2]], [[3]]]}


def test_an_option_stands_before_a_column_of_its_name():
    columns = {"scale": [7.0, 8.0, 9.0]}
    scores = score({"function": scaled_reward, "options": {"scale": 3.0}}, columns=columns)
    np.testing.assert_array_equal(scores.total, [3.0, 3.0, 3.0])


def test_a_reward_that_exits_has_failed_and_its_message_is_one_line():
    scores = score(exiting_reward, exiting_async_reward, several_lines_reward)
    assert scores.errors == {"exiting_reward": 3, "exiting_async_reward": 3, "several_lines_reward": 3}
    assert scores.messages[0] == {
        "exiting_reward": "SystemExit: enough",
        "exiting_async_reward": "SystemExit: enough",
        "several_lines_reward": "RuntimeError: line 1 line 2",
    }


def test_weights_none_and_log_only():
    scores = score(
        {"function": length_reward, "weight": 2.0},
        some_reward,
        {"function": lambda prompts, completions, **columns: [100.0] * 3, "weight": 0.0, "name": "logged"},
    )
    np.testing.assert_array_equal(scores.total, [3.0, 4.0, 6.5])
    np.testing.assert_array_equal(scores.by_name["length_reward"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(scores.by_name["some_reward"], [1.0, math.nan, 0.5])
    np.testing.assert_array_equal(scores.by_name["logged"], [100.0] * 3)
    assert scores.errors == scores.timeouts == {"length_reward": 0, "some_reward": 0, "logged": 0}
    assert scores.messages == [{}, {}, {}]


def test_where_no_reward_of_a_weight_applies_there_is_no_total():
    scores = score(
        {"function": lambda prompts, completions, **columns: [None, 2.0, None], "name": "f"},
        {"function": length_reward, "weight": 0.0},
    )
    np.testing.assert_array_equal(scores.total, [math.nan, 2.0, math.nan])
    np.testing.assert_array_equal(scores.by_name["f"], [math.nan, 2.0, math.nan])
    assert scores.errors["f"] == 0


def test_async_functions_run_at_the_same_time_even_inside_a_running_loop():
    rubric = rubric_of(slow_reward, other_slow_reward, length_reward)

    async def notebook():
        return rubric.score(PROMPTS, COMPLETIONS, {})

    waiting["most"] = 0
    scores = asyncio.run(notebook())
    assert waiting == {"now": 0, "most": 2}
    np.testing.assert_array_equal(scores.total, [math.nan] * 3)
    np.testing.assert_array_equal(scores.by_name["slow_reward"], [1.0, 2.0, 3.0])
    assert scores.errors == scores.timeouts == {"slow_reward": 0, "other_slow_reward": 3, "length_reward": 0}
    assert scores.messages == [{"other_slow_reward": "TimeoutError: judge is away"}] * 3
    assert scores.seconds["slow_reward"] > 0.15


def test_a_function_that_raises_is_counted_and_is_no_score():
    scores = score({"function": raising_reward, "weight": 5.0}, length_reward)
    np.testing.assert_array_equal(scores.total, [math.nan] * 3)
    np.testing.assert_array_equal(scores.by_name["raising_reward"], [math.nan] * 3)
    np.testing.assert_array_equal(scores.by_name["length_reward"], [1.0, 2.0, 3.0])
    assert scores.failed["raising_reward"].all() and scores.errors["raising_reward"] == 3
    assert scores.timeouts["raising_reward"] == 0
    assert scores.messages == [{"raising_reward": "ZeroDivisionError: float division by zero"}] * 3


def test_a_failure_of_a_reward_that_is_only_logged_leaves_the_total():
    scores = score({"function": raising_reward, "weight": 0.0}, length_reward)
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 3.0])
    assert scores.errors["raising_reward"] == 3


def test_a_failure_on_one_completion_spares_the_others():
    failing = {"function": lambda prompts, completions, **columns: [1.0, OSError("gone"), math.inf], "name": "f"}
    scores = score(failing)
    np.testing.assert_array_equal(scores.total, [1.0, math.nan, math.nan])
    np.testing.assert_array_equal(scores.failed["f"], [False, True, True])
    assert scores.errors == {"f": 2} and scores.timeouts == {"f": 0}
    assert scores.messages == [{}, {"f": "OSError: gone"}, {"f": "score inf is no finite number, and not None"}]


def test_a_timeout_is_an_error_and_a_timeout():
    scores = score({"function": lambda completions: [TimeoutError("5 s"), 1.0, ValueError("x")], "name": "f"})
    assert scores.errors == {"f": 2} and scores.timeouts == {"f": 1}
    np.testing.assert_array_equal(scores.outcomes["f"].timed_out, [True, False, False])


class Counting:
    """A reward that keeps what it was asked to score: the length of the text, and of the ids if it takes them."""

    def __init__(self):
        self.asked = []

    def text(self, prompts, completions):
        self.asked += zip(prompts, completions, strict=True)
        return [float(len(text)) for text in completions]

    def ids(self, completions, completion_ids):
        self.asked += completion_ids
        return [float(len(ids)) for ids in completion_ids]

    def everything(self, completions, **columns):
        self.asked += columns["stop_reason"]
        return [float(reason == "stop") for reason in columns["stop_reason"]]

    async def slowly(self, completions):
        self.asked += completions
        return [None if text == "a" else OSError(text) for text in completions]


SAME = ["a", "bb", "a", "a"]
SAME_COLUMNS = {
    "completion_ids": [[1], [2, 2], [1, 3], [1]],
    "stop_reason": ["stop", "stop", "stop", "length"],
    "extra": [{"n": 1}, {"n": 2}] * 2,  # two objects, not hashable
}


def scored_once(function, prompts=("p",) * 4, **spec):
    counting = Counting()
    rubric = rubric_of({"function": getattr(counting, function), "name": "f", "cache": True, **spec})
    return rubric.score(list(prompts), SAME, SAME_COLUMNS), counting.asked


def test_equal_completions_are_scored_once():
    scores, asked = scored_once("text")
    assert asked == [("p", "a"), ("p", "bb")]
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 1.0, 1.0])


def test_completions_of_other_prompts_are_not_equal():
    _, asked = scored_once("text", prompts=("p", "p", "q", "p"))
    assert asked == [("p", "a"), ("p", "bb"), ("q", "a")]


def test_only_columns_that_a_function_takes_tell_completions_apart():
    scores, asked = scored_once("ids")
    assert asked == [[1], [2, 2], [1, 3]]
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 2.0, 1.0])
    scores, asked = scored_once("everything")  # takes them all
    assert asked == ["stop", "stop", "stop", "length"]
    np.testing.assert_array_equal(scores.total, [1.0, 1.0, 1.0, 0.0])


def test_failures_and_none_are_shared_by_equal_completions():
    scores, asked = scored_once("slowly")
    assert asked == ["a", "bb"]
    np.testing.assert_array_equal(scores.failed["f"], [False, True, False, False])
    assert np.isnan(scores.by_name["f"]).all() and scores.errors == {"f": 1}


def test_a_function_sees_every_completion_unless_it_is_of_this_package():
    for cache in (False, None):
        _, asked = scored_once("text", cache=cache)
        assert asked == [("p", text) for text in SAME]
    assert make_entry(accuracy_reward).cache and make_entry("r1jax.rewards.format:r1").cache
    assert not make_entry("r1jax.rewards.format:r1", cache=False).cache


def test_a_reward_for_the_majority_sees_how_many_agree():
    def majority(completions):
        return [completions.count(text) / len(completions) for text in completions]

    np.testing.assert_array_equal(rubric_of(majority).score(["p"] * 4, SAME, {}).total, [0.75, 0.25, 0.75, 0.75])


def test_a_reward_for_some_tasks_does_not_apply_to_others_and_needs_no_columns_there():
    asked = []

    def tests_passed(completions, tests):
        asked.extend(tests)
        return [1.0] * len(completions)

    rubric = rubric_of({"function": tests_passed, "tasks": ["code"]}, {"function": length_reward, "weight": 0.5})
    scores = rubric.score(PROMPTS, COMPLETIONS, {"task_name": ["math", "code", "math"], "tests": ["-", "t", "-"]})
    assert asked == ["t"]
    np.testing.assert_array_equal(scores.by_name["tests_passed"], [math.nan, 1.0, math.nan])
    np.testing.assert_array_equal(scores.total, [0.5, 2.0, 1.5])
    only_math = rubric.score(PROMPTS, COMPLETIONS, {"task_name": ["math"] * 3})
    np.testing.assert_array_equal(only_math.total, [0.5, 1.0, 1.5])
    rubric.check_columns(["task_name"], task_name="math")
    with pytest.raises(ValueError, match="'tests_passed' needs tests; there are .*task_name"):
        rubric.check_columns(["task_name"], task_name="code")
    assert (rubric.required("code"), rubric.required("math")) == ({"tests"}, frozenset())
    rubric.check_tasks(["math", "code"])
    with pytest.raises(ValueError, match="'tests_passed': there is no task 'code'; there are math"):
        rubric.check_tasks(["math"])
    with pytest.raises(ValueError, match="no column 'task_name'"):
        rubric.score(PROMPTS, COMPLETIONS, {})


def test_async_rewards_of_several_batches_run_at_the_same_time():
    rubric = rubric_of(slow_reward)
    waiting["most"] = 0
    finishes = [rubric.start(PROMPTS, COMPLETIONS, {}) for _ in range(8)]
    for finish in finishes:
        np.testing.assert_array_equal(finish().total, [1.0, 2.0, 3.0])
    assert waiting["most"] > 1


class Odd(float):
    def __float__(self):
        raise ValueError("no float")

    def __repr__(self):
        raise ValueError("no text")


class Odd2(list):
    def __iter__(self):
        raise RuntimeError("no list")


@pytest.mark.parametrize(
    ("result", "message", "num_failed"),
    [
        ([1.0, 2.0], "ValueError: it returned 2 scores for 3 completions", 3),
        (1.0, "TypeError: it returned a float, not a list of 3 scores", 3),
        ("abc", "TypeError: it returned a str", 3),
        (None, "TypeError: it returned a NoneType", 3),
        (iter([1.0] * 3), "TypeError: it returned a list_iterator", 3),
        ([1.0, "2", 3.0], "score '2' is no finite number", 1),
        ([1.0, 10**400, 3.0], "score 1000", 1),
        ([1.0, 10**5000, 3.0], "score of type int", 1),
        ([1.0, Odd(2.0), 3.0], "score of type Odd", 1),
        (np.array(1.0), "TypeError: iteration over a 0-d array", 3),
        (b"abc", "TypeError: it returned a bytes", 3),
        (Odd2([1.0, 2.0, 3.0]), "RuntimeError: no list", 3),
        ([1.0, 1j, 3.0], "score 1j is no finite number", 1),
        ([1.0, np.complex128(1j), 3.0], "score np.complex128(1j) is no", 1),
        ([1.0, asyncio.CancelledError("away"), 3.0], "asyncio.exceptions.CancelledError: away", 1),
        ([1.0, SystemExit(3), 3.0], "SystemExit: 3", 1),
    ],
)
def test_a_wrong_result_is_an_error_of_what_it_is_wrong_for(result, message, num_failed):
    scores = score({"function": lambda prompts, completions, **columns: result, "name": "f"}, length_reward)
    assert scores.errors == {"f": num_failed, "length_reward": 0} and len(scores.messages[1]["f"]) < 200
    assert scores.messages[1]["f"].startswith(message)
    assert np.isnan(scores.total).sum() == num_failed


class Panic(BaseException):
    """As an extension module in another language raises it."""


@pytest.mark.parametrize(
    "error", [Panic, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit, MemoryError, RecursionError]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_a_call_raises_is_an_error_of_its_completions(error, is_async):
    def plain(completions):
        raise error("enough")

    async def later(completions):
        raise error("enough")

    scores = score({"function": later if is_async else plain, "name": "f"})
    assert scores.errors == {"f": 3} and scores.messages[0]["f"].endswith("enough")


def test_a_sum_that_is_not_finite_is_no_reward():
    scores = score({"function": lambda completions: [1e-280, 1e300, -1e300], "name": "f", "weight": 1e300})
    np.testing.assert_array_equal(scores.total, [1e20, math.nan, math.nan])
    assert scores.errors == {"f": 2} and scores.messages[1] == {"f": "score 1e+300 times weight 1e+300 is beyond 1e+30"}
    largest = {"function": lambda completions: [1e308] * 3, "name": "f"}
    assert score(largest, largest | {"name": "g"}).errors == {"f": 3, "g": 3}  # either by itself, not only their sum


def test_nothing_that_a_reward_gets_is_shared():
    """Neither with another row of the group, nor with the problem, nor with the next phase."""
    problem = Problem(({"role": "user", "content": "?"},), "1", {"task": "t", "left": [4, 3, 2, 1]})
    columns = {"left": [problem.columns["left"]] * 4, "problem": [problem] * 4, "pair": [([1],)] * 4}
    columns["array"] = [np.zeros(1)] * 4

    def popping(completions, left, problem, pair, array):
        for one in array:
            one += 1
        return [
            float(a.pop(0) + b.columns["left"].pop(0) + len(c[0])) + d[0]
            for a, b, c, d in zip(left, problem, pair, array, strict=True)
            if c[0].append(0) is None
        ]

    for _ in range(2):
        scores = rubric_of(popping).score(["p"] * 4, ["a"] * 4, columns)
        np.testing.assert_array_equal(scores.total, [4 + 4 + 2 + 1] * 4)
    assert problem.columns["left"] == [4, 3, 2, 1] and columns["pair"][0] == ([1],)


@pytest.mark.parametrize("kind", ["plain", "async", "async that blocks"])
def test_a_call_that_hangs_is_a_timeout_and_the_next_reward_is_called(kind, monkeypatch):
    monkeypatch.setattr(calls, "_GRACE", 0.1)
    gate = threading.Event()

    def plain(completions):
        gate.wait(60)
        return [1.0] * 3

    async def waits(completions):
        await asyncio.sleep(60)

    async def blocks(completions):
        gate.wait(60)

    function = {"plain": plain, "async": waits, "async that blocks": blocks}[kind]
    begin = time.monotonic()
    scores = score({"function": function, "name": "f", "timeout": 0.2, "weight": 0.0}, slow_reward, length_reward)
    gate.set()
    assert time.monotonic() - begin < 30
    assert scores.errors == {"f": 3, "slow_reward": 0, "length_reward": 0} and scores.timeouts["f"] == 3
    assert scores.messages[0] == {"f": "TimeoutError: it took longer than timeout=0.2 s"}
    np.testing.assert_array_equal(scores.total, [2.0, 4.0, 6.0])
    np.testing.assert_array_equal(score(slow_reward).total, [1.0, 2.0, 3.0])


def test_a_reward_gets_the_number_of_updates_and_may_log():
    def warms_up(completions, trainer_state, log_extra, log_metric):
        log_extra("length", [len(text) for text in completions])
        log_metric("shortest", min(map(len, completions)))
        return [trainer_state.global_step / trainer_state.max_steps] * len(completions)

    rubric = rubric_of(warms_up, {"function": length_reward, "weight": 0.0})
    assert rubric.required("t") == frozenset()
    scores = rubric.score(PROMPTS, COMPLETIONS, {}, TrainerState(global_step=5, max_steps=20))
    np.testing.assert_array_equal(scores.total, [0.25] * 3)
    assert scores.extra == [{"warms_up/length": length} for length in (1, 2, 3)]
    assert scores.metrics == {"warms_up/shortest": 1.0}
    sent = Scores.from_json(json.loads(json.dumps(scores.to_json())))
    assert sent.extra == scores.extra and sent.metrics == scores.metrics


@pytest.mark.parametrize("name", ["mean", "std", "errors", "timeouts", "seconds"])
def test_a_figure_that_every_reward_has_cannot_be_logged(name):
    def logs(completions, log_metric):
        log_metric(name, 1.0)
        return [1.0] * len(completions)

    scores = score(logs)
    assert scores.errors == {"logs": 3} and f"{name!r} is taken" in scores.messages[0]["logs"]


class Pool:
    """Keeps what belongs to an event loop."""

    def __init__(self):
        self.semaphore = asyncio.Semaphore(1)

    async def __call__(self, completions):
        async def one():
            async with self.semaphore:
                await asyncio.sleep(0.001)
            return 1.0

        return await asyncio.gather(*(one() for _ in completions))


def test_a_reward_that_blocks_its_loop_leaves_the_loops_of_others(monkeypatch):
    monkeypatch.setattr(calls, "_GRACE", 0.1)
    gate = threading.Event()

    async def blocks(completions):
        gate.wait(60)

    rubric = rubric_of(
        {"function": Pool(), "name": "pool"}, {"function": blocks, "name": "b", "timeout": 0.1, "weight": 0.0}
    )
    for _ in range(2):
        assert rubric.score(PROMPTS, COMPLETIONS, {}).errors == {"pool": 0, "b": 3}
    gate.set()


@pytest.mark.parametrize("timeout", [1e10, 1e300, math.inf])
def test_a_time_limit_may_be_as_long_as_one_likes(timeout):
    async def later(completions):
        return [1.0] * len(completions)

    for function in (later, lambda completions: [1.0] * len(completions)):
        assert score({"function": function, "name": "f", "timeout": timeout}).errors == {"f": 0}


@pytest.mark.parametrize("values", [[1], [object()] * 3])
def test_a_column_that_cannot_be_logged_is_an_error_of_the_call(values):
    def logs(completions, log_extra):
        log_extra("x", values)
        return [1.0] * len(completions)

    assert score(logs).errors == {"logs": 3}


class Novelty:
    """A reward with state: how many texts it has seen before these."""

    def __init__(self, scale: float = 1.0):
        self.scale, self.seen = scale, 0

    def __call__(self, completions):
        self.seen += len(completions)
        return [self.scale * (self.seen - len(completions))] * len(completions)


class Fragile:
    def __init__(self):
        raise OSError("no disk")


def test_a_reward_may_be_an_object_with_state():
    rewards = [{"function": f"{__name__}:Novelty", "options": {"scale": 2.0}}, {"function": Novelty(), "name": "own"}]
    rubric = rubric_of(*rewards)
    assert rubric.names == ["Novelty", "own"]
    for want in ([0.0] * 3, [9.0] * 3):
        np.testing.assert_array_equal(rubric.score(PROMPTS, COMPLETIONS, {}).total, want)
    with pytest.raises(ValueError, match=r"options.skale: Novelty has no such parameter.*scale"):
        rubric_of({"function": f"{__name__}:Novelty", "options": {"skale": 2.0}})
    with pytest.raises(ValueError, match="test_rubric:Fragile' cannot be made: OSError: no disk"):
        rubric_of({"function": f"{__name__}:Fragile"})


def test_arrays_are_scores_too():
    scores = score({"function": lambda completions: np.array([1, 2, 3]), "name": "f"})
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 3.0])


def test_columns_are_passed_by_name():
    columns = {"answer": ["x", "y", "z"], "task": [None] * 3}

    def by_name(completions, answer):
        return [float(text + right == "ax") for text, right in zip(completions, answer, strict=True)]

    def everything(prompts, completions, **rest):
        return [float(len(rest)) for _ in completions]

    scores = score(
        by_name, everything, columns=columns
    )  # those of the call too: TRL's trainer_state, log_extra, log_metric
    np.testing.assert_array_equal(scores.total, [6.0, 5.0, 5.0])
    with pytest.raises(ValueError, match="'by_name' needs answer; there are completions, prompts"):
        score(by_name)
    with pytest.raises(ValueError, match="column 'answer' has 2 entries for 3 completions"):
        score(everything, columns={"answer": ["x", "y"]})


def test_a_column_of_the_data_does_not_stand_in_for_the_completions():
    scores = score(length_reward, columns={"completions": ["", "", ""], "prompts": [1, 2, 3]})
    np.testing.assert_array_equal(scores.total, [1.0, 2.0, 3.0])


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
    rewards = [read(AnyReward, {"function": "r1jax.rewards.format:r1"}), read(AnyReward, {"function": path})]
    with pytest.raises(ValueError) as error:
        Rubric(rewards)
    assert message in str(error.value) and str(error.value).startswith(f"rewards[1].function={path!r}")


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([{}, {}], "two are named 'r1'"),
        ([{"weight": math.nan}], r"\[0\].weight=nan must be finite"),
        ([{"wieght": 1.0}], "wieght"),
        ([{"weight": None}], r"\[0\].weight=None must be a number"),
        ([{"timeout": 0}], r"\[0\].timeout=0 must be more than 0"),
        ([{"weight": "one"}], r"\[0\].weight='one' must be a number"),
        ([{"tasks": "math"}], r"\[0\].tasks='math' must be a list"),
        ([{"from_update": -1}], r"\[0\].from_update=-1 must be at least 0"),
        ([{"function": "r1jax.rewards.repetition:ngrams", "options": {"sice": 2}}], r"\[0\].options.sice: .*no such"),
    ],
)
def test_bad_specs_are_errors_that_name_the_key(rewards, message):
    rewards = [{"function": "r1jax.rewards.format:r1"} | reward for reward in rewards]
    with pytest.raises((SpecError, ValueError), match=message):
        Rubric(read(tuple[AnyReward, ...], rewards, "rewards"))


def test_a_spec_and_an_entry_give_the_same():
    spec = {"function": "r1jax.rewards.repetition:ngrams", "name": "loops", "weight": 0.5, "tasks": ["code"]}
    spec |= {"from_update": 2, "cache": False, "options": {"size": 1}}
    rubrics = [Rubric([read(AnyReward, spec)]), rubric_of(spec)]
    columns = {"completion_ids": [[1, 1], [1, 2], [3]], "task_name": ["code", "code", "math"]}
    for rubric in rubrics:
        assert rubric.weights == {"loops": 0.5} and rubric.at(2).names == ["loops"]
        with pytest.raises(ValueError, match="the first does from 2"):
            rubric.at(1)
        np.testing.assert_array_equal(rubric.score(PROMPTS, COMPLETIONS, columns).total, [-0.25, 0.0, math.nan])


def test_built_in_rewards_load():
    for path in (
        "r1jax.rewards.accuracy:accuracy_reward",
        "r1jax.rewards.accuracy:last_number_reward",
        "r1jax.rewards.format:r1_zero",
        "r1jax.rewards.reflection:reflection_reward",
        "r1jax.rewards.language:chinese_share_reward",
    ):
        assert load_function(path).__name__ == path.split(":")[1]


def test_rewards_join_at_their_update():
    rubric = rubric_of(length_reward, {"function": some_reward, "weight": 2.0, "from_update": 8, "tasks": ["code"]})
    before, after = rubric.at(7), rubric.at(8)
    assert before.names == ["length_reward"] and after.names == rubric.names
    assert after.weights == rubric.weights and after.at(0).names == ["length_reward"]
    assert after.applies_to("code") == ["length_reward", "some_reward"]
    assert after.applies_to("math") == before.applies_to("code") == ["length_reward"]
    with pytest.raises(ValueError, match="none applies at update 3; the first does from 8"):
        rubric_of({"function": length_reward, "from_update": 8}).at(3)


def test_a_deferred_reward_is_called_by_the_thread_that_waits_and_counts_like_any_other():
    threads = []

    def model(prompts, completions):
        threads.append(threading.current_thread())
        return [float(len(text)) for text in completions]

    def broken(prompts, completions):
        raise RuntimeError("out of memory")

    specs = [{"function": model, "deferred": True}, {"function": broken, "deferred": True, "weight": 0.0}]
    with ThreadPoolExecutor(1) as pool:
        finish = pool.submit(rubric_of(*specs).start, ["", ""], ["a", "bb"], {}).result()
    assert threads == []
    scores = finish()
    assert threads == [threading.current_thread()]
    assert scores.total.tolist() == [1.0, 2.0] and scores.errors == {"model": 0, "broken": 2}


def test_scores_survive_json_and_parts_join_to_the_whole():
    deferred = {"function": lambda completions: [1.0, OSError("gone"), None], "name": "model", "deferred": True}
    rubric = rubric_of(
        {"function": raising_reward, "weight": 0.0}, deferred, length_reward, {"function": some_reward, "weight": 2.0}
    )
    whole = rubric.score(PROMPTS, COMPLETIONS, {})
    parts = [rubric.part(deferred=is_deferred).score(PROMPTS, COMPLETIONS, {}) for is_deferred in (False, True)]
    assert [list(part.by_name) for part in parts] == [["raising_reward", "length_reward", "some_reward"], ["model"]]
    sent = [Scores.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    for joined in (rubric.join(parts), rubric.join(sent)):
        np.testing.assert_array_equal(joined.total, whole.total)
        assert joined.messages == whole.messages
        assert list(joined.outcomes) == list(whole.outcomes)
        for name, theirs in whole.outcomes.items():
            ours = joined.outcomes[name]
            for key in ("values", "failed", "timed_out"):
                np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key))
                assert getattr(ours, key).dtype == getattr(theirs, key).dtype
            assert ours.messages == theirs.messages
    np.testing.assert_array_equal(sent[0].total, parts[0].total)


def test_without_rewards_there_is_no_total():
    scores = rubric_of().score(PROMPTS, COMPLETIONS, {})
    np.testing.assert_array_equal(scores.total, [math.nan] * 3)
    assert scores.messages == [{}, {}, {}] and scores.errors == {}
