"""Sampling by hand: what is a policy, its prompts, its answers, and what is refused in one line."""

import shutil

import jax
import numpy as np
import pytest

from r1jax.hf import Pretrained, save_pretrained
from r1jax.policies import load_policy
from r1jax.rollout.engine import make_engine
from r1jax.specs.rollout import EngineSpec
from r1jax.text.response import split_thought
from r1jax.training.checkpoint import CheckpointError
from tests.policies.stage_folder import write_stage

pytestmark = pytest.mark.usefixtures("quick_compilation")
QUESTION = "Which two of 20, 10, 5, 4 make 14"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a run, whose one stage is "zero"."""
    path = tmp_path_factory.mktemp("run")
    write_stage(path / "zero")
    return path


@pytest.fixture(scope="module")
def policy(run):
    return load_policy(run)


def test_answers_are_those_of_the_engine_and_stream_as_they_are_generated(policy):
    groups = policy.generate([QUESTION, [{"role": "user", "content": "1 + 1?"}]], n=2, seed=3, top_p=1.0)
    assert groups[0][0].prompt == f"User: {QUESTION}. Assistant:" and groups[1][0].prompt == "User: 1 + 1?. Assistant:"
    expected = make_engine(policy.model, EngineSpec()).generate(
        *policy.weights,
        [policy.tokenizer.encode(group[0].prompt) for group in groups],
        num_samples=2,
        max_new_tokens=24,
        temperature=0.6,
        stop_ids=policy.tokenizer.stop_ids,
        key=jax.random.key(3),
    )
    for group, completions in zip(groups, expected, strict=True):
        for answer, completion in zip(group, completions, strict=True):
            np.testing.assert_array_equal(answer.token_ids, completion.token_ids)
            np.testing.assert_allclose(answer.logps, completion.logps, atol=1e-5)
            assert answer.stop_reason == completion.stop_reason
    cut_off = next(answer for answer in groups[0] if answer.stop_reason == "length")
    assert cut_off.text == policy.tokenizer.decode(cut_off.token_ids) and len(cut_off.token_ids) == 24

    *begun, done = policy.stream([QUESTION], n=2, seed=3, top_p=1.0, max_new_tokens=24, segment=8)
    assert len(begun) == 2
    for before, after, whole in zip(begun[0][0], done[0], groups[0], strict=True):
        assert after.text == whole.text and after.text.startswith(before.text.rstrip("\ufffd"))
    assert {len(answer.token_ids) for answer in begun[0][0] if answer.stop_reason == "unfinished"} == {8}


def test_a_checkpoint_a_stage_a_run_and_a_folder(run, policy, tmp_path):
    assert policy.path == run / "zero" and policy.template == "plain" and policy.max_new_tokens == 24
    earlier = load_policy(run / "zero", step=2)
    save_pretrained(Pretrained(policy.model, *policy.weights, tokenizer=policy.tokenizer), tmp_path / "folder")
    folder = load_policy(tmp_path / "folder")
    assert folder.template is None and folder.max_new_tokens == 1024
    settings = {"temperature": 0.0, "max_new_tokens": 8}
    (((ours,),), ((theirs,),), ((before,),)) = (
        p.generate(f"User: {QUESTION}. Assistant:" if p is folder else QUESTION, **settings)
        for p in (policy, folder, earlier)
    )
    assert ours.text == theirs.text != before.text
    with pytest.raises(ValueError, match=r"folder has no chat template; .*template='r1_zero' or "):
        folder.generate([[{"role": "user", "content": "x"}]])


def test_what_is_no_policy_is_one_line(run, policy, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^there is no folder {tmp_path}/x"):
        load_policy(tmp_path / "x")
    with pytest.raises(ValueError, match=rf"^{tmp_path} is no policy: neither it nor a folder in it is of a stage"):
        load_policy(tmp_path)
    shutil.copytree(run / "zero", tmp_path / "begun" / "rl", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(ValueError, match="begun is no policy"):
        load_policy(tmp_path / "begun")
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are 2, 3"):
        load_policy(run, step=9)
    with pytest.raises(ValueError, match=r"step='first' must be a whole number, or must be one of 'latest', 'best'"):
        load_policy(run, step="first")
    with pytest.raises(ValueError, match=r"dtype='int8' must be one of 'float32', 'bfloat16'"):
        load_policy(run, dtype="int8")
    with pytest.raises(ValueError, match="chat template 'llama'"):
        load_policy(run, template="llama")
    shutil.copytree(run / "zero", tmp_path / "judge")
    (tmp_path / "judge" / "config.json").write_text('{"stage": "reward_model"}')
    with pytest.raises(ValueError, match="judge is a reward model"):
        load_policy(tmp_path / "judge")
    for settings, words in [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            policy.generate(QUESTION, **settings)


@pytest.mark.parametrize(
    ("text", "prompt", "parts"),
    [
        (" 4 ", "", (None, "4")),
        ("<think> a </think> <answer>4</answer>", "", ("a", "<answer>4</answer>")),
        ("<think> a", "", ("a", None)),
        ("a </think> 4", "<think>\n", ("a", "4")),
        ("a", "<think>\n", ("a", None)),
    ],
)
def test_a_thought_and_what_follows_it(text, prompt, parts):
    assert split_thought(text, prompt=prompt) == parts
