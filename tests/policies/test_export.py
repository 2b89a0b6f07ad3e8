import shutil
import sys

import jax
import numpy as np
import pytest

from r1jax.hf import load_pretrained
from r1jax.policies.export import main
from r1jax.policies.sample import load_policy
from r1jax.text.chat import stop_ids
from tests.policies.stage_folder import DENSE_R1, write_stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """(work directory of a finished stage, its params and buffers)."""
    workdir = tmp_path_factory.mktemp("stage")
    return workdir, *write_stage(workdir)


def test_a_stage_becomes_a_folder(stage, tmp_path, capsys):
    workdir, params, buffers = stage
    assert main(["--from", str(workdir), "--to", str(tmp_path / "folder")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "folder")
    model = load_pretrained(tmp_path / "folder", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, (model.params, model.buffers), (params, buffers))
    assert model.tokenizer is not None and model.tokenizer.vocab_size == model.config.vocab_size
    assert {"do_sample": True, "temperature": 0.6, "top_p": 0.95}.items() <= model.generation.items()


@pytest.mark.usefixtures("quick_compilation")
def test_a_folder_has_the_chat_template_and_all_stop_ids(tmp_path):
    write_stage(tmp_path / "stage", **DENSE_R1)
    assert main(["--from", str(tmp_path / "stage"), "--to", str(tmp_path / "folder")]) == 0
    policy, folder = load_policy(tmp_path / "stage"), load_policy(tmp_path / "folder")
    assert folder.template == "tokenizer" and folder.encode("1 + 1?") == policy.encode("1 + 1?")
    stops = stop_ids(policy.tokenizer, policy.template)
    assert set(stop_ids(folder.tokenizer, "tokenizer")) == set(stops) and len(stops) == 2


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


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # transformers' and torch's own warnings
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the oracle is installed on Python 3.11 only")
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("fields", "num_turns"), [({}, 1), (DENSE_R1, 2)], ids=["mini V3", "dense student"])
def test_transformers_answers_as_the_policy_does(tmp_path, fields, num_turns):
    import torch
    import transformers

    write_stage(tmp_path / "stage", **fields)
    assert main(["--from", str(tmp_path / "stage"), "--to", str(tmp_path / "folder")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    policy = load_policy(tmp_path / "stage")
    questions = ["Which two of 20, 10, 5, 4 make 14", " 你好 "]
    turns = [{"role": role, "content": content} for content in questions for role in ("user", "assistant")]
    asked = [[{"role": "user", "content": question}] for question in questions]
    for messages in [*asked, turns[: 2 * num_turns - 1]]:
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        text, ids = policy.encode(messages)
        assert theirs[0].tolist() == ids
        assert text == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ((ours,),) = policy.generate([messages], temperature=0, max_new_tokens=12)
        generated = model.generate(theirs, do_sample=False, max_new_tokens=12)[0, len(ids) :].tolist()
        assert generated == ours.token_ids.tolist()
