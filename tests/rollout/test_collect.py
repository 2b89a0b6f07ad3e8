import asyncio
import dataclasses
import json
import signal
import threading

import jax
import numpy as np
import pytest

from r1jax.evals.evaluate import evaluate, samples_of
from r1jax.rewards import code
from r1jax.rewards.accuracy import accuracy_reward
from r1jax.rewards.calls import make_entry
from r1jax.rewards.rubric import Rubric, Scores
from r1jax.rollout.collect import Collector, reward_columns, score_in_background, start_grading
from r1jax.rollout.records import Completion, error_messages
from r1jax.specs.reader import read
from r1jax.specs.tasks import FilesTaskSpec
from r1jax.tasks.grading import grade_answer
from r1jax.tasks.mixture import Mixture, make_task
from r1jax.tasks.problem import GradingError, Problem
from r1jax.text.templates import TEMPLATES

ANSWERS = ["<think>so</think> <answer>4</answer>", "<think>so</think> <answer>5</answer>"]


class Tokenizer:
    """One id a character; 0 ends a text, 1 begins one."""

    eos_id, pad_id, bos_id, adds_bos, stop_ids = 0, 0, None, False, (0,)

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids, *, skip_special_tokens=False):
        return "".join(chr(i) for i in ids)


class Task:
    name = "sums"

    def grade(self, answer, problem):
        if answer == "broken":
            raise GradingError("the verifier is out of order")
        if answer == "gone":
            raise OSError("no disk")
        return float(answer == problem.answer)

    def canonical(self, answer):
        return answer


class Engine:
    """Writes ANSWERS in turn; the last sample of a prompt has no end token."""

    def __init__(self, answers=ANSWERS):
        self.calls, self.answers = [], answers

    def generate(self, params, buffers, prompts, *, num_samples, on_done=lambda *_: None, **settings):
        self.calls.append((prompts, settings))
        groups = [[self._complete(i, i == num_samples - 1) for i in range(num_samples)] for _ in prompts]
        for index, completions in enumerate(groups):
            on_done(index, completions)
        return groups

    def _complete(self, i, is_cut):
        ids = [ord(c) for c in self.answers[i % len(self.answers)]] + [0] * (not is_cut)
        reason = "length" if is_cut else "stop"
        return Completion(np.array(ids, np.int32), np.full(len(ids), -0.5, np.float32), reason)


def has_answer(prompts, completions, answer, stop_reason, **columns):
    return [float(f"<answer>{a}</answer>" in c) for c, a in zip(completions, answer, strict=True)]


def sees_columns(prompts, completions, problem, task, completion_ids, hint=None, **columns):
    assert all(p.messages[-1]["content"] in text for p, text in zip(problem, prompts, strict=True))
    assert [len(ids) for ids in completion_ids] == [37, 37, 36]
    return [None] * len(completions) if hint is None else [0.25 for h in hint if h == "count"]


def make_problem(question, answer, **columns):
    return Problem(({"role": "user", "content": question},), answer, {"task": "sums", **columns})


PROBLEMS = [make_problem("2+2=?", "4"), make_problem("2+3=?", "5", hint="count")]


def make_collector(engine, *, max_prompt_tokens=40, rewards=(has_answer, sees_columns)):
    rubric = Rubric([make_entry(reward) for reward in rewards])
    return Collector(engine, Tokenizer(), Task(), rubric, template="plain", max_prompt_tokens=max_prompt_tokens)


def counts_of(collected, kind):
    """Reward -> how many failures, time-outs or seconds."""
    ends = "rewards/", f"/{kind}"
    return {
        name.removeprefix(ends[0]).removesuffix(ends[1]): count
        for name, count in collected.counts.items()
        if name.endswith(ends[1])
    }


def collect(collector, problems=PROBLEMS, num_samples=3):
    return collector.collect(
        {}, {}, problems, num_samples=num_samples, max_new_tokens=50, temperature=0.7, key=jax.random.key(0),
        policy_version=6,
    )  # fmt: skip


