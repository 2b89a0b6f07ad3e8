"""The plans of a stage's programs as text: markdown tables, their sum, and what does not fit."""

import math
from collections.abc import Iterable, Mapping, Sequence

import jax

from r1jax.plan.assumed import Assumed
from r1jax.plan.hardware import GIB, Topology
from r1jax.plan.program import ProgramPlan
from r1jax.plan.programs import StagePrograms
from r1jax.plan.roofline import MATMUL_EFFICIENCY, modelled_time
from r1jax.plan.sampling import decode_name

_OF_SAMPLING = ("prefill", "begin", "decode", "reshard (")
"""How the names of the programs begin that only sampling needs."""


def plan_table(
    plans: Sequence[ProgramPlan], topology: Topology, *, title: str, stage: StagePrograms, assumed: Assumed
) -> str:
    """Memory of a device, then work and modelled time, then the stage as a whole; sizes in GiB, times in seconds.

    A step takes each program as often as it calls it, one after the other; where the sampler has devices of its own,
    the longer of sampling and of all else.
    """
    axes = {name: size for name, size in stage.mesh.shape.items() if size > 1}
    counted = [plan.name for plan in plans if plan.compile_seconds is None]
    how = "by count" if len(counted) == len(plans) else f"compiled{', but for ' if counted else ''}{'; '.join(counted)}"
    kinds = sorted({kind for plan in plans for kind in plan.collectives})
    collectives = [
        {"program": plan.name} | {kind: _gib(plan.collectives.get(kind, 0)) for kind in kinds}
        for plan in plans
        if plan.collectives
    ]
    seconds = {plan.name: plan.calls * modelled_time(plan, topology).total for plan in plans}
    sampling = sum(time for name, time in seconds.items() if name.startswith(_OF_SAMPLING))
    learning = sum(seconds.values()) - sampling
    step = max(sampling, learning) if stage.is_overlapped else sampling + learning
    total, per_second = step * stage.num_steps, stage.tokens_per_step / step
    length = assumed.mean_new_tokens if stage.stage in ("rl", "reject") else assumed.mean_document_tokens
    rollout = f", {sampling:,.1f} of them sampling" if sampling else ""
    if stage.is_overlapped:
        rollout = f": {learning:,.1f} learning, and at the same time {sampling:,.1f} sampling, on devices of its own"
    return f"""\
# {title}

{topology.num_chips:,} chips, {topology.num_devices:,} devices of {_gib(topology.hbm_bytes)} GiB; mesh {axes}; {how}.

{_markdown([_memory(plan, topology) for plan in plans])}

*in place*: the part of the output that takes the memory of arguments; *temporaries*: the most at once; *peak*: the compiler's \
figure; *resident*: arrays in memory that are no arguments; *total*: resident arrays, and the larger of the peak and of arguments, \
output and temporaries less what is in place.

Work of one call on one device. All times are *modelled* (r1jax.plan.roofline), with matmuls at {MATMUL_EFFICIENCY:.0%} of the peak; \
"ideal" is at all of it. Nothing was run.

{_markdown([_work(plan, topology) for plan in plans])}

Collectives, GiB a device and call, of the whole array that each gathers, sums or exchanges:

{_markdown(collectives) if collectives else "none"}

*Modelled*, at {length:,} tokens a sequence on average (assumed), {stage.tokens_per_step:,.0f} tokens a step:

- {step:,.1f} s a step{rollout}
- {per_second:,.0f} tokens/s, {per_second / topology.num_chips:,.1f} a chip
- {stage.num_steps:,} steps: {total / 86_400:,.2f} days, {total / 3600 * topology.num_chips:,.0f} chip-hours
{_sampling(stage, plans, topology, assumed)}\
- host memory for loading the weights: {_gib(host_bytes(stage.state["params"]))} GiB, one shard at a time
"""


