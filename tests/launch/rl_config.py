"""A tiny RL run of two updates on eight devices, for several processes; half of what it samples is carried over."""

from ml_collections import ConfigDict

from tests.stages.rl.test_stage import tiny_values


def get_config():
    stage = tiny_values(
        mesh={"data": 4, "expert": 2}, questions_per_phase=2, updates_per_phase=1, num_updates=2, reference_every=1,
        group_size=3, max_new_tokens=6, checkpoint_every=1, engine={"segment": 2, "slots": 8},
        partial_rollouts=1.0, importance_cap=2.0,
        eval={"every": 10, "problems": 2, "final_problems": 2, "final_samples": 2, "problems_per_batch": 2},
    )  # fmt: skip
    return ConfigDict({"stages": {"zero": stage}})
