"""A tiny RL run of two updates on eight devices, for several processes."""

from ml_collections import ConfigDict

from tests.stages.rl.test_stage import tiny_values


def get_config():
    stage = tiny_values(
        mesh={"data": 4, "expert": 2}, questions_per_phase=2, updates_per_phase=1, num_updates=2, reference_every=1,
        max_new_tokens=4, checkpoint_every=1, engine={"segment": 4},
        eval={"every": 10, "problems": 2, "final_problems": 2, "final_samples": 2, "problems_per_batch": 2},
    )  # fmt: skip
    return ConfigDict({"stages": {"zero": stage}})