def _sampling(stage: StagePrograms, plans: Sequence[ProgramPlan], topology: Topology, assumed: Assumed) -> str:
    """A line of what is assumed of sampling, and one for each number of slots of a phase's schedule."""
    if stage.schedule is None:
        return ""
    schedule, times = stage.schedule, {plan.name: modelled_time(plan, topology).total for plan in plans}
    sizes = {program.name: program.sizes for program in stage.programs}
    lines = [
        f"- a phase of sampling: {schedule.num_new:,.0f} sequences, {schedule.occupancy:.0%} of the slots in use on "
        f"average. Assumed: log-normal lengths (deviation of the logarithm {assumed.length_sigma:g}, cut at the cap), in "
        f"any order; prompts of {assumed.mean_prompt_tokens} tokens"
    ]
    for index, stretch in enumerate(schedule.stretches):
        size = sizes[name := decode_name(schedule, index)]
        tokens = f", {size['made'] / stretch.running:.2f} tokens a slot and step with drafts (assumed)"
        each = f", {1e3 * times[name] / size['steps']:.2f} ms each" if name in times else ""
        lines.append(
            f"  - {stretch.slots:,} slots: {stretch.steps:,.0f} steps{each}, {stretch.running:,.0f} slots in use"
            f"{tokens if size['tokens'] > 1 else ''}, {stretch.cached / stretch.running:,.0f} tokens read for each"
        )
    if schedule.num_carried:
        lines.append(
            f"  - partial_rollouts: when a phase ends, {schedule.num_carried:,.0f} are "
            f"carried over, whose {schedule.carried_tokens:,.0f} tokens are prefilled again"
        )
    if schedule.num_pages:
        lines.append(
            f"  - pages of a part: at most {schedule.most_pages:,} are wanted, {schedule.num_pages:,} are there"
        )
    if schedule.most_pages > schedule.num_pages > 0:
        lines.append("  - **sequences would be evicted and resumed, which is not modelled: raise engine.cache_gb**")
    return "\n".join(lines) + "\n"


def misfits(plans: Iterable[ProgramPlan], topology: Topology) -> list[str]:
    """A line for each program that needs more memory than a device has: by how much."""
    return [
        f"{plan.name} needs {_gib(plan.total_bytes)} GiB a device of {_gib(topology.hbm_bytes)}: "
        f"{_gib(plan.total_bytes - topology.hbm_bytes)} GiB too much"
        for plan in plans
        if plan.total_bytes > topology.hbm_bytes
    ]


def host_bytes(params) -> int:
    """Host memory that loading needs at once: the largest shard, and the part of a tensor that it is filled from.

    ``r1jax.hf.pretrained`` fills one device's shard of one array at a time. params: ShapeDtypeStructs with shardings.
    """
    leaves = jax.tree.leaves(params)
    return 2 * max(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _memory(plan: ProgramPlan, topology: Topology) -> dict[str, str]:
    share = plan.total_bytes / topology.hbm_bytes
    return {
        "program": plan.name,
        "arguments": _gib(plan.argument_bytes),
        "output": _gib(plan.output_bytes),
        "in place": _gib(plan.alias_bytes),
        "temporaries": _gib(plan.temp_bytes),
        "peak": "-" if plan.peak_bytes is None else _gib(plan.peak_bytes),
        "resident": _gib(plan.resident_bytes),
        "total": _gib(plan.total_bytes),
        "of HBM": f"{share:.0%}" if share <= 1 else f"**{share:.0%}, does not fit**",
    }


def _work(plan: ProgramPlan, topology: Topology) -> dict[str, str]:
    time, ideal = modelled_time(plan, topology), modelled_time(plan, topology, efficiency=1.0)
    return {
        "program": plan.name,
        "calls a step": f"{plan.calls:g}",
        "TFLOP": f"{plan.flops / 1e12:,.2f}",
        "executed": f"{plan.hardware_flops / 1e12:,.2f}",
        "HBM GB": f"{plan.hbm_bytes / 1e9:,.1f}",
        "seconds": f"{time.total:.3g}",
        "of them exposed": f"{time.exposed:.3g}",
        "bound by": time.bound,
        "MFU": f"{time.mfu:.1%}" if plan.flops else "-",
        "ideal MFU": f"{ideal.mfu:.1%}" if plan.flops else "-",
    }


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows that have the same columns."""
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in table]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:,.2f}" if gib >= 0.01 or not size else f"{gib:.2g}"
