"""What is tried of an RL stage before anything is computed: problems, rewards, prompts, held-out problems, meshes, the split."""

from r1jax.evals.evaluate import heldout_problems
from r1jax.policies.preview import Previews
from r1jax.policies.reward_model import stand_in_rewards
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import check_problems_of
from r1jax.rollout.weight_sync import make_rollout_mesh
from r1jax.sharding import make_mesh
from r1jax.specs.stages import RlSpec
from r1jax.stages.auxiliary import check_auxiliary
from r1jax.stages.sampling import check_prompts, check_rewards, tasks_of
from r1jax.stages.splits import check_same_split
from r1jax.tasks.mixture import TaskSchedule
from r1jax.text.chat import check_template
from r1jax.training.offload import check_offload


def check(spec: RlSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot train; reads files of problems, makes a few others."""
    previews = previews or Previews()
    check_template(spec.template)
    mesh = make_mesh(spec.mesh.axes())
    if spec.rollout_mesh is not None:
        make_rollout_mesh(spec.rollout_mesh.axes(), mesh)
    check_offload(spec.offload, devices=mesh.local_devices)
    rubric = Rubric(stand_in_rewards(spec.rewards))
    schedule = TaskSchedule(spec.tasks, seed=spec.seed)
    rubric.check_tasks(schedule.starts)
    if spec.refill_reward is not None and spec.refill_reward not in rubric.names:
        names = ", ".join(rubric.names)
        raise ValueError(f"refill_reward: there is no reward {spec.refill_reward!r}; there are {names}")
    for index, (name, start) in enumerate(schedule.starts.items()):
        if not rubric.at(start).applies_to(name):
            raise ValueError(
                f"tasks[{index}]: no reward with a weight applies to {name!r} when it joins, at update {start}"
            )
    for task in tasks_of(schedule.everything):
        check_rewards(rubric, task, template=spec.template)
    check_problems_of(schedule.everything, rubric, template=spec.template)
    heldout = heldout_problems(schedule.at(0), spec.eval)
    preview = previews.policy(spec.init, seed=spec.seed)
    if preview is not None:
        check_auxiliary(preview.config, balance_weight=spec.balance_weight)
    check_prompts(spec, previews, trained=tasks_of(schedule.everything), heldout=heldout)
    check_same_split(spec, previews)
