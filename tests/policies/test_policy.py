"""What a policy's spec must be, and what a damaged model.json gets."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from r1jax.hf import Pretrained, save_pretrained
from r1jax.policies.policy import Policy, check_init, load_policy
from r1jax.sharding import make_mesh
from r1jax.tasks.mini.corpus import corpus_text
from r1jax.text.chat import render
from tests.tiny import POLICY


def without(spec, key):
    return {name: value for name, value in spec.items() if name != key}


def test_the_specs_of_the_tests_and_configs_pass():
    check_init(POLICY)
    check_init({"kind": "stage", "path": "runs/base"})
    check_init({"kind": "gguf", "path": "smollm2", "model": {}})


TOKENIZER = POLICY["tokenizer"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "init: kind=None must be one of random, stage, gguf"),
        ({"kind": "stages", "path": "x"}, "init: kind='stages' must be one of random, stage, gguf"),
        ({"kind": "stage"}, "init: missing key path"),
        ({"kind": "stage", "path": "x", "model": {}}, "init: unknown key model"),
        ({"kind": "gguf", "paht": "x"}, r"init: unknown key paht \(near it: path\)"),
        ({"kind": "gguf", "path": "x", "model": {"layers": 2}}, r"init.model: unknown key layers"),
        (without(POLICY, "preset"), "init: missing key preset"),
        (POLICY | {"preset": "mini_v4"}, "mini_v4"),
        (POLICY | {"model": {"model_dims": 8}}, r"init.model: unknown key model_dims \(near it: model_dim\)"),
        (POLICY | {"model": {"model_dim": 0}}, "model_dim must be positive"),
        (POLICY | {"tokenizer": without(TOKENIZER, "num_texts")}, "init.tokenizer: missing key num_texts"),
        (POLICY | {"tokenizer": TOKENIZER | {"vocab_size": 0}}, "init.tokenizer: vocab_size=0"),
        (POLICY | {"tokenizer": TOKENIZER | {"source": {}}}, "init.tokenizer.source: missing key function"),
    ],
)
def test_a_bad_spec_is_named_by_its_key(spec, words):
    with pytest.raises(ValueError, match=words):
        check_init(spec)
    with pytest.raises(ValueError, match=words):
        load_policy(spec, mesh=make_mesh(), seed=0)


def conversation(index, *, seed):
    """A text of the corpus as messages, of two turns before the last."""
    question, completion = corpus_text(index, seed=seed)
    turns = [("user", question), ("assistant", "yes"), ("user", "go on"), ("assistant", completion)]
    return [{"role": role, "content": content} for role, content in turns]


def test_a_tokenizer_is_trained_on_conversations_too(monkeypatch):
    seen = []

    def train(texts, **options):
        seen.extend(texts)
        raise InterruptedError

    monkeypatch.setattr("r1jax.policies.policy.train_tokenizer", train)
    for function in ("r1jax.tasks.mini.corpus:corpus_text", f"{__name__}:conversation"):
        spec = POLICY | {"tokenizer": TOKENIZER | {"source": {"function": function}, "template": "v3", "num_texts": 1}}
        with pytest.raises(InterruptedError):
            load_policy(spec, mesh=make_mesh(), seed=0)
    question, completion = corpus_text(0, seed=0)
    asked = [{"role": "user", "content": question}]
    said = [*asked, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"}]
    assert seen == [render(messages, template="v3") + completion for messages in (asked, said)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The work directory of a stage as far as model.json and the tokenizer go."""
    workdir = tmp_path_factory.mktemp("base")
    policy, _, _ = load_policy(POLICY, mesh=make_mesh(), seed=0)
    assert isinstance(policy, Policy)
    policy.save(workdir)
    (workdir / "DONE").touch()
    return workdir


def test_model_json_is_whole_or_named(saved):
    file = saved / "model.json"
    whole = file.read_text()
    fields = json.loads(whole)
    for text, words in [
        (whole[: len(whole) // 2], "Expecting|Unterminated|delimiter"),
        (json.dumps(without(fields, "vocab_size")), "vocab_size"),
        (json.dumps(fields | {"num_heds": 2}), "num_heds"),
        (json.dumps(fields | {"num_heads": 0}), "num_heads must be positive"),
        ("[]", ""),
    ]:
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"{file} is damaged, or of another version: .*({words})"):
            load_policy({"kind": "stage", "path": str(saved)}, mesh=make_mesh(), seed=0)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="model.json"):
        load_policy({"kind": "stage", "path": str(saved)}, mesh=make_mesh(), seed=0)


def test_a_hugging_face_folder(tmp_path):
    policy, params, buffers = load_policy(POLICY, mesh=make_mesh(), seed=0)
    made = Pretrained(policy.model, params, buffers, tokenizer=policy.tokenizer)
    save_pretrained(made, tmp_path / "folder", dtype="bfloat16")
    spec = {"kind": "hf", "path": str(tmp_path / "folder"), "model": {"dtype": "bfloat16", "remat": "full"}}
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    loaded, again, biases = load_policy(spec, mesh=mesh, seed=0)
    assert (loaded.model.config.dtype, loaded.model.config.remat) == ("bfloat16", "full")
    assert loaded.tokenizer.encode("12 + 7") == policy.tokenizer.encode("12 + 7")
    for ours, theirs in zip(jax.tree.leaves((again, biases)), jax.tree.leaves((params, buffers)), strict=True):
        assert ours.dtype == np.float32 and ours.sharding.mesh == mesh
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(ml_dtypes.bfloat16))
    with pytest.raises(ValueError, match=r"folder is no mini_llama \(init\.preset\): .*attention is mla and not gqa"):
        load_policy(spec | {"preset": "mini_llama"}, mesh=mesh, seed=0)
    (tmp_path / "folder" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        load_policy(spec, mesh=mesh, seed=0)