def test_groups_are_scored_in_order():
    engine = Engine()
    collected = collect(make_collector(engine))
    first, second = collected.groups
    assert [group.problem.answer for group in collected.groups] == ["4", "5"]
    assert [r.rewards["has_answer"] for r in first.rollouts] == [1.0, 0.0, 1.0]
    assert [r.rewards["has_answer"] for r in second.rollouts] == [0.0, 1.0, 0.0]
    # A column that only the second problem has reaches the reward there, and only there.
    assert all(np.isnan(r.rewards["sees_columns"]) for r in first.rollouts)
    assert [r.reward for r in first.rollouts] == [1.0, 0.0, 1.0]
    assert [r.reward for r in second.rollouts] == [0.25, 1.25, 0.25]
    # The task's own metric: a truncated response has no answer, whatever its text.
    assert [r.is_correct for r in first.rollouts] == [True, False, False]
    assert [r.answer for r in first.rollouts] == ["4", "5", None]
    assert [r.text for r in first.rollouts] == [ANSWERS[0], ANSWERS[1], ANSWERS[0]]  # without the end token
    assert {r.policy_version for r in first.rollouts} == {6}
    prompts, settings = engine.calls[0]
    np.testing.assert_array_equal(first.rollouts[2].prompt_ids, prompts[0])
    assert settings["stop_ids"] == (0,) and settings["temperature"] == 0.7 and "top_p" not in settings
    assert set(collected.seconds) == {"generate", "rewards"}
    assert counts_of(collected, "errors") == counts_of(collected, "timeouts") == {"has_answer": 0, "sees_columns": 0}
    assert counts_of(collected, "seconds").keys() == {"has_answer", "sees_columns"}
    assert error_messages(collected.groups) == {} and first.rollouts[0].errors == {}


def test_a_prompt_over_the_budget_raises_before_anything_is_generated():
    engine = Engine()
    long = make_problem("1+" * 30 + "1=?", "31")
    with pytest.raises(ValueError, match=r"81 tokens, more than max_prompt_tokens=40: '1\+1"):
        collect(make_collector(engine), [PROBLEMS[0], long])
    assert engine.calls == []
    collector = make_collector(engine)
    assert collector.fits(PROBLEMS[0]) and not collector.fits(long)


def fails(prompts, completions, **columns):
    raise RuntimeError("no network")


def test_a_reward_that_raises_is_counted_and_the_completions_are_kept():
    collected = collect(make_collector(Engine(), rewards=(has_answer, fails)))
    assert counts_of(collected, "errors") == {"has_answer": 0, "fails": 6}
    assert error_messages(collected.groups) == {"fails": "RuntimeError: no network"}
    rollouts = collected.groups[0].rollouts
    assert [r.rewards["has_answer"] for r in rollouts] == [1.0, 0.0, 1.0]
    assert all(np.isnan(r.reward) and np.isnan(r.rewards["fails"]) for r in rollouts)
    assert [r.errors for r in rollouts] == [{"fails": "RuntimeError: no network"}] * 3


def slow_on_some(prompts, completions, answer, **columns):
    return [TimeoutError("too slow") if a == "5" else 1.0 for a in answer]


def test_a_failure_and_its_message_stay_with_their_completion():
    collected = collect(make_collector(Engine(), rewards=(has_answer, slow_on_some)))
    assert counts_of(collected, "errors") == counts_of(collected, "timeouts") == {"has_answer": 0, "slow_on_some": 3}
    first, second = collected.groups
    assert [r.reward for r in first.rollouts] == [2.0, 1.0, 2.0] and first.rollouts[0].errors == {}
    assert all(np.isnan(r.reward) for r in second.rollouts)
    assert second.rollouts[2].errors == {"slow_on_some": "TimeoutError: too slow"}


