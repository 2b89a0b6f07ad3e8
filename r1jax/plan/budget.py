"""The memory and work of a stage's programs by count: what ``--analytic`` shows, in seconds, without a compiler.

Arguments and what lies beside them are exact: the stage's own arrays, laid out by the sharding rules. What the forward pass
keeps is JAX's own answer (``r1jax.plan.saved``). The rest is what a reader of the programs would expect to lie in memory at the
fullest moment, by these rules (compared with the compiler's figures in tests/plan/test_budget.py; small programs within 15 %):

- *layer, forward*: the hidden state twice; attention: queries and keys of all heads, twice (the kernel wants heads first);
  experts: ``FORWARD_ROWS`` arrays of the routed rows in float32; the layer's weights, put together.
- *layer, backward*: what the layer keeps when it is computed again; keys and values of all tokens of a row in float32, twice;
  ``BACKWARD_ROWS`` arrays of routed rows, ``FORWARD_ROWS`` of the tokens of all devices where those are gathered; the gradients
  of the weights, put together, in float32.
- *head*: its weights put together in the type of the activations; backward their gradient in float32 twice (a loop's sum and
  its copy) and that of its rows.
- *update*: the gradient of all parameters in float32, before it is added to the sum.
- *apply*: one more copy of what is updated stays until the norm of the whole is known.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.models.transformer import Model, make_model
from r1jax.plan import flops
from r1jax.plan.hardware import Topology
from r1jax.plan.local import Local
from r1jax.plan.program_plan import Exchange, ProgramPlan
from r1jax.plan.programs import Program
from r1jax.plan.saved import saved_bytes
from r1jax.sharding import bytes_on_device

FORWARD_ROWS, BACKWARD_ROWS = 4, 12
"""Arrays [routed rows, model width] in float32 that live at once in an expert layer."""


@dataclasses.dataclass(frozen=True)
class _Count:
    """What the kinds of program differ in. Bytes are a device's, FLOPs all devices' together."""

    output_bytes: float
    alias_bytes: float
    temp_bytes: float
    flops: float
    hardware_flops: float
    hbm_bytes: float
    exchanges: list[Exchange]


def count(program: Program, model: Model, topology: Topology) -> ProgramPlan:
    """The plan of one program on its mesh. Raises ValueError for a kind that is not counted."""
    if program.kind not in _KINDS:
        raise ValueError(
            f"{program.name}: no count for programs of the kind {program.kind!r}; there is for {sorted(_KINDS)}"
        )
    arguments, resident = bytes_on_device(program.arguments), bytes_on_device(program.resident)
    counted = _KINDS[program.kind](program, model, topology.generation)
    collectives: dict[str, float] = {}
    for exchange in counted.exchanges:
        collectives[exchange.kind] = collectives.get(exchange.kind, 0.0) + exchange.bytes
    num_devices = program.mesh.size
    return ProgramPlan(
        name=program.name,
        calls=program.calls,
        argument_bytes=arguments,
        output_bytes=int(counted.output_bytes),
        alias_bytes=int(counted.alias_bytes),
        temp_bytes=int(counted.temp_bytes),
        peak_bytes=None,
        resident_bytes=resident,
        flops=counted.flops / num_devices,
        hardware_flops=counted.hardware_flops / num_devices,
        hbm_bytes=counted.hbm_bytes + arguments,
        collectives=collectives,
        exchanges=tuple(counted.exchanges),
    )


def _forward(local: Local, *, has_head: bool, segment_length: float) -> flops.Forward:
    tokens = local.rows * local.length
    pairs = flops.causal_pairs(tokens=tokens, segment_length=segment_length)
    return flops.forward(local.config, tokens=tokens, pairs=pairs, head_tokens=tokens if has_head else 0)


def _layer_weights(local: Local) -> int:
    """Numbers of the largest layer's parameters that a device puts together (what "tensor" splits stays split)."""
    c = local.config
    heads = local.parts("heads", c.num_heads)
    one = flops.forward(dataclasses.replace(c, num_mtp_layers=0), tokens=1, pairs=0, head_tokens=0)
    attention = (one.projections + one.keys) / 2 / c.num_layers / heads
    dense = 3 * c.model_dim * c.ffn_dim / local.parts("mlp", c.ffn_dim)
    if not c.num_moe_layers:
        return int(attention + dense)
    shared = 3 * c.num_shared_experts * c.model_dim * c.expert_ffn_dim / local.parts("mlp", c.expert_ffn_dim)
    return int(attention + local.expert_weights + shared)


def _layer_forward(local: Local) -> float:
    """Bytes of a layer's forward pass at the fullest, of either of its halves."""
    c, t, a = local.config, local.tokens, local.itemsize
    queries, keys = local.attention_width()
    attention = 2 * (t * queries + local.keys * keys) * a
    dense = 4 * t * c.ffn_dim // local.parts("mlp", c.ffn_dim) * a
    ffn = FORWARD_ROWS * local.routed_bytes if c.num_moe_layers else dense
    return 2 * t * c.model_dim * a + max(attention, ffn) + _layer_weights(local) * a


