import shutil

import jax
import numpy as np
import pytest

from r1jax.hf import load_pretrained
from r1jax.policies.export import main
from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.policy import AnyInit
from r1jax.specs.reader import read
from r1jax.training.checkpoint import Checkpoints
from tests.tiny import POLICY, shaken


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """(work directory of a finished stage, its params and buffers)."""
    workdir = tmp_path_factory.mktemp("stage")
    policy, _, _ = load_init(read(AnyInit, POLICY), mesh=make_mesh(), seed=0)
    params, buffers = shaken(policy.model)
    policy.save(workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(3, {"params": params, "buffers": buffers}, extra={})
    (workdir / "DONE").touch()
    return workdir, params, buffers


def test_a_stage_becomes_a_folder(stage, tmp_path, capsys):
    workdir, params, buffers = stage
    assert main(["--from", str(workdir), "--to", str(tmp_path / "folder")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "folder")
    model = load_pretrained(tmp_path / "folder", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, (model.params, model.buffers), (params, buffers))
    assert model.tokenizer is not None and model.tokenizer.vocab_size == model.config.vocab_size


def test_what_the_user_can_mend_is_one_message(stage, tmp_path, capsys):
    assert main(["--from", str(tmp_path), "--to", str(tmp_path / "folder")]) == 2
    assert "is not the work directory of a finished stage" in capsys.readouterr().err
    assert main(["--from", str(stage[0]), "--to", str(stage[0])]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert main(["--from", str(stage[0]), "--to", str(tmp_path / "folder"), "--step", "9"]) == 2
    assert "9" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_the_directory_of_a_run_names_its_stages(stage, tmp_path, capsys):
    shutil.copytree(stage[0], tmp_path / "run" / "zero")
    assert main(["--from", str(tmp_path / "run"), "--to", str(tmp_path / "folder")]) == 2
    words = f"{tmp_path / 'run'} is the directory of a run; say which stage: {tmp_path / 'run' / 'zero'}\n"
    assert capsys.readouterr().err == f"error: {words}"