class EngineInTurns(Engine):
    """Reports its groups last one first, each only when the rewards of the one before are known (but for the last)."""

    def __init__(self, scored):
        super().__init__()
        self.scored, self.waited = scored, []

    def generate(self, params, buffers, prompts, *, num_samples, on_done, **settings):
        completions = super().generate(params, buffers, prompts, num_samples=num_samples, **settings)
        for place in range(len(prompts) - 1, 0, -1):
            on_done(place, completions[place])
            self.waited.append(self.scored.acquire(timeout=10))
        on_done(0, completions[0])
        return completions


def test_groups_are_scored_while_others_are_sampled_with_the_same_result():
    scored = threading.Semaphore(0)

    def has_answer_and_says_so(prompts, completions, answer, stop_reason, **columns):
        scored.release()
        return has_answer(prompts, completions, answer, stop_reason)

    async def later(completions, answer):
        await asyncio.sleep(0.01)
        return [float(len(a) + len(c)) for a, c in zip(answer, completions, strict=True)]

    problems = [make_problem(f"2+{i}=?", str(2 + i)) for i in range(4)]
    engine = EngineInTurns(scored)
    collected = collect(make_collector(engine, rewards=(has_answer_and_says_so, later)), problems)
    assert engine.waited == [True] * 3  # scored before the sampler returned
    together = collect(make_collector(Engine(), rewards=(has_answer_and_says_so, later)), problems)
    assert [g.problem for g in collected.groups] == [g.problem for g in together.groups] == problems
    for ours, theirs in zip(collected.groups, together.groups, strict=True):
        assert [(r.rewards, r.reward, r.text) for r in ours.rollouts] == [
            (r.rewards, r.reward, r.text) for r in theirs.rollouts
        ]
    texts = [r.text for g in collected.groups for r in g.rollouts]
    columns = {"answer": [g.problem.answer for g in collected.groups for _ in range(3)], "stop_reason": [""] * 12}
    scores = Rubric([make_entry(has_answer), make_entry(later)]).score([""] * 12, texts, columns)  # in one batch
    np.testing.assert_array_equal([r.reward for g in collected.groups for r in g.rollouts], scores.total)


def test_if_sampling_fails_nothing_more_is_scored():
    class Broken(Engine):
        def generate(self, *args, on_done, **settings):
            raise MemoryError("out of it")

    with pytest.raises(MemoryError):
        collect(make_collector(Broken()))


@pytest.mark.parametrize("phase", ["sampling", "waiting", "evaluating"])
def test_an_interrupted_run_leaves_a_reward_that_hangs_behind(phase, monkeypatch):
    """The next run in the same process is scored; the other groups of the first never are."""
    gate, began, scored, threads = threading.Event(), threading.Event(), [], []

    def hangs(prompts, completions, answer, **columns):
        threads.append(threading.current_thread())
        began.set()
        gate.wait(60)
        scored.append(answer[0])
        return [1.0] * len(completions)

    def interrupt(*args, **kwargs):
        assert began.wait(10)
        raise KeyboardInterrupt

    class Interrupted(Engine):
        def generate(self, *args, on_done, **settings):
            for place, completions in enumerate(super().generate(*args, **settings)):
                on_done(place, completions)
            interrupt()

    collector = make_collector(Interrupted() if phase == "sampling" else Engine(), rewards=(hangs,))
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patched:
        if phase == "waiting":
            patched.setattr("r1jax.rollout.collect._finished", interrupt)
        if phase != "evaluating":
            collect(collector)
        calls = iter([lambda: None, interrupt])
        evaluate(
            collector, {}, {}, PROBLEMS, num_samples=3, max_new_tokens=50, temperature=0.7, key=jax.random.key(0),
            policy_version=6, problems_per_batch=1, before_batch=lambda problems_done: next(calls)(),
        )  # fmt: skip
    assert len(collect(make_collector(Engine(), rewards=(has_answer,))).groups) == 2
    assert scored == []
    gate.set()
    threads[0].join(timeout=10)
    assert scored == ["4"] and not threads[0].is_alive()


