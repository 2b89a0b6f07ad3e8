"""What is said of a run that goes wrong without an error."""

import json

import pytest

from r1jax.specs.stages import DoctorSpec
from r1jax.stages.rl.doctor import Doctor

HEALTHY = {
    "reward": 0.5,
    "frac_reward_zero_std": 0.5,
    "frac_groups_all_right": 0.25,
    "frac_groups_all_wrong": 0.25,
    "completions/clipped_ratio": 0.1,
    "completions/mean_length": 100.0,
    "entropy": 0.5,
    "sampling/sampling_logp_difference/mean": 1e-3,
    "sampling/mismatch_kl": 1e-5,
    "num_questions_sampled": 10,
    "rewards/math/errors": 2,
}
SICK = {
    "the rewards were equal in all groups": {"frac_reward_zero_std": 1.0, "frac_groups_all_wrong": 1.0},
    "no completion had a reward": {"reward": None},
    "all completions were cut off": {"completions/clipped_ratio": 1.0},
    "completions had 10 tokens where they had 100": {"completions/mean_length": 10.0},
    "the entropy was below 0.001 nats": {"entropy": 1e-5},
    "log-probs of sampler and trainer differed by 0.5 nats": {"sampling/sampling_logp_difference/mean": 0.5},
    "log-probs of sampler and trainer had a KL of 0.02 nats": {"sampling/mismatch_kl": 0.02},
    "reward math failed on more than 10% of the completions (50%)": {"rewards/math/errors": 20},
}


def rows(changes):
    row = HEALTHY | changes
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize("words", SICK)
def test_each_sign_is_said_once_after_enough_phases(words, capsys):
    doctor = Doctor(DoctorSpec(phases=3), group_size=4)
    for update, changes in enumerate([{}, SICK[words], SICK[words], {}, *[SICK[words]] * 5]):
        doctor.examine(update, rows(changes))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: update 6: for 3 phases {words}")


def test_it_says_it_again_after_it_was_gone_and_nothing_of_a_healthy_run(capsys):
    doctor = Doctor(DoctorSpec(phases=1), group_size=4)
    sick = SICK["all completions were cut off"]
    stale = {"sampling/sampling_logp_difference/mean": 0.5, "sampling/staleness/mean": 0.1}
    for update, changes in enumerate([{}, stale, sick, sick, {}, sick]):
        doctor.examine(update, rows(changes))
    assert [line.split(":")[1] for line in capsys.readouterr().err.splitlines()] == [" update 2", " update 5"]


def test_a_run_may_be_stopped():
    doctor = Doctor(DoctorSpec(phases=2, stop=True), group_size=4)
    for update in range(4):
        assert bool(doctor.verdict) == (update > 1)
        doctor.examine(update, rows({"completions/clipped_ratio": 1.0}))
    assert doctor.verdict.startswith("update 1: for 2 phases all completions were cut off")


def test_a_run_that_goes_on_remembers_and_one_that_is_stopped_still_says_it(capsys):
    first = Doctor(DoctorSpec(phases=3), group_size=4)
    for update in range(2):
        first.examine(update, rows({"completions/clipped_ratio": 1.0}))
    memory = json.loads(json.dumps(first.memory))
    second = Doctor(DoctorSpec(phases=3, stop=True), group_size=4, memory=memory)
    second.examine(2, rows({"completions/clipped_ratio": 1.0, "completions/mean_length": 10.0}))
    assert second.verdict and "for 3 phases all completions were cut off" in capsys.readouterr().err
    assert second.memory == {"phases": {"cut off": 3, "length": 1}, "longest": 100.0}
    third = Doctor(DoctorSpec(phases=3, stop=True), group_size=4, memory=second.memory)
    third.examine(3, rows({"completions/clipped_ratio": 1.0}))
    assert third.verdict  # the same run, started again without a change


def test_a_model_without_entropy_or_a_sampler_of_its_own_has_no_sign(capsys):
    doctor = Doctor(DoctorSpec(phases=1), group_size=4)
    doctor.examine(0, rows({"entropy": None, "sampling/sampling_logp_difference/mean": None}))
    assert not capsys.readouterr().err
