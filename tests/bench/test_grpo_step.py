"""The benchmark of an RL stage's phase, small."""

import json
import sys

import pytest

from r1jax.bench import grpo_step

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    corpus = {"function": "r1jax.tasks.mini.corpus:corpus_text", "arguments": {"config": {"count": 3, "high": 12}}}
    stage = {
        "stage": "rl",
        "init": {"kind": "random", "preset": "mini_qwen", "model": {"num_layers": 1},
                 "tokenizer": {"source": corpus, "num_texts": 50}},
        "tasks": [{"kind": "mini", "name": "pair_sum", "config": {"count": 3, "high": 12}}],
        "rewards": [{"function": "r1jax.rewards.accuracy:accuracy_reward"}],
        "template": "plain", "questions_per_phase": 2, "group_size": 2, "max_prompt_tokens": 12, "max_new_tokens": 3,
    }
    return ConfigDict({"seed": 0, "stages": {"rl": stage}})
"""
STEP = {"generate": 1e3, "logprobs": 2e3, "update": 3e3, "step": 6e3, "cpu_seconds": 1e4}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.mark.slow
def test_prompts_have_one_length_and_a_peer_takes_turns(config, monkeypatch):
    peer = config.with_name("peer.py")
    peer.write_text(f"import sys\nfor line in sys.stdin: print('{json.dumps(STEP)}', flush=True)")
    monkeypatch.setattr(grpo_step, "_peer_command", lambda *_: [sys.executable, peer])
    table = grpo_step.run(str(config), phases=2, prompt_tokens=12, peers="python")
    assert (table["completions"], table["new_tokens"], table["prompt_tokens"]) == (4, 12, 48)
    assert table["peer_seconds"] == {name: STEP[name] for name in grpo_step.PARTS}
    assert table["ratio_to_peer"]["step"]["least"] == pytest.approx(6e3 / max(table["seconds_of_step"]))


def test_a_config_that_the_peer_cannot_follow_is_refused(config):
    with pytest.raises(ValueError, match=r"--peers: .*config.py must start from the GGUF 'smollm2'"):
        grpo_step.run(str(config), phases=1, prompt_tokens=12, peers="python")
