import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from r1jax.hf import load_pretrained
from r1jax.hf.convert import convert, main
from r1jax.hf.folder import open_folder
from r1jax.hf.gguf import open_gguf
from tests.hf.test_folder import folders, rewrite, tensors_of  # noqa: F401
from tests.hf.test_gguf import tiny_tensors, write_gguf


def test_fp8_and_back_by_command_line(folders, tmp_path):  # noqa: F811
    """The FP8 of a folder is the FP8 that saving writes; back again gives its dequantised values."""
    command = [sys.executable, "-m", "r1jax", "convert", "--from", folders / "v3", "--to", tmp_path / "fp8"]
    run = subprocess.run([*command, "--dtype", "fp8"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "fp8: 0.000 GB in" in run.stdout and "MB/s" in run.stdout and "weights" in run.stderr
    saved, converted = open_folder(folders / "fp8"), open_folder(tmp_path / "fp8")
    assert saved.stored.keys() == converted.stored.keys()
    for name, item in saved.stored.items():
        np.testing.assert_array_equal(converted.stored[name].read().view(np.uint8), item.read().view(np.uint8))
    assert main(["--from", str(tmp_path / "fp8"), "--to", str(tmp_path / "back"), "--dtype", "float32"]) == 0
    back = open_folder(tmp_path / "back")
    assert "quantization_config" not in (tmp_path / "back" / "config.json").read_text()
    assert not [n for n in back.stored if n.endswith("_scale_inv")]
    for name in back.places:
        np.testing.assert_array_equal(back.read(name), converted.read(name).astype(np.float32))


def test_types_are_kept_unless_named(folders, tmp_path):  # noqa: F811
    total = convert(folders / "v3", tmp_path / "same", max_shard_bytes=40_000)
    for file in (folders / "v3").iterdir():
        assert (tmp_path / "same" / file.name).read_bytes() == file.read_bytes(), file.name
    index = json.loads((tmp_path / "same" / "model.safetensors.index.json").read_text())
    assert total == index["metadata"]["total_size"]
    convert(folders / "fp8", tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    stored = open_folder(tmp_path / "plain").stored
    assert {item.dtype.name for item in stored.values()} == {"bfloat16", "float32"}


def test_fp8_stays_as_it_is(folders, tmp_path):  # noqa: F811
    """With scales that no block's largest value would give: quantised again, the values would be others."""
    shutil.copytree(folders / "fp8", tmp_path / "fp8")
    tensors = tensors_of(tmp_path / "fp8")
    odd = {name: array * np.float32(1.7) for name, array in tensors.items() if name.endswith("_scale_inv")}
    halves = {name: np.full_like(array.view(np.uint8), 0x35).view(array.dtype) for name, array in tensors.items()
              if name + "_scale_inv" in odd}  # fmt: skip
    tensors |= odd | halves
    rewrite(tmp_path / "fp8", tensors)
    convert(tmp_path / "fp8", tmp_path / "again", dtype="fp8")
    again = tensors_of(tmp_path / "again")
    assert again.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(again[name].view(np.uint8), array.view(np.uint8), err_msg=name)


def test_a_gguf_file_becomes_a_folder(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_tensors())
    assert main(["--from", str(path), "--to", str(tmp_path / "folder")]) == 0
    file = load_pretrained(open_gguf(path), dtype="float32")
    model = load_pretrained(tmp_path / "folder", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, model.params, file.params)
    assert model.config.num_heads == file.config.num_heads and model.tokenizer is not None


def test_what_the_user_can_mend_is_one_message(folders, tmp_path, capsys):  # noqa: F811
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert main(["--from", str(folders / "v3"), "--to", str(tmp_path / "full")]) == 1
    assert "full exists and is not an empty folder" in capsys.readouterr().err
    assert main(["--from", str(tmp_path / "nowhere"), "--to", str(tmp_path / "new")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--from", str(folders / "v3"), "--to", str(tmp_path / "new"), "--dtype", "int4"])
    assert not (tmp_path / "new").exists()
