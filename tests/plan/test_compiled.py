"""What the plan says is what the TPU compiler says: small programs, one of V3's width, and one that does not fit."""

import pytest

from r1jax.plan import __main__ as command
from tests.kernels.tpu_aot import HAS_LIBTPU

pytestmark = [pytest.mark.tpu_compile, pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed")]

V3_LAYERS = "{'dtype': 'bfloat16', 'remat': 'full', 'expert_parallel': 'ragged_all_to_all', 'num_layers': 4}"


def run(capsys, *arguments):
    code = command.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_minis_update_and_decode(capsys, tmp_path):
    code, out, _ = run(
        capsys,
        "--config=configs/zero.py",
        "--topology=v5e:2x2",
        "--config.stages.zero.mesh={'fsdp': 2, 'expert': 2}",
        "--programs=decode,update",
        "--mean-tokens=32",
        f"--out={tmp_path}",
    )
    assert code == 0
    assert "; compiled." in out and "| all-gather" in out
    assert (tmp_path / "zero_zero_v5e_2x2.md").read_text().endswith("Everything fits.\n")


def test_a_forward_pass_of_v3s_width(capsys):
    """Three dense layers and one of 256 experts, whose tokens go to them; a row's tokens are on two devices."""
    code, out, err = run(
        capsys,
        "--config=configs/r1/zero.py",
        "--topology=v5p:2x2x1",
        f"--config.stages.rl.init.model={V3_LAYERS}",
        "--config.stages.rl.mesh={'expert': 2, 'sequence': 2}",
        "--config.stages.rl.rollout_mesh={'expert': 4}",
        "--config.stages.rl.row_length=4096",
        "--config.stages.rl.max_new_tokens=2048",
        "--config.stages.rl.rows_per_microbatch=2",
        "--programs=old log-probs",
        "--mean-tokens=1024",
    )
    assert "; compiled." in out and "ragged-all-to-all |" in out
    assert (
        code == 1 and "does not fit: old log-probs" in err
    )  # with AdamW's state and the reference as well, on four chips


def test_the_compilers_refusal_names_the_program_and_the_bytes(capsys):
    """AdamW's state of eight billion parameters, on four chips of 16 GB."""
    code, _, err = run(
        capsys,
        "--config=configs/r1/distill_llama_8b.py",
        "--topology=v5e:2x2",
        "--config.stages.supervised.mesh={'fsdp': 4}",
        "--config.stages.supervised.rows_per_microbatch=4",
        "--programs=apply",
    )
    assert code == 1
    assert "does not fit: apply" in err and "15.75" in err