class Counting(Task):
    def __init__(self):
        self.graded = []

    def grade(self, answer, problem):
        self.graded.append((problem.answer, answer))
        return super().grade(answer, problem)


def test_an_answer_is_graded_once_for_rewards_metric_and_evaluation():
    task = Counting()
    collector = dataclasses.replace(make_collector(Engine(), rewards=(accuracy_reward, has_answer)), task=task)
    metrics, groups = evaluate(
        collector, {}, {}, PROBLEMS, num_samples=5, max_new_tokens=50, temperature=0.7, key=jax.random.key(0),
        policy_version=6, problems_per_batch=2,
    )  # fmt: skip
    assert task.graded == [("4", "4"), ("4", "5"), ("5", "4"), ("5", "5")]
    assert [r.rewards["accuracy_reward"] for r in groups[0].rollouts] == [
        1.0,
        0.0,
        1.0,
        0.0,
        0.0,
    ]  # the last is cut off
    assert [r.is_correct for r in groups[0].rollouts] == [True, False, True, False, False]
    assert metrics["pass@1"] == pytest.approx(0.4)


def test_rewards_see_the_graded_answer():
    seen = {}

    def sees(completions, extracted_answer, answer_grade, grading_error, answer_grader):
        seen.update(answer=extracted_answer, grade=answer_grade, error=grading_error, grader=answer_grader)
        return [0.0] * len(completions)

    answers = [*ANSWERS, "<answer>broken</answer>", "no tags", "<answer>gone</answer>", ""]
    collector = make_collector(Engine(answers), rewards=(sees, accuracy_reward))
    (group,) = collect(collector, PROBLEMS[:1], num_samples=6).groups
    assert seen == {
        "answer": ["4", "5", "broken", None, "gone", None],
        "grade": [1.0, 0.0, None, 0.0, None, 0.0],
        "error": [None, None, "the verifier is out of order", None, "OSError: no disk", None],
        "grader": [None] * 6,
    }
    failures = {2: "the verifier is out of order", 4: "OSError: no disk"}
    for index, rollout in enumerate(group.rollouts):
        failure = failures.get(index)
        expected = {"accuracy_reward": f"RuntimeError: {failure}", "task_metric": failure} if failure else {}
        assert rollout.errors == expected and np.isnan(rollout.reward) == bool(failure)


def test_rewards_know_the_verifier_of_a_task_from_files(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"question": "2+2?", "answer": "so #### 4"}))
    task = make_task(read(FilesTaskSpec, {"kind": "files", "dataset": "gsm8k", "heldout": str(path)}))
    problem = task.problem(0, split="heldout")
    graded = start_grading(["4", None, "4", "5"], problem, task=task)()
    assert [answer.grade for answer in graded] == [1.0, 0.0, 1.0, 0.0]
    for given in (task, Mixture([task, Task()], [1.0, 1.0])):
        (completion,) = Engine().generate({}, {}, [[1]], num_samples=1)[0]
        assert reward_columns(problem, [completion], graded[:1], task=given)["answer_grader"] == ["math"]


def test_each_program_runs_once(monkeypatch):
    """For the task's metric and for the reward that runs programs; distinct ones at the same time."""
    runs, both = [], threading.Barrier(2, timeout=10)

    def passes(program, tests):
        runs.append(program)
        both.wait()
        return program == "print(1)\n"

    class Programs(Task):
        grader = "code"

        def grade(self, answer, problem):
            return grade_answer("code", answer, problem)

    monkeypatch.setattr(code.sandbox, "require", lambda: None)
    monkeypatch.setattr(code, "_passes", passes)
    texts = [f"<think>so</think> <answer>\n```python\nprint({number})\n```\n</answer>" for number in (1, 2)]
    collector = make_collector(Engine([*texts, texts[0], "none"]), rewards=(accuracy_reward, code.passes_tests))
    problem = make_problem("print one", "", tests={"stdin": [{"input": "", "output": "1"}]})
    (group,) = collect(dataclasses.replace(collector, task=Programs()), [problem], num_samples=4).groups
    assert sorted(runs) == ["print(1)\n", "print(2)\n"]
    for name in ("accuracy_reward", "passes_tests"):
        assert [r.rewards[name] for r in group.rollouts] == [1.0, 0.0, 1.0, 0.0]


