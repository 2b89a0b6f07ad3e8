import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from r1jax.hf.folder import open_folder
from r1jax.hf.pretrained import Pretrained, load_pretrained, save_pretrained
from r1jax.hf.safetensors_file import Planned, Stored, read_header, split_shards, write_files
from r1jax.models.transformer import make_model
from tests.tiny import GQA, V3, shaken

MTP = dataclasses.replace(V3, num_mtp_layers=1)


def pretrained(config):
    model = make_model(config)
    return Pretrained(model, *shaken(model))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Sound folders: V3 with MTP in several files, the same in FP8, a tied Qwen2 in one file."""
    root = tmp_path_factory.mktemp("folders")
    save_pretrained(pretrained(MTP), root / "v3", max_shard_bytes=40_000)
    save_pretrained(pretrained(MTP), root / "fp8", dtype="fp8", max_shard_bytes=10_000)
    save_pretrained(pretrained(GQA), root / "qwen")
    return root


@pytest.fixture
def folder(folders, tmp_path):
    """A function that copies one of them, to be damaged."""

    def copy(name):
        shutil.copytree(folders / name, tmp_path / name)
        return tmp_path / name

    return copy


def tensors_of(path):
    files = sorted(path.glob("*.safetensors"))
    return {name: item.read() for file in files for name, item in read_header(file)[0].items()}


def rewrite(path, tensors, *, max_shard_bytes=10**9):
    """Replaces the weights of a folder."""
    for file in [*path.glob("*.safetensors"), *path.glob("*.index.json")]:
        file.unlink()
    plan = [Planned(name, array.dtype, array.shape) for name, array in tensors.items()]
    write_files(path, split_shards(plan, max_shard_bytes=max_shard_bytes), tensors.items())


def faults_of(path):
    with pytest.raises(ValueError) as error:
        load_pretrained(path, dtype="float32")
    text = str(error.value)
    start = f"{path} does not hold the model of its config:"
    assert text.startswith(start)
    faults = text.removeprefix(start).strip().split("\n  ")
    assert text == start + (" " if len(faults) == 1 else "\n  ") + "\n  ".join(faults)
    return faults


def test_sound_folders(folders):
    v3, fp8, qwen = (open_folder(folders / name) for name in ("v3", "fp8", "qwen"))
    assert len(list(v3.path.glob("*.safetensors"))) > 3
    assert v3.config == fp8.config == dataclasses.replace(MTP, max_length=32768)
    assert qwen.config == dataclasses.replace(GQA, max_length=32768)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    assert (v3.stored[name].dtype, fp8.stored[name].dtype) == (np.float32, ml_dtypes.float8_e4m3fn)
    part = (slice(3, 9), slice(1, 30))
    np.testing.assert_array_equal(v3.read(name, part), v3.read(name)[part])
    np.testing.assert_array_equal(fp8.read(name, part), fp8.read(name)[part])
    np.testing.assert_allclose(fp8.read(name), v3.read(name), rtol=0.07, atol=1e-3)
    assert "lm_head.weight" not in qwen.stored


def test_a_weight_and_its_scale_in_different_files(folder):
    path = folder("fp8")
    before = load_pretrained(path, dtype="float32")
    tensors = sorted(tensors_of(path).items(), key=lambda item: item[0].endswith("_scale_inv"))
    rewrite(path, dict(tensors), max_shard_bytes=2000)
    stored = open_folder(path).stored
    name = "model.layers.1.mlp.experts.0.up_proj.weight"
    assert stored[name].file != stored[name + "_scale_inv"].file
    after = load_pretrained(path, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


def test_no_folder_and_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        open_folder(tmp_path)


@pytest.mark.parametrize("start", ["", "https://huggingface.co/", "here"])
def test_a_name_of_the_hub_is_no_folder(tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Qwen" / "Qwen2.5-0.5B" if start == "here" else f"{start}Qwen/Qwen2.5-0.5B"
    for act in (open_folder, lambda path: load_pretrained(path, dtype="float32")):
        with pytest.raises(FileNotFoundError) as error:
            act(path)
        text = str(error.value)
        assert "Qwen/Qwen2.5-0.5B, and only folders on this machine are read" in text and "\n" not in text
        assert text.endswith("hf download Qwen/Qwen2.5-0.5B --local-dir models/Qwen2.5-0.5B")


def test_paths_that_are_no_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("model", "a/b/c", "../a/b", tmp_path.parent / "a" / "b", "./.cache/x"):
        with pytest.raises(FileNotFoundError) as error:
            open_folder(path)
        assert "hf download" not in str(error.value)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a file, and a Hugging Face model is a folder"):
        open_folder("model.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "adapter_config.json",
            r"qwen is not a .*: it holds an adapter \(LoRA\), which must be merged into its model first",
        ),
        ("model.json", "qwen is not a .*: it is the work directory of a stage, which must be exported first"),
        ("refs/main", "qwen is not a .*: it is the hub's cache of a model; name the folder in its snapshots/"),
    ],
)
def test_folders_of_another_kind_are_named(folder, name, words):
    path = folder("qwen")
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match=words):
        open_folder(path)


def test_the_check_reads_no_weights(folders, folder, monkeypatch):
    """Not even to compare the MTP layer's copies; all else is the check of open_folder."""
    path = folder("v3")
    copy, name = tensors_of(path), "model.layers.3.embed_tokens.weight"
    copy[name][7, 3] += 1
    rewrite(path, copy)
    monkeypatch.setattr(Stored, "read", None)
    checked = open_folder(path, compares_copies=False)
    assert checked.config == dataclasses.replace(MTP, max_length=32768) and checked.tokenizer is None
    for fp8 in ("fp8", "qwen"):
        open_folder(folders / fp8, compares_copies=False)
    with pytest.raises(TypeError):  # it would read
        open_folder(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: None, r"no tokenizer in .*qwen: tokenizer\.json is missing"),
        (lambda path: (path / "tokenizer.json").write_text("{}"), r"tokenizer\.json is not a tokenizer"),
        (
            lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
            r"neither model\.safetensors nor model\.safetensors\.index\.json; pytorch_model\.bin is in another format",
        ),
        (
            lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1]),
            r"model\.safetensors: cut short",
        ),
    ],
)
def test_the_check_finds_what_a_stage_would_stumble_over(folder, damage, words):
    path = folder("qwen")
    damage(path)
    with pytest.raises(ValueError, match=words):
        open_folder(path, needs_tokenizer=True, compares_copies=False)


