"""A mesh that does not divide a stage, or a kernel that cannot run here, is refused before anything runs, in one line."""

import pytest

from r1jax.pipeline import make_stages
from r1jax.specs.config_file import ConfigError, Experiment, load_experiment
from tests.tiny import POLICY

FILE = "configs/zero.py"
TINY = POLICY["model"]
"""Of the model that is traced: width 32, 2 heads, 4 experts."""


def experiment(stage: str, **changes) -> Experiment:
    """One stage of configs/zero.py on a tiny model."""
    values = load_experiment(FILE).stages[stage]
    values = {name: value for name, value in values.items() if name != "workdir"}
    return Experiment(FILE, 0, {stage: values | {"init": POLICY} | changes})


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            "zero",
            {"mesh": {"sequence": 8}, "row_length": 164},
            "stages.zero.row_length=164: mesh.sequence=8 does not divide the tokens of a row; make them a multiple of 8",
        ),
        (
            "zero",
            {"mesh": {"sequence": 4}, "max_prompt_tokens": 46},
            "stages.zero.max_prompt_tokens + max_new_tokens=158: mesh.sequence=4 does not divide the tokens of a row",
        ),
        (
            "base",
            {"mesh": {"sequence": 8}, "row_length": 260},
            "stages.base.row_length=260: mesh.sequence=8 does not divide the tokens of a row",
        ),
        ("zero", {"mesh": {"expert": 8}}, "'expert' of 8 does not divide 'experts', which is 4; make mesh.expert a divisor"),
        ("zero", {"mesh": {"tensor": 4}}, "'tensor' of 4 does not divide 'heads', which is 2; make mesh.tensor a divisor"),
        (
            "zero",
            {"mesh": {"fsdp": 8}, "init": POLICY | {"model": TINY | {"model_dim": 36}}},
            "'fsdp' of 8 does not divide 'embed', which is 36; make mesh.fsdp a divisor of 36, such as 4",
        ),
        (
            "zero",
            {"mesh": {"fsdp": 8}, "rollout_mesh": {"expert": 8}},
            "'expert' of 8 does not divide 'experts', which is 4; make rollout_mesh.expert a divisor of 4, such as 4",
        ),
        ("zero", {"mesh": {"fsdp": 8}, "rollout_mesh": {"expert": 4}}, "stages.zero.rollout_mesh {'expert': 4} is of 4 devices"),
        (
            "base",
            {"init": POLICY | {"model": TINY | {"attention_implementation": "cudnn"}}, "row_length": 256},
            "stages.base.init.model.attention_implementation='cudnn' needs a GPU; the devices here are cpu",
        ),
        ("zero", {"mesh": {"data": 3}}, "stages.zero.mesh {'data': 3} is of 3 devices, which do not divide the 8 here"),
    ],
)  # fmt: skip
def test_a_mesh_or_kernel_that_cannot_run_is_refused(tmp_path, stage, changes, message):
    with pytest.raises(ConfigError) as refused:
        make_stages(experiment(stage, **changes), tmp_path)
    text = str(refused.value)
    assert text.startswith(f"{FILE}: stages.{stage}") and message in text and "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_meshes_that_divide_are_traced(tmp_path):
    """Rows that the mesh does not divide (6 of 8 devices) stay whole: each device computes all of them."""
    mesh = {"fsdp": 2, "expert": 4}
    stages = make_stages(experiment("base", mesh=mesh, rows_per_microbatch=6, row_length=256), tmp_path)
    assert [stage.name for stage in stages] == ["base"]


def test_a_sampler_whose_slots_are_split_is_tried_too(tmp_path):
    experiment = load_experiment("configs/zero.py")
    experiment.stages["zero"]["mesh"] = {"fsdp": 4, "tensor": 2}
    assert [stage.name for stage in make_stages(experiment, tmp_path / "run")] == ["base", "zero"]
