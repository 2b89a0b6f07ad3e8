"""python -m r1jax.plan: its tables, its exit codes and what it says of bad input."""

import json
import re
import sys
from pathlib import Path

import pytest

from r1jax.plan import __main__ as command
from r1jax.plan import aot

MINI = ["--config=configs/zero.py", "--topology=v5e:2x2", "--config.stages.zero.mesh={'fsdp': 2, 'expert': 2}"]


def run(capsys, *arguments):
    code = command.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_mini_fits_by_count_and_the_table_is_written(capsys, tmp_path):
    """All responses are as long as the cap of 112 tokens: three and a half segments a phase, which two updates share."""
    code, out, err = run(capsys, *MINI, "--analytic", "--mean-tokens=112", f"--out={tmp_path}")
    assert (code, err) == (0, "")
    for name in ("prefill", "decode", "old log-probs", "reference log-probs", "update", "apply"):
        assert f"| {name} " in out
    assert "modelled" in out
    written = tmp_path / "zero_zero_v5e_2x2"
    text = written.with_suffix(".md").read_text()
    assert out.strip() in text and "\n\nCommand: `r1jax plan --config=configs/zero.py --topology=v5e:2x2 " in text
    record = json.loads(written.with_suffix(".json").read_text())
    assert record["misfits"] == []
    assert {row["name"]: row["calls"] for row in record["programs"]}["decode"] == 1.75


def test_what_does_not_fit_is_named_with_the_bytes_that_lack(capsys):
    code, _, err = run(
        capsys,
        "--config=configs/r1/sft.py",
        "--topology=v5p:4x4x4",
        "--analytic",
        "--programs=apply",
        "--config.stages.supervised.mesh={'expert': 8, 'sequence': 8}",
    )
    assert code == 1
    assert re.fullmatch(
        r"does not fit: apply needs 2\d\d\.\d\d GiB a device of 95\.74: 1\d\d\.\d\d GiB too much\n", err
    )


def test_a_model_of_another_stage_is_looked_up_in_its_config(capsys):
    """rl1 starts from cold_start's supervised stage, which starts from DeepSeek-V3-Base."""
    code, out, err = run(capsys, "--config=configs/r1/rl1.py", "--topology=v5p:8x8x16", "--show-sharding")
    assert (code, err) == (0, "")
    assert "params/moe/ffn/w_up_EDF" in out and "58x256x7168x2048" in out
    assert "expert fsdp*sequence" in out
    assert "mesh {'fsdp': 16, 'expert': 8, 'sequence': 8}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v7x:2x2"], "unknown topology 'v7x:2x2'"),
        (["--topology=v5e:2x2", "--stage=base2"], "--stage=base2: the stages of configs/zero.py with programs are base, zero"),
        (["--topology=v5e:2x2", "--programs=updates"], "there is no program 'updates'; there are prefill, begin, decode"),
        (["--topology=v5e:2x2", "--compile=updates"], "--compile: there is no program 'updates'; there are prefill, begin"),
        (["--topology=v5e:2x2", "--config.stages.zero.mesh={'fsdp': 3}"], "do not divide the 4 here"),
        (["--topology=v5e:2x2", "--config.stages.zero.mesh={'fsdp': 8}"], "needs 8 devices, this machine has 4"),
        (["--topology=v5e:4x4", "--config.stages.zero.mesh={'tensor': 16}"], "of 16 does not divide 'heads', which is 4; make"),
        (["--topology=v5e:2x2", "--config.stages.zeros.mesh={}"], "configs/zero.py: there is no stage 'zeros'; near it: zero"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(capsys, arguments, words):
    code, out, err = run(capsys, "--config=configs/zero.py", "--analytic", *arguments)
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1


def test_a_stage_whose_model_nobody_knows(capsys, tmp_path):
    """Away from the configs it names, rl1.py cannot be followed."""
    text = Path("configs/r1/rl1.py").read_text().replace('after("cold_start", ', 'after("elsewhere", ')
    (tmp_path / "recipe.py").write_text(Path("configs/r1/recipe.py").read_text())
    (tmp_path / "rl1.py").write_text(text)
    arguments = [f"--config={tmp_path / 'rl1.py'}", "--topology=v5p:8x8x16", "--show-sharding"]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "elsewhere.py to look the model of 'supervised' up in; say --preset=NAME" in err
    code, out, _ = run(capsys, *arguments, "--preset=deepseek_v3")
    assert code == 0 and "58x256x7168x2048" in out


def test_a_libtpu_that_is_not_there_or_of_another_release(monkeypatch, tmp_path):
    library = tmp_path / "site" / "libtpu" / "libtpu.so"
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(library))
    with pytest.raises(aot.LibtpuError, match=r"is no file: pip install 'libtpu==.*--analytic needs none"):
        aot.check_libtpu()
    library.parent.mkdir(parents=True)
    library.touch()
    aot.check_libtpu()  # nobody knows its version
    (library.parents[1] / "libtpu-0.0.1.dist-info").mkdir()
    with pytest.raises(aot.LibtpuError, match=r"libtpu 0\.0\.1 does not match jax .*, which is made for libtpu=="):
        aot.check_libtpu()
    monkeypatch.delenv("TPU_LIBRARY_PATH")
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(aot.LibtpuError, match="libtpu, and it is not installed: pip install"):
        aot.check_libtpu()


def test_versions_match_by_the_requirement_of_jax():
    assert aot.matches("0.0.42.1", "==0.0.42.*") and not aot.matches("0.0.421", "==0.0.42.*")
    assert aot.matches("0.0.50", ">=0.0.40") and aot.wanted_libtpu().startswith("==0.0.")
