"""A policy of a stage that has not run is described by the configs: the model and tokenizer that the stage later leaves."""

import json

import pytest

from r1jax.hf import Pretrained, save_pretrained
from r1jax.policies.policy import load_init
from r1jax.policies.preview import Previews
from r1jax.sharding import make_mesh
from r1jax.specs.policy import AnyInit, StageInit
from r1jax.specs.reader import read
from r1jax.specs.stages import SupervisedSpec
from r1jax.stages import supervised
from r1jax.text.templates import TEMPLATES
from r1jax.text.tokenizer import Tokenizer
from tests.hf.test_gguf import write_gguf
from tests.stages.rl.test_stage import tiny_config
from tests.tiny import POLICY

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOKENIZER = POLICY["tokenizer"] | {"special_tokens": ("<e>", *TEMPLATES["r1"].tokens)}
RANDOM = POLICY | {"tokenizer": TOKENIZER, "model": POLICY["model"] | {"max_length": 64}}


def base_spec(init, **changes):
    values = {
        "init": init,
        "data": POLICY["tokenizer"]["source"],
        "template": "r1",
        "num_updates": 1,
        "row_length": 512,
    }
    return read(SupervisedSpec, values | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("hf") / "model"
    policy, params, buffers = load_init(read(AnyInit, RANDOM), mesh=make_mesh(), seed=3)
    save_pretrained(Pretrained(policy.model, params, buffers, tokenizer=policy.tokenizer), path)
    return path


@pytest.fixture(params=["random", "hf", "gguf"])
def init(request, tmp_path):
    if request.param == "hf":
        return {"kind": "hf", "path": str(request.getfixturevalue("folder")), "model": {"remat": "full"}}
    if request.param == "gguf":
        path = write_gguf(tmp_path / "tiny.gguf")
        return {"kind": "gguf", "path": str(path), "model": {"max_length": 128}}
    return RANDOM


def as_saved(tokenizer: Tokenizer, folder):
    tokenizer.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_is_what_the_stage_leaves(init, tmp_path, monkeypatch):
    """Two stages before are described too: RL trains on what the supervised one leaves."""
    has_r1_tokens = init["kind"] != "gguf"
    base = base_spec(init, template="r1" if has_r1_tokens else "plain", seed=1)
    zero = tiny_config(init={"kind": "stage", "path": str(tmp_path / "base")}, seed=2)
    planned = {str(tmp_path / "base"): base, str(tmp_path / "zero"): zero}
    previews = [Previews(planned).policy(StageInit(path=path), seed=9) for path in planned]

    def interrupt(*args, **kwargs):
        raise InterruptedError

    monkeypatch.setattr(supervised, "make_document_iterator", interrupt)  # all is saved by then but the weights
    with pytest.raises(InterruptedError):
        supervised.main(base, tmp_path / "base")
    left = Previews().policy(StageInit(path=str(tmp_path / "base")), seed=9)
    files = as_saved(Tokenizer.load(tmp_path / "base" / "tokenizer"), tmp_path / "left")
    for number, preview in enumerate(previews):
        assert preview.config == left.config
        assert as_saved(preview.tokenizer, tmp_path / f"preview{number}") == files
    assert (b"chat_template" in b"".join(files.values())) == has_r1_tokens


def test_what_an_init_changes_is_part_of_it(tmp_path):
    path = str(tmp_path / "base")
    preview = Previews({path: base_spec(RANDOM)}).policy(StageInit(path=path, model={"remat": "full"}), seed=0)
    assert preview.config.remat == "full"
    with pytest.raises(ValueError, match=r"init\.model\.model_dim is fixed"):
        Previews({path: base_spec(RANDOM)}).policy(StageInit(path=path, model={"model_dim": 8}), seed=0)


def test_a_stage_that_leaves_no_model_or_none_at_all_is_named(tmp_path):
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / "config.json").write_text(json.dumps({"stage": "claims"}))
    for path in (claims, tmp_path / "nothing"):
        with pytest.raises(
            ValueError, match=rf"init\.path='{path}' is no work directory of a stage that trains a model"
        ):
            Previews().policy(StageInit(path=str(path)), seed=0)


def test_a_tokenizer_of_records_that_an_earlier_stage_makes_is_not_known_yet(tmp_path):
    later = POLICY | {"tokenizer": TOKENIZER | {"source": {"path": str(tmp_path / "records")}}}
    assert Previews().policy(read(AnyInit, later), seed=0) is None
    path = str(tmp_path / "base")
    assert Previews({path: base_spec(later)}).policy(StageInit(path=path), seed=0) is None


@pytest.mark.parametrize(
    ("kind", "changes", "key", "there"),
    [
        ("hf", {"remat": "full", "ffn_dim": 96}, "ffn_dim=96", "ffn_dim=48"),
        ("hf", {"num_layers": 3}, "num_layers=3", "num_layers=2"),
        ("hf", {"rope_theta": 5e5, "tie_embeddings": True}, "tie_embeddings=True", "tie_embeddings=False"),
        ("gguf", {"remat": "full", "ffn_dim": 96}, "ffn_dim=96", "ffn_dim=64"),
        ("gguf", {"num_kv_heads": 2}, "num_kv_heads=2", "num_kv_heads=1"),
    ],
)
def test_weights_that_would_not_fit_are_named_before_one_is_read(
    kind, changes, key, there, folder, tmp_path, monkeypatch
):
    """The folder's headers say it, of a stage that starts from the folder and of one that starts from such a stage."""
    path = str(folder if kind == "hf" else write_gguf(tmp_path / "tiny.gguf"))
    monkeypatch.setattr("r1jax.hf.folder.ModelFiles.read", None)
    good, bad = (read(AnyInit, {"kind": kind, "path": path, "model": model}) for model in ({"remat": "full"}, changes))
    later = StageInit(path=str(tmp_path / "base"))
    assert Previews({later.path: base_spec(good, template="plain")}).policy(later, seed=0).config.remat == "full"
    for init in (bad, later):
        with pytest.raises(ValueError) as error:
            Previews({later.path: base_spec(bad, template="plain")}).policy(init, seed=0)
        assert str(error.value) == f"init.model.{key} does not fit the weights of {path}, which have {there}"
