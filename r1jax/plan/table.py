"""The plans of a stage's programs as text: markdown tables, what they add up to, and what does not fit."""

import math
from collections.abc import Iterable, Sequence

import jax

from r1jax.plan.hardware import Topology
from r1jax.plan.program_plan import ProgramPlan
from r1jax.plan.programs import Assumed, StagePrograms
from r1jax.plan.roofline import MATMUL_EFFICIENCY, modelled, schedule

_GIB = 1 << 30


def render(
    plans: Sequence[ProgramPlan],
    topology: Topology,
    *,
    title: str,
    stage: StagePrograms,
    assumed: Assumed,
    efficiency: float = MATMUL_EFFICIENCY,
) -> str:
    """Memory of a device, then work and modelled time, then the stage as a whole; sizes in GiB, times in seconds."""
    axes = {name: size for name, size in stage.mesh.shape.items() if size > 1}
    how = "compiled" if all(plan.compile_seconds is not None for plan in plans) else "by count"
    head = [
        f"# {title}",
        "",
        f"{topology.num_chips:,} chips, {topology.num_devices:,} devices of {_gib(topology.hbm_bytes)} GiB; mesh {axes}; {how}.",
        "",
        *_markdown(
            ("program", "arguments", "output", "in place", "temporaries", "peak", "beside", "total", "of HBM"),
            plans,
            _memory(topology),
        ),
        "",
        "*temporaries*: the most at once; *peak*: the compiler's own figure; *beside*: what lies there and is no argument; *total*: the "
        "larger of the first four and of the peak, and what is beside.",
        "",
    ]
    work = [
        "Work of one call on one device. All times are *modelled* (r1jax.plan.roofline), with matmuls at "
        f'{efficiency:.0%} of the peak; "ideal" is at all of it. Nothing was run.',
        "",
        *_markdown(
            (
                "program",
                "calls a step",
                "TFLOP",
                "executed",
                "HBM GB",
                "seconds",
                "of them exposed",
                "bound by",
                "MFU",
                "ideal MFU",
            ),
            plans,
            _work(topology, efficiency),
        ),
        "",
        "Collectives, GiB a device and call, of the whole array that each puts together, adds up or exchanges:",
        "",
        *_collectives(plans),
        "",
    ]
    return "\n".join([*head, *work, *_summary(plans, topology, stage, assumed, efficiency)]) + "\n"


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
    return 2 * max(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)
    )


def _memory(topology: Topology):
    def row(plan: ProgramPlan) -> list[str]:
        sizes = (plan.argument_bytes, plan.output_bytes, plan.alias_bytes, plan.temp_bytes)
        peak = "-" if plan.peak_bytes is None else _gib(plan.peak_bytes)
        share = plan.total_bytes / topology.hbm_bytes
        fits = f"{share:.0%}" if share <= 1 else f"**{share:.0%}, does not fit**"
        return [plan.name, *map(_gib, sizes), peak, _gib(plan.resident_bytes), _gib(plan.total_bytes), fits]

    return row


def _work(topology: Topology, efficiency: float):
    def row(plan: ProgramPlan) -> list[str]:
        time, ideal = (modelled(plan, topology, efficiency=e) for e in (efficiency, 1.0))
        mfu = [f"{t.mfu:.1%}" if plan.flops else "-" for t in (time, ideal)]
        return [
            plan.name,
            f"{plan.calls:g}",
            f"{plan.flops / 1e12:,.2f}",
            f"{plan.hardware_flops / 1e12:,.2f}",
            f"{plan.hbm_bytes / 1e9:,.1f}",
            f"{time.total:.3g}",
            f"{time.exposed:.3g}",
            time.bound,
            *mfu,
        ]

    return row


def _collectives(plans: Sequence[ProgramPlan]) -> list[str]:
    kinds = sorted({kind for plan in plans for kind in plan.collectives})
    if not kinds:
        return ["none"]
    with_some = [plan for plan in plans if plan.collectives]
    return _markdown(
        ("program", *kinds),
        with_some,
        lambda plan: [plan.name, *(_gib(plan.collectives.get(kind, 0)) for kind in kinds)],
    )


def _summary(plans, topology: Topology, stage: StagePrograms, assumed: Assumed, efficiency: float) -> list[str]:
    total = schedule(
        plans, topology, tokens_per_step=stage.tokens_per_step, num_steps=stage.num_steps, efficiency=efficiency
    )
    length = assumed.mean_new_tokens if stage.stage in ("rl", "reject") else assumed.mean_document_tokens
    rollout = f", {total.rollout_seconds:,.1f} of them sampling" if total.rollout_seconds else ""
    return [
        f"*Modelled*, at {length:,} tokens a sequence on average (assumed), {stage.tokens_per_step:,.0f} tokens a step:",
        "",
        f"- {total.step_seconds:,.1f} s a step{rollout}",
        f"- {total.tokens_per_second:,.0f} tokens/s, {total.tokens_per_second / topology.num_chips:,.1f} a chip",
        f"- {stage.num_steps:,} steps: {total.days:,.2f} days, {total.chip_hours:,.0f} chip-hours",
        f"- host memory for loading the weights: {_gib(host_bytes(stage.state['params']))} GiB, one shard at a time",
    ]


def _markdown(columns: Sequence[str], plans: Iterable[ProgramPlan], row) -> list[str]:
    rows = [list(columns), *map(row, plans)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |" for cells in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _gib(size: float) -> str:
    gib = size / _GIB
    return f"{gib:,.2f}" if gib >= 0.01 or not size else f"{gib:.2g}"
