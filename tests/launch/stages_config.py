"""The stages other than RL, tiny, each on what the one before made, on eight devices; for several processes."""

from ml_collections import ConfigDict

from r1jax.text.sample import ChatError, r1_text
from tests.stages import test_evaluate, test_preferences, test_reward_model, test_supervised
from tests.stages.reject import test_stage as test_reject
from tests.tiny import POLICY

HERE = "tests.launch.stages_config"  # of a config file, __name__ is another
MESH = {"fsdp": 4, "tensor": 2}
DENSE = POLICY | {
    "preset": "mini_qwen",
    "model": {"model_dim": 32, "ffn_dim": 48, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8},
}


def asks(samples, *, chat, seed):
    """A judge that asks the policy, which is too young to finish, and goes by the length."""
    answers = chat([sample.messages for sample in samples], seed=seed)
    assert all(isinstance(answer, str | ChatError) for answer in answers)
    return [{"correctness": "wrong" if len(sample.text) % 3 == 0 else "correct"} for sample in samples]


def tells(samples, *, chat, seed):
    """A rewriter without a model."""
    return [r1_text(f"I read {sample.text!r}", f"\\boxed{{{sample.reference}}}") for sample in samples]


def get_config():
    base = test_supervised.tiny_values(init=DENSE, mesh=MESH, num_updates=2, documents_per_update=4)
    init = {"kind": "stage", "path": "{base}"}
    engine = {"prompt_bucket": 64, "segment": 8}
    chat = {
        "kind": "policy", "init": init, "template": "plain", "temperature": 1.0, "top_p": None, "max_prompt_tokens": 100,
        "max_new_tokens": 8, "engine": engine,
    }  # fmt: skip
    tasks = [test_evaluate.PAIRS]
    cold = test_reject.tiny_values(
        mesh=MESH, init=init, tasks=tasks, num_prompts=4, prompts_per_batch=2, filters=[], engine=engine,
        judge={"function": f"{HERE}:asks", "chat": chat}, rewrite={"function": f"{HERE}:tells"},
    )  # fmt: skip
    pairs = test_preferences.tiny_values(mesh=MESH)
    reward = test_reward_model.tiny_values(
        mesh=MESH, init=init, data={"path": "{pairs}"}, epochs=1, examples_per_update=4, heldout_fraction=0.3,
        length_bucket=64,
    )  # fmt: skip
    judged = {"kind": "reward_model", "path": "{reward}", "name": "helpful"}
    scores = test_evaluate.tiny_values(
        mesh=MESH, init=init, tasks=tasks, rewards=[test_evaluate.EVEN, judged], problems=2, engine=engine
    )
    stages = {"base": base, "cold": cold, "pairs": pairs, "reward": reward, "scores": scores}
    return ConfigDict({"stages": ConfigDict(stages, sort_keys=False)})
