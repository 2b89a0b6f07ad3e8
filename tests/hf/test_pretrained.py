import dataclasses
import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from r1jax.hf import Pretrained, load_pretrained, save_pretrained
from r1jax.hf import write as hf_write
from r1jax.hf.fp8 import dequantise, is_quantised, quantise
from r1jax.hf.names import hf_places
from r1jax.hf.safetensors_file import read_header
from r1jax.models.config import Yarn
from r1jax.models.transformer import make_model
from r1jax.sharding import make_mesh
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import train_tokenizer
from tests.tiny import GQA, V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MTP = dataclasses.replace(V3, num_mtp_layers=1, max_length=64)
TOKENS = np.random.default_rng(0).integers(0, 48, (2, 12))


@pytest.fixture(scope="module")
def model():
    pure = make_model(MTP)
    return Pretrained(pure, *shaken(pure))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    save_pretrained(model, path, max_shard_bytes=40_000)
    return path


def stored_in(path):
    return {name: item for file in path.glob("*.safetensors") for name, item in read_header(file)[0].items()}


def assert_equal(trees, others):
    jax.tree.map(np.testing.assert_array_equal, trees, others)


def test_saved_and_loaded_is_bit_identical(model, folder):
    again = load_pretrained(folder, dtype="float32")
    assert again.config == dataclasses.replace(MTP, dtype="float32")
    assert_equal((again.params, again.buffers), (model.params, model.buffers))
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {np.dtype(np.float32)}
    logits = again(TOKENS)
    assert logits.shape == (2, 12, 48) and logits.dtype == np.float32
    np.testing.assert_array_equal(logits, model(TOKENS))
    for wrong in (TOKENS[0], TOKENS.astype(np.float32)):
        with pytest.raises(ValueError, match=r"whole numbers \[B, T\], got (int|float)32\["):
            model(wrong)


def test_the_types_of_parameters_and_activations(model, folder):
    half = load_pretrained(folder, dtype="bfloat16", model={"remat": "full"})
    assert (half.config.dtype, half.config.remat) == ("bfloat16", "full")
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16), model.params)
    assert_equal(half.params, expected)
    assert_equal(half.buffers, model.buffers)  # float32
    with pytest.raises(ValueError, match="dtype='fp8': must be one of float32, bfloat16, float16"):
        load_pretrained(folder, dtype="fp8")
    with pytest.raises(ValueError, match=r"model=\{'vocab_size': 50\} gives the weights other shapes"):
        load_pretrained(folder, dtype="float32", model={"vocab_size": 50})
    for kind in (jnp.float32, np.float32, np.dtype(np.float32), jnp.dtype("float32")):
        again = load_pretrained(folder, dtype=kind)
        assert again.config == load_pretrained(folder, dtype="float32").config and again.config.dtype == "float32"
    mixed = load_pretrained(folder, dtype=jnp.bfloat16, model={"dtype": jnp.float16})
    assert (mixed.config.dtype, mixed.params["embed_VD"].dtype) == ("float16", jnp.bfloat16)
    with pytest.raises(ValueError, match="dtype='int32': must be one of float32, bfloat16, float16"):
        load_pretrained(folder, dtype=np.int32)
    yarn = {"factor": 8.0, "original_length": 8}  # as a stage's config says it
    assert load_pretrained(folder, dtype="float32", model={"yarn": yarn}).config.yarn == Yarn(8.0, 8)
    mixed = load_pretrained(folder, dtype="float32", model={"dtype": "bfloat16"})
    assert mixed.config.dtype == "bfloat16"
    assert_equal(mixed.params, model.params)