def _layer_backward(local: Local, generation: str) -> float:
    """Bytes of a layer's backward pass at the fullest; with ``remat`` what it computes again first."""
    c, a = local.config, local.itemsize
    _, keys = local.attention_width()
    attention = 2 * local.keys * keys * 4
    dense = local.tokens * c.ffn_dim // local.parts("mlp", c.ffn_dim) * 4
    gathered = 0 if local.is_exchanged or local.moved == 1 else local.moved * local.tokens * c.model_dim * 4
    ffn = BACKWARD_ROWS * local.routed_bytes + FORWARD_ROWS * gathered if c.num_moe_layers else dense
    again = _one_layer_saved(local, generation) if c.remat != "none" else 0
    weights = _layer_weights(local) * (a + 4)
    return 2 * local.tokens * c.model_dim * a + again + attention + ffn + weights


def _one_layer_saved(local: Local, generation: str) -> int:
    """Bytes that one layer keeps without ``remat``, of the larger kind; twice the layers less once, so the head is not in it."""
    c = local.config
    dense = 0 if c.num_moe_layers else 1

    def saved(num_layers: int) -> int:
        config = dataclasses.replace(c, num_layers=num_layers, num_dense_layers=0, num_mtp_layers=0, remat="none")
        return saved_bytes(make_model(config), local.mesh, generation, rows=local.rows, length=local.length)

    return saved(2 + dense) - saved(1 + dense)


def _head(local: Local, *, is_backward: bool) -> float:
    c = local.config
    numbers = c.vocab_size // local.parts("vocab", c.vocab_size) * c.model_dim
    backward = 2 * numbers * 4 + local.tokens * c.model_dim * 4 if is_backward else 0
    return numbers * local.itemsize + local.tokens * c.model_dim * local.itemsize + backward


def _weights_read(local: Local, passes: int) -> float:
    """HBM bytes of putting the layers' weights together and reading them, in ``passes`` passes."""
    return 2.0 * passes * local.config.num_layers * _layer_weights(local) * local.itemsize


def _activations_moved(local: Local, passes: float) -> float:
    """HBM bytes of activations: each half of a layer reads and writes what is widest in it, about twice."""
    c = local.config
    queries, keys = local.attention_width()
    ffn = 2 * local.routed_rows * c.model_dim if c.num_moe_layers else 3 * local.tokens * c.ffn_dim
    per_layer = 4 * local.tokens * c.model_dim + 2 * (local.tokens * queries + local.keys * keys) + 2 * ffn
    return passes * c.num_layers * per_layer * local.itemsize


def _passed_on(local: Local, passes: int) -> list[Exchange]:
    """What forward passes without a backward one give other devices: tokens for experts, sums, keys."""
    of_experts = local.expert_exchanges(passes=passes, has_gradients=False)
    return of_experts + local.activation_exchanges(passes=passes, has_gradients=False)


def _local(program: Program, model: Model) -> Local:
    return Local(model, program.mesh, program.sizes["rows"], program.sizes["length"])


def _segment(program: Program) -> int:
    """Tokens of a sequence in the rows of a program; where nobody says, a row is one."""
    return program.sizes.get("segment", program.sizes["length"])


def _slowest(program: Program, local: Local) -> float:
    return flops.slowest_part(length=local.length, num_parts=local.sequence_parts, segment_length=_segment(program))


def _score(program: Program, model: Model, generation: str) -> _Count:
    local, has_head = _local(program, model), program.kind == "score"
    forward = _forward(local, has_head=has_head, segment_length=_segment(program))
    work = forward.total + (local.sequence_parts - 1) * forward.keys + (_slowest(program, local) - 1) * forward.scores
    exchanges = local.weight_exchanges(gathers=1, has_gradients=False)
    return _Count(
        output_bytes=local.tokens * 4,
        alias_bytes=0,
        temp_bytes=max(_layer_forward(local), _head(local, is_backward=False) if has_head else 0),
        flops=forward.total,
        hardware_flops=work,
        hbm_bytes=_weights_read(local, 1) + _activations_moved(local, 1),
        exchanges=exchanges + _passed_on(local, 1),
    )