def test_programs_of_several_groups_run_at_the_same_time(monkeypatch):
    both = threading.Barrier(2, timeout=10)

    class Programs(Task):
        grader = "code"

        def grade(self, answer, problem):
            return grade_answer("code", answer, problem)

    monkeypatch.setattr(code.sandbox, "require", lambda: None)
    monkeypatch.setattr(code, "_passes", lambda program, tests: bool(both.wait() + 1))
    text = "<think>so</think> <answer>\n```python\nprint(1)\n```\n</answer>"
    collector = dataclasses.replace(make_collector(Engine([text]), rewards=(accuracy_reward,)), task=Programs())
    problem = make_problem("print one", "", tests={"stdin": [{"input": "", "output": "1"}]})
    groups = collect(collector, [problem, problem], num_samples=2).groups
    assert [[rollout.reward for rollout in group.rollouts] for group in groups] == [[1.0, 0.0], [1.0, 0.0]]


def test_one_process_writes_no_json(monkeypatch):
    monkeypatch.setattr(Scores, "to_json", None)
    model = make_entry(lambda completions: [0.5] * len(completions), name="model", deferred=True)
    collector = dataclasses.replace(make_collector(Engine()), rubric=Rubric([make_entry(accuracy_reward), model]))
    assert [r.reward for r in collect(collector).groups[0].rollouts] == [1.5, 0.5, 0.5]