def test_every_fault_is_in_one_error(folder):
    path = folder("v3")
    tensors = tensors_of(path)
    del tensors["model.layers.1.mlp.gate.weight"], tensors["model.layers.3.enorm.weight"]
    tensors["model.norm.weight"] = np.zeros(31, np.float32)
    tensors["model.layers.9.extra"] = np.zeros(2, np.float32)
    tensors["model.layers.0.mlp.up_proj.weight_scale_inv"] = np.zeros((1, 1), np.float32)
    tensors["nobody_scale_inv"] = np.zeros((1, 1), np.float32)
    rewrite(path, tensors)
    assert faults_of(path) == [
        "missing: model.layers.1.mlp.gate.weight",
        "missing: model.layers.3.enorm.weight",
        "unknown: model.layers.9.extra",
        "model.norm.weight: shape (31,), the config needs (32,)",
        "model.layers.0.mlp.up_proj.weight: it has scales model.layers.0.mlp.up_proj.weight_scale_inv but is not FP8",
        "nobody_scale_inv: scales without their weight",
    ]


def test_foreign_names_make_a_short_error(folder):
    """A model of another family has a missing and an unknown name for each of its tensors, or another shape."""
    path = folder("v3")
    tensors = tensors_of(path)
    rewrite(path, {f"transformer.{name}": array for name, array in tensors.items()})
    missing, *_, unknown = faults = faults_of(path)
    assert len(faults) == 8 and len(tensors) > 130
    assert missing == "missing: model.embed_tokens.weight" and unknown.startswith("unknown: transformer.model.")
    assert faults[3].endswith(" more such lines)") and unknown.endswith(f" (and {len(tensors) - 4} more such lines)")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    rewrite(path, tensors)
    shapes = faults_of(path)
    assert shapes[0] == "model.embed_tokens.weight: shape (48, 32), the config needs (48, 64)"
    assert len(shapes) == 4 and shapes[3].endswith(" more such lines)")


