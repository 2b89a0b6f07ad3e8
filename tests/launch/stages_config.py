"""The stages beside RL, tiny, each on what the one before made, on eight devices; for several processes."""

from ml_collections import ConfigDict

from r1jax.text.sample import ChatError, r1_text
from tests.stages import test_evaluate, test_preferences, test_reject, test_reward_model, test_supervised

MESH = {"data": 4, "expert": 2}


def asks(samples, *, chat, seed):
    """A judge that asks the policy, and goes by what it says."""
    answers = chat([sample.messages for sample in samples], seed=seed)
    verdicts = [
        "wrong" if not isinstance(answer, ChatError) and len(answer) % 3 == 0 else "correct" for answer in answers
    ]
    return [{"correctness": verdict} for verdict in verdicts]


def tells(samples, *, chat, seed):
    """A rewriter without a model."""
    return [r1_text(f"I read {sample.text!r}", f"\\boxed{{{sample.reference}}}") for sample in samples]


def get_config():
    base = test_supervised.tiny_config(mesh=MESH, num_updates=1, documents_per_update=4, checkpoint_every=1)
    init = {"kind": "stage", "path": "{base}"}
    engine = {"prompt_bucket": 64, "segment": 8}
    chat = {
        "kind": "policy", "init": init, "template": "plain", "temperature": 1.0, "top_p": None, "max_prompt_tokens": 100,
        "max_new_tokens": 8, "engine": engine,
    }  # fmt: skip
    tasks = [test_evaluate.PAIRS]
    cold = test_reject.tiny_config(
        mesh=MESH, init=init, tasks=tasks, num_prompts=4, prompts_per_batch=2, engine=engine,
        judge={"function": f"{__name__}:asks", "chat": chat}, rewrite={"function": f"{__name__}:tells"},
    )  # fmt: skip
    pairs = test_preferences.tiny_config(mesh=MESH)
    reward = test_reward_model.tiny_config(
        mesh=MESH, init=init, data=ConfigDict({"path": "{pairs}"}), epochs=1, examples_per_update=4, heldout_fraction=0.3,
        length_bucket=64,
    )  # fmt: skip
    judged = {"kind": "reward_model", "path": "{reward}", "name": "helpful"}
    scores = test_evaluate.tiny_config(
        mesh=MESH, init=init, tasks=tasks, rewards=[test_evaluate.EVEN, judged], problems=2, samples=4, engine=engine
    )
    stages = {"base": base, "cold": cold, "pairs": pairs, "reward": reward, "scores": scores}
    stages = {name: stage.to_dict() for name, stage in stages.items()}
    return ConfigDict({"seed": 0, "stages": ConfigDict(stages, sort_keys=False)})
