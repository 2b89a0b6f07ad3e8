"""Two and four processes of loopback compute what one does, and read each other's checkpoints."""

import json
import math

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.processes import (
    any_process,
    array_digests,
    exchange,
    gather,
    on_first,
    require_same,
    to_host,
)
from r1jax.sharding import make_mesh
from tests.launch import peers
from tests.launch.grpo_program import PROBLEMS, digest, restored, run

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_one_process_asks_nobody():
    same = {"nan": math.nan}
    assert exchange(same)[0] is same and gather(lambda: same)[0] is same and on_first(lambda: same) is same
    assert any_process(True) is True and any_process(False) is False
    require_same({"a": np.ones(2)}, "a batch")
    require_same("", "a text")
    assert to_host(jax.numpy.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(KeyError):  # the error itself, not a copy
        on_first(lambda: {}["a"])


def test_digests_tell_arrays_apart_and_not_how_they_lie():
    """Changes that cancel out in a weighted sum of bits do not here: two signs, two elements that change places."""
    array = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    signs, places, bit = array.copy(), array.copy(), array.copy()
    signs[[0, 5], 1] *= -1
    places[[0, 1]] = places[[1, 0]]
    bit.view(np.uint32)[3, 3] ^= 1
    (digest,) = array_digests([jax.numpy.asarray(array)])
    assert len({digest, *array_digests([jax.numpy.asarray(a) for a in (signs, places, bit)])}) == 4
    specs = [PartitionSpec("fsdp"), PartitionSpec(None, "tensor"), PartitionSpec("tensor", "fsdp"), PartitionSpec()]
    mesh = make_mesh({"fsdp": 2, "tensor": 4})
    spread = [jax.device_put(array, NamedSharding(mesh, spec)) for spec in specs]
    assert array_digests(spread) == [digest] * 4
    assert array_digests([]) == []


def test_a_digest_is_these_sums():
    """By Python's integers: an element's bits and index through MurmurHash3's finalizer, in bfloat16 and of a single number."""
    for array in (jax.numpy.array([[1.5, -2.0], [0.0, 3.25]], "bfloat16"), jax.numpy.float32(7.0)):
        bits = np.asarray(array).view(f"u{array.dtype.itemsize}").reshape(-1).tolist()
        first = second = 0
        for index, element in enumerate(bits):
            mixed = (index * 0x9E3779B1 + element) % 2**32
            mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
            mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 % 2**32
            first, second = first + mixed, second + (mixed ^ mixed >> 16)
        assert array_digests([array]) == [f"{first % 2**32:08x}{second % 2**32:08x}"]


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    """(work directory, what ``run`` returns) in this process."""
    folder = tmp_path_factory.mktemp("one")
    return folder / "one", run(folder / "one")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_do_what_one_does(count, of_one, tmp_path):
    workdir, (figures, state, metrics, scored) = of_one
    assert len(scored) == len(PROBLEMS) and metrics["grad_norm"] > 0
    (tmp_path / "one").symlink_to(workdir)
    codes = peers.run(["tests/launch/grpo_program.py", str(tmp_path)], count, tmp_path / "log", seconds=1800)
    assert codes == [0] * count, peers.said(tmp_path / "log", 0)[-3000:] + peers.said(tmp_path / "log", 1)[-3000:]
    told = [json.loads((tmp_path / f"told.{process}.json").read_text()) for process in range(count)]

    for process, of_process in enumerate(told):
        assert of_process["any"] == [False, True]
        assert [one["me"] for one in of_process["exchange"]] == list(range(count))
        assert [len(one["long"]) for one in of_process["exchange"]] == [300 * one for one in range(count)]
        assert {one["nan"] for one in of_process["exchange"]} == {math.inf}
        assert of_process["first"] == "by 0"
        failed = (
            "ValueError: no space on host 1" if process == 1 else "OtherProcessError: no space on host 1 (process 1)"
        )
        assert of_process["failed"] == failed
        assert of_process["differ"].startswith("ProcessesDifferError: update 7: its batch is not the same in all")
        assert "is of 2 devices and leaves processes without; make its product 8" in of_process["mesh"]
        assert of_process["stopped_at"] == 2  # the signal came to the last one

    # Rewards: each group is scored once, by one process; all know all scores.
    assert [len(of_process["scored"]) for of_process in told] == {2: [2, 1], 4: [1, 1, 1, 0]}[count]
    assert sorted(prompt for of_process in told for prompt in of_process["scored"]) == sorted(scored)
    assert all(of_process["figures"] == figures for of_process in told)

    # One update, and the checkpoints of one run read by the other.
    assert len({of_process["state"] for of_process in told}) == 1
    for name, value in metrics.items():
        assert told[0]["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    theirs = np.load(tmp_path / "state.npz")
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(theirs[name], leaf, rtol=1e-4, atol=1e-5, err_msg=name)
    assert {of_process["restored"] for of_process in told} == {digest(state)} and told[1]["extra"] == {"from": 1}
    read, extra = restored(tmp_path / "many")
    assert extra == {"from": count} and digest(read) == told[0]["state"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(read):
        np.testing.assert_array_equal(leaf, theirs[jax.tree_util.keystr(path)])

    # The first process alone wrote, once.
    many = tmp_path / "many"
    assert len((many / "metrics.jsonl").read_text().splitlines()) == 1
    assert len((many / "completions" / "update_000001.jsonl").read_text().splitlines()) == 12
    assert json.loads((many / "environment.json").read_text())["processes"] == count