def test_a_single_file_that_the_index_does_not_name(folder):
    """transformers reads the single file, others the index."""
    path = folder("v3")
    (path / "model.safetensors").write_bytes(b"")
    assert faults_of(path) == [
        "there are both model.safetensors and model.safetensors.index.json, which does not name it; "
        "remove the one that is not meant"
    ]


def test_faults_of_the_index_and_the_files(folder):
    path = folder("v3")
    first, second, third, *_ = sorted(path.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    third.write_bytes(b"\x00" * 4)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.7.ghost"] = second.name
    index["weight_map"]["evil"] = "../outside.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    faults = faults_of(path)
    assert faults[0] == "config.json: hidden_act='gelu' is not supported; known: 'silu'"
    assert f"model.safetensors.index.json: it names {first.name}, which is absent" in faults
    assert "model.safetensors.index.json: '../outside.safetensors' is not the name of a file in the folder" in faults
    assert any(fault.startswith(f"{second.name}: cut short: its header tells of") for fault in faults)
    assert f"{third.name}: cut short or not a safetensors file (4 bytes do not hold its header)" in faults
    assert any("model.layers.7.ghost is in " + second.name in fault for fault in faults)
    assert len(faults) == 6  # what the lost files held is not listed again


def test_a_tensor_of_a_type_that_holds_no_weights_is_not_missing_too(folder):
    path = folder("qwen")
    rewrite(path, tensors_of(path) | {"model.norm.weight": np.ones(32, np.float64)})
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F64"', b'"I64"'))
    assert faults_of(path) == [
        "model.safetensors: model.norm.weight has type I64; known: F64, F32, F16, BF16, F8_E4M3, F8_E8M0"
    ]


def test_a_tensor_in_two_files(folder):
    path = folder("v3")
    first, second, *_ = sorted(path.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    faults = faults_of(path)
    assert f"{second.name}: model.norm.weight is also in {first.name}" in faults


def test_links_to_the_files_are_the_files(folder, folders):
    """As in the cache of huggingface_hub."""
    path = folder("v3")
    for file in path.glob("*.safetensors"):
        file.unlink()
        file.symlink_to(folders / "v3" / file.name)
    assert open_folder(path).stored.keys() == open_folder(folders / "v3").stored.keys()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_not_finite(folder, value):
    path = folder("fp8")
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(path, tensors_of(path) | {name + "_scale_inv": np.full((1, 1), value, np.float32)})
    with pytest.raises(ValueError, match=f"{name}_scale_inv holds a value that is not finite"):
        load_pretrained(path, dtype="float32")


def test_faults_of_fp8(folder):
    path = folder("fp8")
    tensors = tensors_of(path)
    name = "model.layers.0.self_attn.o_proj.weight"
    del tensors[name + "_scale_inv"]
    tensors["model.layers.0.mlp.up_proj.weight_scale_inv"] = np.ones((1, 2), np.float32)
    tensors["model.norm.weight"] = np.ones(32, ml_dtypes.float8_e8m0fnu)
    rewrite(path, tensors)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [64, 64]
    (path / "config.json").write_text(json.dumps(config))
    assert sorted(faults_of(path)) == [
        "config.json: quantization_config.weight_block_size=[64, 64] is not supported; known: ([128, 128],)",
        "model.layers.0.mlp.up_proj.weight_scale_inv: shape (1, 2), the weight needs (1, 1)",
        f"{name}: FP8 without its scales {name}_scale_inv",
        "model.norm.weight: type F8_E8M0 holds scales, not weights",
    ]


def test_copies_of_the_mtp_layer_must_be_copies(folder):
    path = folder("v3")
    tensors = tensors_of(path)
    tensors["model.layers.3.embed_tokens.weight"][7, 3] += 1
    rewrite(path, tensors)
    assert faults_of(path) == [
        "model.layers.3.embed_tokens.weight differs from model.embed_tokens.weight, of which it must be a copy"
    ]


def test_a_folder_without_its_mtp_layer_is_the_model_without_it(folder):
    """transformers writes num_nextn_predict_layers but not the layer."""
    path = folder("v3")
    rewrite(path, {n: a for n, a in tensors_of(path).items() if not n.startswith("model.layers.3.")})
    assert open_folder(path).config == dataclasses.replace(V3, max_length=32768)


@pytest.mark.parametrize("name", ["v3", "fp8"])
@pytest.mark.parametrize("count", [0, None])
def test_mtp_layers_that_the_config_does_not_count_are_left_out(folder, capsys, name, count):
    path = folder(name)
    whole = load_pretrained(path, dtype="float32")
    config = json.loads((path / "config.json").read_text())
    assert config.pop("num_nextn_predict_layers") == 1
    (path / "config.json").write_text(
        json.dumps(config | ({} if count is None else {"num_nextn_predict_layers": count}))
    )
    opened = open_folder(path)
    assert opened.config == dataclasses.replace(V3, max_length=32768)
    assert not [name for name in opened.stored if name.startswith("model.layers.3.")]
    ignored = len([name for name in tensors_of(path) if name.startswith("model.layers.3.")])
    assert capsys.readouterr().err == (
        f"warning: {path}: {ignored} tensors of MTP layers are left out, since config.json has num_nextn_predict_layers=0\n"
    )
    without = load_pretrained(path, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, without.params, {k: v for k, v in whole.params.items() if k != "mtp"})


def test_layers_beyond_the_config_that_are_no_mtp_layers_are_unknown(folder):
    path = folder("v3")
    config = json.loads((path / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "num_nextn_predict_layers": 0}
    (path / "config.json").write_text(json.dumps(config))
    assert faults_of(path)[0].startswith("unknown: model.layers.2.")


def test_what_some_writers_add(folder):
    path = folder("qwen")
    tensors = tensors_of(path)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # tied
    rewrite(path, tensors)
    assert "lm_head.weight" not in open_folder(path).places
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    rewrite(path, tensors)
    assert faults_of(path) == ["lm_head.weight differs from model.embed_tokens.weight, of which it must be a copy"]


def test_no_weights_and_damaged_json(folder):
    path = folder("qwen")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    (path / "generation_config.json").write_text("{")
    (path / "tokenizer.json").write_text("[]")
    faults = faults_of(path)
    assert faults[0].startswith("generation_config.json: it is not JSON")
    assert "tokenizer.json" in faults[1] and "generation_config.json" in faults[1] + faults[0]
    assert faults[2].startswith("there is neither model.safetensors nor model.safetensors.index.json")
    for text, fault in (
        ("nonsense", "config.json: it is not JSON"),
        ("[" * 100_000, "config.json: it is not JSON"),
        ("[]", "config.json: it holds no JSON object"),
        ("{}", "config.json: model_type=None is not supported"),
    ):
        (path / "config.json").write_text(text)
        assert [line.startswith(fault) for line in faults_of(path)].count(True) == 1


def test_nothing_is_allocated_before_the_check(folder, monkeypatch):
    path = folder("qwen")
    tensors = tensors_of(path)
    del tensors["model.norm.weight"]
    rewrite(path, tensors)
    monkeypatch.setattr(jax, "device_put", None)
    monkeypatch.setattr(jnp, "asarray", None)
    monkeypatch.setattr("r1jax.hf.pretrained._aligned_empty", None)
    assert faults_of(path) == ["missing: model.norm.weight"]
