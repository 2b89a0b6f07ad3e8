"""Meshes and rules: what they give, and what they say of a mesh or a layout that cannot be."""

import dataclasses
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from r1jax import sharding
from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.sharding import MESH_AXES, RULES, constrain, describe_sharding, make_mesh, partition_spec, tree_shardings


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """A device of a cluster that is not here."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "none"


def fake_devices(num_slices, per_slice):
    """The slices are interleaved, as their ids may be."""
    return [FakeDevice(i, i % num_slices) for i in range(num_slices * per_slice)]


def test_bad_meshes_raise():
    with pytest.raises(ValueError, match="mesh=4 must be axes and their sizes"):
        make_mesh(4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"mesh: unknown mesh axes \['model'\]; choose from \['data', 'fsdp'"):
        make_mesh({"model": 2})
    with pytest.raises(ValueError, match=r"mesh.slices: unknown mesh axes \['model'\]"):
        make_mesh({"slices": {"model": 2}})
    with pytest.raises(ValueError, match="needs 16 devices, this machine has 8; make an axis smaller"):
        make_mesh({"data": 4, "tensor": 4})
    with pytest.raises(ValueError, match="at least 1"):
        make_mesh({"data": 0})
    with pytest.raises(
        ValueError, match=r"of 3 devices, which do not divide the 8 here; make its product one of \[1, 2, 4, 8\]"
    ):
        make_mesh({"fsdp": 3})
    two = [FakeDevice(i, 0, process_index=i) for i in range(2)]
    with pytest.raises(ValueError, match="leaves processes without; make its product 2"):
        make_mesh({}, devices=two)


def test_a_mesh_of_slices_has_each_slice_in_one_block():
    devices = fake_devices(2, 4)
    mesh = make_mesh({"data": 2, "fsdp": 2, "expert": 2, "slices": {"data": 2}}, devices=devices)
    assert mesh.shape == {"data": 2, "fsdp": 2, "expert": 2, "tensor": 1, "sequence": 1}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert (slices[0] == 0).all() and (slices[1] == 1).all()
    # An axis may be within a slice and go over slices too: the outer part is the slice.
    whole = make_mesh({"data": 8, "slices": {"data": 2}}, devices=devices)
    assert [device.slice_index for device in whole.devices.flat] == [0] * 4 + [1] * 4
    with pytest.raises(
        ValueError, match=r"mesh.slices=\{\} is 1 slices, and these devices are of 2; name an axis .* \{'data': 2\}"
    ):
        make_mesh({"data": 8}, devices=devices)
    with pytest.raises(ValueError, match="mesh axis 'tensor' of 1 does not divide into 2 slices; make it a multiple"):
        make_mesh({"data": 8, "slices": {"tensor": 2}}, devices=devices)
    with pytest.raises(ValueError, match="is 2 slices, and these devices are of 1"):
        make_mesh({"data": 2, "slices": {"data": 2}})


def test_partition_specs_are_literal():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    assert partition_spec(("vocab", "embed"), (48, 32), mesh) == PartitionSpec(("tensor",), ("fsdp",))
    assert partition_spec((None, "embed", None), (3, 32, 5), mesh) == PartitionSpec(None, ("fsdp",), None)
    # The batch takes every axis that divides it: 8 both, 2 the first, 3 none. A vocabulary is the tokenizer's.
    assert partition_spec(("batch", None), (8, 4), mesh) == PartitionSpec(("data", "fsdp"), None)
    assert partition_spec(("batch", None), (2, 4), mesh) == PartitionSpec(("data",), None)
    assert partition_spec(("batch", None), (3, 4), mesh) == PartitionSpec(None, None)
    assert partition_spec(("vocab", "embed"), (47, 32), mesh) == PartitionSpec(None, ("fsdp",))


def test_roles_lay_an_expert_out_differently():
    mesh = types.SimpleNamespace(shape={"data": 1, "fsdp": 4, "expert": 2, "tensor": 2, "sequence": 1})
    expert = partial(partition_spec, ("experts", "embed", "mlp"), mesh=mesh)
    assert expert((8, 32, 16), role="train") == PartitionSpec(("expert",), ("fsdp",), ("tensor",))
    assert expert((8, 32, 16), role="rollout") == PartitionSpec(("expert", "fsdp"), None, ("tensor",))
    # Four experts: the first axis must divide them, a further one may not.
    assert expert((4, 32, 16), role="rollout") == PartitionSpec(("expert",), None, ("tensor",))
    long = types.SimpleNamespace(shape={"data": 1, "fsdp": 2, "expert": 1, "tensor": 1, "sequence": 4})
    rows = ("batch", "length", None)
    assert partition_spec(rows, (8, 16, 32), long) == PartitionSpec(("fsdp",), ("sequence",), None)
    assert partition_spec(rows, (8, 16, 32), long, role="rollout") == PartitionSpec(("fsdp", "sequence"), None, None)


def test_bad_layouts_raise(monkeypatch):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with pytest.raises(
        ValueError, match=r"wk: no rule for the logical axis 'head' in the role 'train'; .* one of \['batch'"
    ):
        partition_spec(("head",), (4,), mesh, name="wk")
    with pytest.raises(
        ValueError, match="'heads' and 'mlp' of .* both map to the mesh axis 'tensor' in the role 'train'"
    ):
        partition_spec(("heads", "mlp"), (4, 6), mesh)
    with pytest.raises(
        ValueError, match=r"wk \(3,\): the mesh axis 'tensor' of 2 does not divide 'kv_heads', which is 3; make mesh"
    ):
        partition_spec(("kv_heads",), (3,), mesh, name="wk")
    with pytest.raises(ValueError, match="1 logical axes"):
        partition_spec(("heads",), (4, 6), mesh)
    with pytest.raises(ValueError, match="layers/w_gate"):
        tree_shardings({"layers": {"w_gate": ("embed", "mlp")}}, {"layers": {"w_gate": np.zeros((3, 4))}}, mesh)
    monkeypatch.setitem(sharding.RULES["train"], "mlp", ("fsdp",))  # a collision is one whatever the sizes
    with pytest.raises(ValueError, match="both map to the mesh axis 'fsdp'"):
        partition_spec(("embed", "mlp"), (3, 5), make_mesh())


def test_the_table_has_mesh_axes_only_and_every_role_the_same_logical_axes():
    assert {axis for rules in RULES.values() for axes in rules.values() for axis in axes} <= set(MESH_AXES)
    assert len({frozenset(rules) for rules in RULES.values()}) == 1


@pytest.mark.parametrize("preset", ["deepseek_v3", "qwen2_5_32b"])
def test_every_parameter_of_a_model_has_a_layout_in_every_role(preset):
    model = make_model(make_preset(preset))
    for role in RULES:
        mesh = make_mesh({"fsdp": 2, "expert": 1 if "qwen" in preset else 2, "tensor": 2})
        for axes, shapes in zip(model.logical_axes(), model.abstract(), strict=True):
            tree_shardings(axes, shapes, mesh, role=role)


def test_constrain_without_a_mesh_is_the_identity():
    array = np.ones((8, 4), np.float32)  # on no device yet, as a stage's batches are
    assert constrain(array, ("batch", None)) is array
    with jax.set_mesh(make_mesh({"data": 2})):
        assert jax.jit(partial(constrain, logical_axes=("batch", None)))(array).sharding.shard_shape((8, 4)) == (4, 4)


def test_a_picture_of_a_tree():
    mesh = make_mesh({"fsdp": 2, "expert": 2, "tensor": 2})
    axes = {"moe": {"w_up_EDF": (None, "experts", "embed", "mlp")}, "scale": (None,)}
    shapes = {"moe": {"w_up_EDF": jnp.zeros((3, 8, 32, 16))}, "scale": jnp.zeros((32,), jnp.bfloat16)}
    placed = jax.device_put(shapes, tree_shardings(axes, shapes, mesh))
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), placed)
    assert describe_sharding(abstract) == describe_sharding(placed)
    assert describe_sharding(placed).splitlines() == [
        "name          shape      dtype     split by              bytes a device  copies",
        "moe/w_up_EDF  3x8x32x16  float32   - expert fsdp tensor  6,144           1",
        "scale         32         bfloat16  -                     64              8",
        "mesh {'fsdp': 2, 'expert': 2, 'tensor': 2}: 6,208 bytes a device of 49,216 in 2 arrays",
    ]