@pytest.mark.parametrize(
    "axes", [{"fsdp": 8}, {"tensor": 2, "expert": 2, "fsdp": 2}, {"data": 4, "expert": 2}], ids=str
)
def test_sharded_equals_unsharded(model, folder, axes):
    mesh = make_mesh(axes)
    sharded = load_pretrained(folder, dtype="float32", mesh=mesh)
    assert_equal((sharded.params, sharded.buffers), (model.params, model.buffers))
    up = sharded.params["moe"]["ffn"]["w_up_EDF"]  # [2, 8, 32, 16]
    parts = {"expert": axes.get("expert", 1), "fsdp": axes.get("fsdp", 1), "tensor": axes.get("tensor", 1)}
    assert up.sharding.shard_shape(up.shape) == (2, 8 // parts["expert"], 32 // parts["fsdp"], 16 // parts["tensor"])
    for shard in up.addressable_shards:
        np.testing.assert_array_equal(shard.data, model.params["moe"]["ffn"]["w_up_EDF"][shard.index])


def test_a_sharded_model_computes_and_saves_the_same(model, folder, tmp_path):
    sharded = load_pretrained(folder, dtype="float32", mesh=make_mesh({"tensor": 2, "expert": 2, "fsdp": 2}))
    np.testing.assert_allclose(sharded(TOKENS), model(TOKENS), atol=1e-5)
    save_pretrained(sharded, tmp_path / "again", dtype=jnp.float32, max_shard_bytes=40_000)
    files = {file.name for file in folder.iterdir()}
    assert files == {file.name for file in (tmp_path / "again").iterdir()} and len(files) > 5
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_loaded_arrays_may_be_donated(folder):
    """On the CPU they are the memory that was read into, and replicas share it."""
    mesh = make_mesh({"data": 8})
    norm = load_pretrained(folder, dtype="float32", mesh=mesh).params["final_norm"]["scale"]
    before = np.array(norm)
    after = jax.jit(lambda x: x + 1, donate_argnums=0)(norm)
    for shard in after.addressable_shards:
        np.testing.assert_array_equal(shard.data, before + 1)


def test_fp8_read_is_what_was_quantised(model, tmp_path):
    save_pretrained(model, tmp_path / "fp8", dtype="fp8", max_shard_bytes=20_000)
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert config["quantization_config"]["weight_block_size"] == [128, 128] and config["torch_dtype"] == "bfloat16"
    stored = stored_in(tmp_path / "fp8")
    loaded = load_pretrained(tmp_path / "fp8", dtype="float32")
    trees, loaded_trees = ({"params": m.params, "buffers": m.buffers} for m in (model, loaded))
    num_quantised = 0
    for name, place in hf_places(MTP).items():
        ours, got = trees, loaded_trees
        for key in place.path:
            ours, got = ours[key], got[key]
        weight = place.to_hf(np.asarray(ours)[place.index])
        if is_quantised(name):
            values, scales = quantise(weight, name=name)
            np.testing.assert_array_equal(stored[name].read().view(np.uint8), values.view(np.uint8))
            np.testing.assert_array_equal(stored[name + "_scale_inv"].read(), scales)
            weight = dequantise(values, scales)
            num_quantised += 1
        elif name.endswith("e_score_correction_bias"):
            assert stored[name].dtype == np.float32
        else:
            assert stored[name].dtype == ml_dtypes.bfloat16
            weight = weight.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(place.to_hf(np.asarray(got)[place.index]), weight)
    assert num_quantised == 4 * 5 + 3 + 3 * 3 * 9 == sum(name.endswith("_scale_inv") for name in stored)


def test_fp8_with_power_of_two_scales_of_either_type(tmp_path):
    from tests.hf.test_folder import rewrite, tensors_of

    config = dataclasses.replace(GQA, model_dim=144, ffn_dim=200)
    pure = make_model(config)
    save_pretrained(Pretrained(pure, *shaken(pure)), tmp_path / "m", dtype="fp8")
    tensors = tensors_of(tmp_path / "m")
    name = "model.layers.1.mlp.down_proj.weight"
    scales = np.array([[0.5, 2.0], [2.0**-10, 1.0]], np.float32)
    expected = dequantise(tensors[name], scales)
    for kind in (np.float32, ml_dtypes.float8_e8m0fnu, ml_dtypes.bfloat16):
        rewrite(tmp_path / "m", tensors | {name + "_scale_inv": scales.astype(kind)})
        for mesh in (None, make_mesh({"fsdp": 4, "tensor": 2})):
            loaded = load_pretrained(tmp_path / "m", dtype="float32", mesh=mesh)
            np.testing.assert_array_equal(loaded.params["dense"]["ffn"]["w_down_FD"][1], expected.T)


def test_memory_is_the_model_and_one_tensor(tmp_path):
    config = dataclasses.replace(GQA, num_layers=13, model_dim=128, ffn_dim=1024, qkv_bias=False)
    pure = make_model(config)
    params, buffers = shaken(pure)
    save_pretrained(Pretrained(pure, params, buffers), tmp_path / "m", dtype="bfloat16")
    total = sum(leaf.size for leaf in jax.tree.leaves(params)) * 4
    largest = 128 * 1024 * 4
    assert total > 20e6
    load_pretrained(tmp_path / "m", dtype="float32")  # imports and caches
    tracemalloc.start()
    loaded = load_pretrained(tmp_path / "m", dtype="float32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    (held, _) = tracemalloc.get_traced_memory()
    save_pretrained(loaded, tmp_path / "again")
    _, peak_of_saving = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total <= held and peak < total + 2 * largest
    assert peak_of_saving < held + 3 * largest


def test_the_tokenizer_and_generation_config_travel(tmp_path):
    tokenizer = train_tokenizer(["12 + 34 = 46", "so the answer is 7"] * 20, vocab_size=280)
    pure = make_model(dataclasses.replace(GQA, vocab_size=tokenizer.vocab_size))
    generation = {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "eos_token_id": tokenizer.eos_id}
    model = Pretrained(pure, *shaken(pure), tokenizer=tokenizer, generation=generation)
    save_pretrained(model, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_id
    assert json.loads((tmp_path / "a" / "generation_config.json").read_text()) == generation
    again = load_pretrained(tmp_path / "a", dtype="float32")
    assert isinstance(again.tokenizer, Tokenizer) and again.generation == generation
    assert again.tokenizer.encode("12 + 7") == tokenizer.encode("12 + 7")
    save_pretrained(again, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes(), file.name
    small = make_model(dataclasses.replace(GQA, vocab_size=tokenizer.vocab_size - 1))
    save_pretrained(Pretrained(small, *shaken(small), tokenizer=tokenizer), tmp_path / "small")
    with pytest.raises(ValueError, match=r"tokenizer\.json: the model has \d+ token ids and the tokenizer \d+"):
        load_pretrained(tmp_path / "small", dtype="float32")


def test_a_model_without_a_tokenizer(folder):
    loaded = load_pretrained(folder, dtype="float32")
    assert loaded.tokenizer is None and loaded.generation == {}
    assert json.loads((folder / "generation_config.json").read_text()) == {}


def test_a_target_that_holds_something_is_refused(model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="full exists and is not an empty folder"):
        save_pretrained(model, tmp_path / "full")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        save_pretrained(model, tmp_path / "full" / "mine.txt")
    (tmp_path / "empty").mkdir()
    save_pretrained(model, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_targets_that_are_links_or_the_current_folder(model, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (tmp_path / "link", tmp_path / "dangling", "."):
        save_pretrained(model, target)
    for name in ("empty", "new", "here"):
        assert (tmp_path / name / "model.safetensors").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_mount_point_is_refused_first(model, tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(hf_write.Path, "is_mount", lambda path: path.name == "volume")
    monkeypatch.setattr(hf_write, "write_files", None)
    with pytest.raises(FileExistsError, match="is a mount point"):
        save_pretrained(model, tmp_path / "volume")


def test_a_disk_without_room_is_refused_first(model, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_write.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 70_000_000})())
    hf_write.check_target(tmp_path / "new", num_bytes=1_000_000)
    with pytest.raises(OSError, match=r"new takes 2\.0 GB; .* has 0\.1 GB free"):
        hf_write.check_target(tmp_path / "new", num_bytes=2_000_000_000)
    monkeypatch.setattr(hf_write.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0})())
    with pytest.raises(OSError, match="free"):
        save_pretrained(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_failed_save(model, tmp_path):
    broken = jax.tree.map(np.array, model.params)
    broken["moe"]["ffn"]["w_up_EDF"][1, 5, 0, 0] = np.nan
    broken = jax.tree.map(jnp.asarray, broken)
    with pytest.raises(
        ValueError, match=r"layers\.2\.mlp\.experts\.5\.up_proj\.weight holds a value that is not finite"
    ):
        save_pretrained(dataclasses.replace(model, params=broken), tmp_path / "new", dtype="fp8")
    with pytest.raises(ValueError, match="dtype='float16': must be one of float32, bfloat16, fp8"):
        save_pretrained(model, tmp_path / "new", dtype=jnp.float16)
    with pytest.raises(ValueError, match="dtype='int4': must be one of float32, bfloat16, fp8"):
        save_pretrained(model, tmp_path / "new", dtype="int4")
    assert list(tmp_path.iterdir()) == []