def test_two_processes_give_what_one_gives(monkeypatch):
    """The second one's message, as JSON, is given to the first."""
    model = make_entry(lambda completions, answer_grade: [0.5 * g for g in answer_grade], name="model", deferred=True)
    rubric = Rubric([make_entry(fails, weight=0.0), model, make_entry(accuracy_reward), make_entry(slow_on_some)])
    collector = dataclasses.replace(make_collector(Engine()), rubric=rubric)
    alone = collect(collector)
    messages = {}

    def gather(function):
        messages[jax.process_index()] = json.loads(json.dumps(function()))
        return [messages[process] for process in range(2)]

    monkeypatch.setattr("r1jax.rollout.collect.gather", gather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(KeyError):  # it waits for the first
        collect(collector)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    together = collect(collector)
    assert [len(message) for message in messages.values()] == [1, 1]
    for ours, theirs in zip(together.groups, alone.groups, strict=True):
        for one, other in zip(ours.rollouts, theirs.rollouts, strict=True):
            np.testing.assert_equal(
                [one.rewards, one.reward, one.answer, one.is_correct, one.errors],
                [other.rewards, other.reward, other.answer, other.is_correct, other.errors],
            )
    assert (
        counts_of(together, "errors")
        == counts_of(alone, "errors")
        == {"fails": 6, "model": 0, "accuracy_reward": 0, "slow_on_some": 3}
    )


def test_a_reward_is_tried_in_the_thread_that_will_call_it():
    """One that needs the main thread fails in the check as it would in training."""

    def alarm(prompts, completions):
        signal.signal(signal.SIGALRM, lambda *_: None)
        return [1.0] * len(completions)

    threads = []

    def model(completions):
        threads.append(threading.current_thread())
        return [0.0] * len(completions)

    task = Counting()
    rubric = Rubric([make_entry(alarm), make_entry(model, deferred=True), make_entry(accuracy_reward)])
    scores = score_in_background(rubric, PROBLEMS[0], ["", "4"], task=task, template="plain")
    assert scores.errors == {"alarm": 2, "model": 0, "accuracy_reward": 0}
    assert "main thread" in scores.messages[0]["alarm"]
    assert threads == [threading.main_thread()]  # a deferred one is called by whoever waits
    assert scores.by_name["accuracy_reward"].tolist() == [0.0, 1.0] and task.graded == [("4", "4")]


def test_a_task_that_cannot_grade_is_counted_and_stops_nothing():
    collected = collect(make_collector(Engine(["<answer>broken</answer>"] * 2), rewards=(has_answer,)))
    assert counts_of(collected, "errors") == {"has_answer": 0, "task_metric": 4}
    assert error_messages(collected.groups) == {"task_metric": "the verifier is out of order"}
    assert not any(r.is_correct for group in collected.groups for r in group.rollouts)


def test_a_reward_of_the_wrong_length_fails_on_its_group():
    def short(prompts, completions, **columns):
        return [1.0]

    collected = collect(make_collector(Engine(), rewards=(short,)))
    assert collected.counts["rewards/short/errors"] == 6
    assert error_messages(collected.groups) == {"short": "ValueError: it returned 1 scores for 3 completions"}


def test_rewards_know_the_update_and_what_they_log_is_kept():
    def logs(completions, trainer_state, log_extra, log_metric):
        log_extra("length", [len(text) for text in completions])
        log_metric("step", trainer_state.global_step)
        return [trainer_state.global_step / trainer_state.max_steps] * len(completions)

    collector = dataclasses.replace(make_collector(Engine(), rewards=(logs,)), num_updates=20)
    collected = collect(collector)
    assert collected.logged == {"rewards/logs/step": [6.0, 6.0]}
    rollouts = [rollout for group in collected.groups for rollout in group.rollouts]
    assert {rollout.reward for rollout in rollouts} == {0.3}
    assert [rollout.extra for rollout in rollouts] == [{"logs/length": len(rollout.text)} for rollout in rollouts]


class R1Tokenizer(Tokenizer):
    """One id for each special token of R1's template, from 57344 on."""

    def encode(self, text):
        for token in TEMPLATES["r1"].tokens:
            text = text.replace(token, chr(self.token_id(token)))
        return super().encode(text)

    def token_id(self, token):
        return 0xE000 + TEMPLATES["r1"].tokens.index(token)


def test_prompt_stop_ids_and_answer_are_those_of_the_template():
    texts = [r"so</think>It is \boxed{4}.", "<think>so</think> <answer>4</answer>", r"\boxed{4}"]
    engine, tokenizer = Engine([*texts, ""]), R1Tokenizer()
    collector = dataclasses.replace(make_collector(engine, rewards=(has_answer,)), tokenizer=tokenizer, template="r1")
    (group,) = collect(collector, PROBLEMS[:1], num_samples=4).groups
    (prompt,), settings = engine.calls[0]
    assert (
        prompt == collector.encode(PROBLEMS[0]) == [0xE000, 0xE002, *map(ord, "2+2=?"), 0xE003, *map(ord, "<think>\n")]
    )
    assert settings["stop_ids"] == (0, 0xE001)
    assert [rollout.answer for rollout in group.rollouts] == ["4", "4", None, None]
    assert samples_of(group, Task(), style="r1").well_formed == (True, True, False, False)
    assert samples_of(group, Task()).well_formed == (False, True, False, False)


def test_a_problem_may_say_where_its_answer_is():
    texts = ["so</think>The cat is small.", r"so</think>It is \boxed{4}."]
    collector = dataclasses.replace(
        make_collector(Engine([*texts, ""]), rewards=(has_answer,)), tokenizer=R1Tokenizer(), template="r1"
    )
    problem = dataclasses.replace(PROBLEMS[0], answer_in="summary")
    answers = [
        [rollout.answer for rollout in collect(collector, [one], num_samples=3).groups[0].rollouts]
        for one in (PROBLEMS[0], problem)
    ]
    assert answers == [[None, "4", None], ["The cat is small.", "4", None]]
