"""What a policy's spec must be, and what a damaged model.json gets."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from r1jax.hf import Pretrained, save_pretrained
from r1jax.policies import reward_model
from r1jax.policies.policy import Policy, config_of, load_init
from r1jax.sharding import make_mesh
from r1jax.specs.policy import AnyInit
from r1jax.specs.reader import read
from r1jax.tasks.mini.corpus import corpus_text
from r1jax.text.chat import render
from tests.tiny import POLICY


def without(spec, key):
    return {name: value for name, value in spec.items() if name != key}


def load(spec, mesh=None):
    return load_init(read(AnyInit, spec, "init"), mesh=mesh or make_mesh(), seed=0)


TOKENIZER = POLICY["tokenizer"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, r"the key 'init\.kind' is missing: it must be one of 'random', 'stage', 'gguf', 'hf'"),
        ({"kind": "stage"}, r"'init\.path' is missing"),
        ({"kind": "stage", "path": "x", "modle": {}}, r"'init\.modle'; near it: model"),
        (without(POLICY, "preset"), r"'init\.preset' is missing"),
        (POLICY | {"preset": "mini_v4"}, "mini_v4"),
        (POLICY | {"model": {"model_dims": 8}}, r"'init\.model\.model_dims'; near it: model_dim"),
        (POLICY | {"model": {"model_dim": 0}}, "model_dim must be positive"),
        (POLICY | {"tokenizer": TOKENIZER | {"vocab_size": 0}}, r"init\.tokenizer\.vocab_size=0"),
        (POLICY | {"tokenizer": TOKENIZER | {"source": {}}}, r"init\.tokenizer\.source\.path or function"),
        ({"kind": "hf", "path": "nowhere"}, "there is no"),
    ],
)
def test_a_bad_spec_is_named_by_its_key(spec, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load(spec)


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
            load(spec)
    question, completion = corpus_text(0, seed=0)
    asked = [{"role": "user", "content": question}]
    said = [*asked, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"}]
    assert seen == [render(messages, template="v3") + completion for messages in (asked, said)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The work directory of a stage as far as model.json and the tokenizer go."""
    workdir = tmp_path_factory.mktemp("base")
    policy, _, _ = load(POLICY)
    assert isinstance(policy, Policy)
    policy.save(workdir)
    (workdir / "DONE").touch()
    return workdir


def test_a_stages_model_is_fixed_but_for_how_it_is_computed(saved):
    spec = {"kind": "stage", "path": str(saved)}
    config = config_of(read(AnyInit, spec | {"model": {"remat": "full", "dtype": "bfloat16"}}))
    assert (config.remat, config.dtype) == ("full", "bfloat16")
    with pytest.raises(ValueError, match=r"init\.model\.model_dim is fixed by the stage that trained it"):
        load(spec | {"model": {"model_dim": 16}})


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
            load({"kind": "stage", "path": str(saved)})
    file.unlink()
    with pytest.raises(
        ValueError, match=rf"init\.path=.{saved}. is no stage.s work directory yet: there is no model.json"
    ):
        load({"kind": "stage", "path": str(saved)})


def test_a_hugging_face_folder(tmp_path):
    policy, params, buffers = load(POLICY)
    made = Pretrained(policy.model, params, buffers, tokenizer=policy.tokenizer)
    save_pretrained(made, tmp_path / "folder", dtype="bfloat16")
    spec = {"kind": "hf", "path": str(tmp_path / "folder"), "model": {"dtype": "bfloat16", "remat": "full"}}
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    loaded, again, biases = load(spec, mesh)
    assert (loaded.model.config.dtype, loaded.model.config.remat) == ("bfloat16", "full")
    assert loaded.tokenizer.encode("12 + 7") == policy.tokenizer.encode("12 + 7")
    for ours, theirs in zip(jax.tree.leaves((again, biases)), jax.tree.leaves((params, buffers)), strict=True):
        assert ours.dtype == np.float32 and ours.sharding.mesh == mesh
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(ml_dtypes.bfloat16))
    with pytest.raises(
        ValueError, match=r"init\.preset='mini_llama': .*folder is another model: .*attention is mla and not gqa"
    ):
        load(spec | {"preset": "mini_llama"}, mesh)
    (tmp_path / "folder" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer in .*folder: tokenizer\.json is missing"):
        load(spec, mesh)


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_a_damaged_summary_of_a_reward_model_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/summary.json is damaged: "):
        reward_model._read(tmp_path / "summary.json")
