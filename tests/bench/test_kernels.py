import json
import sys

import jax
import jax.numpy as jnp
import pytest

from r1jax.bench import __main__ as command_line
from r1jax.bench import kernels
from r1jax.kernels import hardware
from r1jax.kernels.flash_attention import flash_attention
from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.paged_decode import gqa_decode, mla_decode
from tests.kernels.jaxprs import kernel_costs
from tests.kernels.shape_arrays import attention_arrays, decode_arrays

KERNELS = {"flash_attention", "mla_decode", "gqa_decode", "route", "expert_ffn", "token_logprob"}


def test_every_kernel_shape_and_generation_has_a_modelled_row():
    rows = list(kernels.modelled_passes(list(hardware.GENERATIONS)))
    assert {row.kernel.split()[0] for row in rows} == KERNELS
    assert {row.generation for row in rows} == set(hardware.GENERATIONS)
    assert len({(row.kernel, row.shape, row.generation) for row in rows}) == len(rows)
    for row in rows:
        assert row.cost.flops > 0 and row.cost.bytes_accessed > 0 and row.seconds > 0, row
        if row.unfused_bytes and "backward" not in row.kernel:
            assert row.cost.bytes_accessed < row.unfused_bytes, row


def test_a_row_is_the_roofline_of_its_flops_and_bytes():
    """V3's experts are bound by FLOPs while training and by the bytes of the weights while decoding."""
    rows = {(row.kernel, row.shape): row for row in kernels.modelled_passes(["v5p"])}
    train, decode = (rows["expert_ffn forward", name] for name in ("v3", "v3_decode"))
    assert train.cost.flops == 6 * 32_768 * 7168 * 2048
    assert train.seconds == pytest.approx(train.cost.flops / 459e12, rel=1e-3)
    assert decode.seconds == pytest.approx(decode.cost.bytes_accessed / 2.46e12, rel=1e-3)
    assert "FLOPs" in str(train) and "bytes" in str(decode)
    assert len(str(train)) == len(kernels.HEADER)


def flash(shape):
    def gradients(arrays, offset):
        arrays = dict(arrays)
        rest = {name: arrays.pop(name) for name in ("q_segments_BT", "kv_segments_BS")} | {
            "scale": 0.1,
            "q_offset": offset,
        }

        def attend(arrays):
            return flash_attention(*(arrays[n] for n in ("q_BTNH", "k_BSJH", "v_BSJU")), **rest, **ropes_of(arrays))

        return jax.grad(lambda arrays: attend(arrays).astype(jnp.float32).sum())(arrays)

    def ropes_of(arrays):
        return {name: arrays[name] for name in ("q_rope_BTNR", "k_rope_BSR") if name in arrays}

    return gradients, (attention_arrays(shape), jax.ShapeDtypeStruct((), jnp.int32))


def decode(function):
    return lambda shape: (lambda arrays, more: function(**arrays, **more, scale=0.1), decode_arrays(shape))


TRACED = {"flash_attention": flash, "mla_decode": decode(mla_decode), "gqa_decode": decode(gqa_decode)}


@pytest.mark.parametrize("kernel", TRACED)
def test_attention_kernels_state_the_costs_of_the_table(kernel):
    """As the tests of the other kernels have it for theirs; traced for a v5p, nothing is compiled."""
    device = jax.sharding.AbstractDevice("TPU v5", 2, "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
    rows = {(row.kernel, row.shape): row.cost for row in kernels.modelled_passes(["v5p"])}
    for name, shape in SHAPES[kernel].items():
        function, arrays = TRACED[kernel](shape)
        with jax.sharding.use_abstract_mesh(mesh):
            stated = kernel_costs(function, *arrays)
        if kernel == "flash_attention":
            assert set(stated) == {f"flash_attention_{part}" for part in ("fwd", "dq", "dkv")}
            forward = stated.pop("flash_attention_fwd")
            assert forward == rows["flash_attention forward", name]
            backward = rows["flash_attention backward", name]
            for field in ("flops", "bytes_accessed", "transcendentals"):
                assert sum(getattr(cost, field) for cost in stated.values()) == getattr(backward, field)
        else:
            assert stated == {kernel: rows[kernel, name]}


def test_command_prints_the_table_and_what_it_measured(monkeypatch, capsys):
    def twice(x, *, implementation):
        return 2 * x

    monkeypatch.setattr(kernels, "measured", lambda: {"twice": (twice, [jnp.ones(3)])})
    monkeypatch.setattr(command_line, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench", "kernels", "--generations", "v6e", "--repeats", "1"])
    command_line.main()
    out = capsys.readouterr().out
    assert out.startswith("modelled:") and " v6e " in out and " v5e " not in out
    figures = json.loads(out[out.index("\n{") :])["cpu_milliseconds"]["twice"]
    assert set(figures) == {"reference", "xla"} and figures["xla"]["with_gradient"] > 0


def test_measured_operations_run_in_both_implementations():
    assert len(kernels.measured()) == 3
    for function, arrays in kernels.measured().values():
        shapes = [
            jax.eval_shape(lambda *a, n=n, f=function: f(*a, implementation=n), *arrays) for n in ("reference", "xla")
        ]
        assert shapes[0] == shapes[1]