def _accumulate(program: Program, model: Model, generation: str) -> _Count:
    local, c = _local(program, model), model.config
    grads = bytes_on_device(program.arguments[2])
    saved = saved_bytes(model, local.mesh, generation, rows=local.rows, length=local.length)
    forward = _forward(local, has_head=True, segment_length=_segment(program))
    passes = 1 if c.remat == "none" else 2
    work = flops.hardware_train(
        forward, remat=c.remat, num_sequence_parts=local.sequence_parts, slowest=_slowest(program, local)
    )
    exchanges = local.weight_exchanges(gathers=2, has_gradients=True)
    exchanges += local.expert_exchanges(passes=passes, has_gradients=True)
    return _Count(
        output_bytes=grads,
        alias_bytes=grads,
        temp_bytes=grads + saved + max(_layer_backward(local, generation), _head(local, is_backward=True)),
        flops=3 * forward.total,
        hardware_flops=work,
        hbm_bytes=_weights_read(local, 3) + 2 * saved + _activations_moved(local, passes + 2) + 3 * grads,
        exchanges=exchanges + local.activation_exchanges(passes=passes, has_gradients=True),
    )


def _zeros(program: Program, model: Model, generation: str) -> _Count:
    grads = bytes_on_device(program.resident["params"])
    return _Count(grads, 0, 0, 0, 0, grads, [])


def _apply(program: Program, model: Model, generation: str) -> _Count:
    state = bytes_on_device(program.arguments[0])
    params = bytes_on_device(program.arguments[0]["params"])
    numbers = sum(leaf.size for leaf in jax.tree.leaves(program.arguments[0]["params"]))
    return _Count(state, state, params, 0, 16 * numbers, state, [])


def _reshard(program: Program, model: Model, generation: str) -> _Count:
    """One array from the trainer's layout to the sampler's, or one layer of it into the copy (``make_layer_reshard``).

    At worst, as the compiler does it for V3's experts, what is moved is put together whole on every device, by a sum, and
    twice there.
    """
    output, (*copies, source) = program.sizes["output_bytes"], jax.tree.leaves(program.arguments)[:2]
    layers = source.shape[0] if copies else 1
    whole = source.size * jnp.dtype(model.config.dtype).itemsize / layers
    exchange = Exchange("all-reduce", whole, program.mesh.size, False)
    return _Count(output, output if copies else 0, 2 * whole, 0, 0, output / layers, [exchange])


def _prefill(program: Program, model: Model, generation: str) -> _Count:
    prompts, length, samples = (program.sizes[name] for name in ("prompts", "length", "samples"))
    local = Local(model, program.mesh, prompts, length, role="rollout")
    forward = _forward(local, has_head=False, segment_length=length)
    cache = _cache_bytes(model, rows=prompts, slots=length) / local.parts("batch", prompts)
    rows = prompts * samples
    repeated = _cache_bytes(model, rows=rows, slots=length) / local.parts("batch", rows)
    return _Count(
        output_bytes=repeated,
        alias_bytes=0,
        temp_bytes=cache + _layer_forward(local),
        flops=forward.total,
        hardware_flops=forward.total,
        hbm_bytes=_activations_moved(local, 1) + cache + repeated,
        exchanges=_passed_on(local, 1),
    )


def _decode(program: Program, model: Model, generation: str) -> _Count:
    """Memory at the longest cache; work of the mean call of a phase.

    With "mean_slots", the tokens of a sequence on average, so many of the rows are alive on average as that is of the longest, with
    a cache of that length; without it all are, with half of the longest.
    """
    rows, slots, steps = (program.sizes[name] for name in ("rows", "slots", "steps"))
    local, c = Local(model, program.mesh, rows, 1, role="rollout"), model.config
    own_rows = local.tokens
    cache = _cache_bytes(model, rows=rows, slots=slots) / local.parts("batch", rows)
    weights = bytes_on_device(program.arguments[:2])
    mean = min(program.sizes.get("mean_slots", slots), slots)
    alive, read = (mean / slots, mean) if mean < slots else (1.0, slots / 2)
    forward = flops.forward(
        c, tokens=alive * rows, pairs=alive * rows * read, head_tokens=alive * rows, is_absorbed=True
    )
    vocab = c.vocab_size // local.parts("vocab", c.vocab_size)
    logits, scores = 3 * own_rows * vocab * 4, 2 * own_rows * local.heads * slots * 4
    state = bytes_on_device(program.arguments[2])
    return _Count(
        output_bytes=state,
        alias_bytes=state,
        temp_bytes=max(logits, scores + (FORWARD_ROWS * local.routed_bytes if c.num_experts else 0)),
        flops=steps * forward.total,
        hardware_flops=steps * forward.total,
        hbm_bytes=steps * (weights + cache * alive * read / slots) - bytes_on_device(program.arguments),
        exchanges=_passed_on(local, steps),
    )


def _cache_bytes(model: Model, *, rows: int, slots: int) -> float:
    cache = jax.eval_shape(lambda: model.init_cache(batch=rows, length=slots))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


_KINDS: dict[str, Callable[[Program, Model, str], _Count]] = {
    "score": _score,
    "reward": _score,
    "zeros": _zeros,
    "accumulate": _accumulate,
    "apply": _apply,
    "reshard": _reshard,
    "prefill": _prefill,
    "decode": _decode,
}
