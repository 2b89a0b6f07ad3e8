import json
import sys

import jax
import jax.numpy as jnp
import pytest

from r1jax.bench import __main__ as command_line
from r1jax.bench import kernels
from r1jax.kernels import hardware

KERNELS = {"flash_attention", "mla_decode", "gqa_decode", "route", "expert_ffn", "token_logprob"}


def test_every_kernel_shape_and_generation_has_a_modelled_row():
    rows = list(kernels.modelled(list(hardware.GENERATIONS)))
    assert {row.kernel.split()[0] for row in rows} == KERNELS
    assert {row.generation for row in rows} == set(hardware.GENERATIONS)
    assert len({(row.kernel, row.shape, row.generation) for row in rows}) == len(rows)
    for row in rows:
        assert row.cost.flops > 0 and row.cost.bytes_accessed > 0 and row.seconds > 0, row
        if row.unfused_bytes and "backward" not in row.kernel:
            assert row.fraction_of_unfused < 1, row


def test_a_row_is_the_roofline_of_its_flops_and_bytes():
    """V3's experts are bound by FLOPs while training and by the bytes of the weights while decoding."""
    rows = {(row.kernel, row.shape): row for row in kernels.modelled(["v5p"])}
    train, decode = (rows["expert_ffn forward", name] for name in ("v3", "v3_decode"))
    assert train.cost.flops == 6 * 32_768 * 7168 * 2048
    assert train.seconds == pytest.approx(train.cost.flops / 459e12, rel=1e-3)
    assert decode.seconds == pytest.approx(decode.cost.bytes_accessed / 2.46e12, rel=1e-3)
    assert "FLOPs" in str(train) and "bytes" in str(decode)
    assert len(str(train)) == len(kernels.HEADER)


def test_command_prints_the_table_and_what_it_measured(monkeypatch, capsys):
    def twice(x, *, implementation):
        return 2 * x

    monkeypatch.setattr(kernels, "measured", lambda: {"twice": (twice, [jnp.ones(3)])})
    monkeypatch.setattr(command_line, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench", "kernels", "--generations", "v6e", "--repeats", "1"])
    command_line.main()
    out = capsys.readouterr().out
    assert out.startswith("modelled:") and " v6e " in out and " v5e " not in out
    told = json.loads(out[out.index("\n{") :])["cpu_milliseconds"]["twice"]
    assert set(told) == {"reference", "xla"} and told["xla"]["with_gradient"] > 0


def test_measured_operations_run_in_both_implementations():
    assert len(kernels.measured()) == 3
    for function, arrays in kernels.measured().values():
        shapes = [
            jax.eval_shape(lambda *a, n=n, f=function: f(*a, implementation=n), *arrays) for n in ("reference", "xla")
        ]
        assert shapes[0] == shapes[1]
