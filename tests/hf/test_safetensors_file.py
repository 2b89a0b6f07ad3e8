import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from r1jax.hf.safetensors_file import TYPES, Planned, read_header, split_shards, write_files

BF16, E4M3 = TYPES["BF16"], TYPES["F8_E4M3"]


def full(shape):
    return tuple(slice(0, size) for size in shape)


def plan_of(tensors):
    return [Planned(name, array.dtype, array.shape) for name, array in tensors.items()]


def write(folder, tensors, *, max_shard_bytes=10**9):
    shards = split_shards(plan_of(tensors), max_shard_bytes=max_shard_bytes)
    write_files(folder, shards, tensors.items())
    return shards


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "odd": rng.normal(size=(3, 5)).astype(E4M3),
        "a": rng.normal(size=(7, 5)).astype(np.float32),
        "b": rng.normal(size=(3,)).astype(BF16),
        "empty": np.empty((0, 4), np.float32),
        "scalar": np.float16(2.5).reshape(()),
    }


def test_written_and_read(tmp_path, tensors):
    write(tmp_path, tensors)
    stored, faults = read_header(tmp_path / "model.safetensors")
    assert faults == [] and set(stored) == set(tensors)
    for name, array in tensors.items():
        assert stored[name].dtype == array.dtype and stored[name].shape == array.shape
        np.testing.assert_array_equal(stored[name].read(), array)
        assert stored[name].offset % array.dtype.itemsize == 0
    part = (slice(2, 5), slice(1, 4))
    np.testing.assert_array_equal(stored["a"].read(part), tensors["a"][part])
    assert not (tmp_path / "model.safetensors.index.json").exists()


def test_the_safetensors_package_reads_what_we_write_and_we_what_it_writes(tmp_path):
    tensors = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones(3, np.float16)}
    write(tmp_path, tensors)
    for name, array in safetensors.numpy.load_file(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name])
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    stored, faults = read_header(tmp_path / "theirs.safetensors")
    assert faults == []
    for name, array in tensors.items():
        np.testing.assert_array_equal(stored[name].read(), array)


def test_files_are_no_larger_than_asked(tmp_path):
    tensors = {f"t{i}": np.full((10,), i, np.float32) for i in range(5)} | {"large": np.zeros(30, np.float32)}
    shards = write(tmp_path, tensors, max_shard_bytes=80)
    assert {name: [item.name for item in shard] for name, shard in shards.items()} == {
        "model-00001-of-00004.safetensors": ["t0", "t1"],
        "model-00002-of-00004.safetensors": ["t2", "t3"],
        "model-00003-of-00004.safetensors": ["t4"],
        "model-00004-of-00004.safetensors": ["large"],
    }
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 320}
    assert index["weight_map"]["t3"] == "model-00002-of-00004.safetensors" and len(index["weight_map"]) == 6
    for file_name, shard in shards.items():
        stored, faults = read_header(tmp_path / file_name)
        assert faults == [] and set(stored) == {item.name for item in shard}


def test_a_tensor_that_was_not_planned(tmp_path, tensors):
    shards = split_shards(plan_of(tensors), max_shard_bytes=10**9)
    with pytest.raises(ValueError, match="came where"):
        write_files(tmp_path, shards, (tensors | {"odd": np.zeros((3, 5), np.float32)}).items())


@pytest.mark.parametrize("keep", [0, 7, 20, -1])
def test_a_file_that_is_cut_short(tmp_path, tensors, keep):
    write(tmp_path, tensors)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    _, faults = read_header(file)
    assert len(faults) == 1 and faults[0].startswith("model.safetensors: cut short")


def with_header(file, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return read_header(file)


def test_damaged_headers(tmp_path):
    file = tmp_path / "x.safetensors"
    sound = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    tensors, faults = with_header(file, {"w": sound}, bytes(8))
    assert set(tensors) == {"w"} and faults == []
    twice = b"{%s, %s}" % ((b'"w": ' + json.dumps(sound).encode(),) * 2)
    for header in (b"{not json", [1, 2], {"w": 3}, b"[" * 100_000, b"\xff{", twice):
        tensors, faults = with_header(file, header, bytes(8))
        assert tensors == {} and len(faults) == 1 and faults[0].startswith("x.safetensors: its header is damaged")
    cases = {
        "too long": (sound, bytes(9)),
        "w has type I64; known: F64": (sound | {"dtype": "I64"}, bytes(8)),
        "w has 8 bytes, its shape (3,)": (sound | {"shape": [3]}, bytes(8)),
        "w has no sound shape": (sound | {"shape": [-2]}, bytes(8)),
        "w has no sound shape and": (sound | {"data_offsets": [8, 0]}, b""),
    }
    for message, (fields, data) in cases.items():
        tensors, faults = with_header(file, {"w": fields}, data)
        assert message in faults[0] and set(tensors) == {"w"}


def test_tensors_that_overlap(tmp_path):
    """The safetensors package refuses them too."""
    sound = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = {"last": sound | {"data_offsets": [4, 12]}, "first": sound}
    tensors, faults = with_header(tmp_path / "x.safetensors", header, bytes(12))
    assert (set(tensors), faults) == ({"first", "last"}, ["x.safetensors: last begins within another tensor"])


def test_a_file_that_shrinks_after_the_check(tmp_path):
    write(tmp_path, {"w": np.zeros(100, ml_dtypes.bfloat16)})
    file = tmp_path / "model.safetensors"
    stored, _ = read_header(file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(OSError, match="shorter"):
        stored["w"].read()
