"""Room for a stage's arrays: counted as the run lays them out, and refused in one line before anything is made."""

import types

import jax
import pytest

from r1jax.launch import device_memory
from r1jax.pipeline import make_stages
from r1jax.plan import room
from r1jax.plan.room import check_room, count_arrays
from r1jax.policies.policy import abstract_policy, config_of
from r1jax.rollout.engine import Engine
from r1jax.sharding import bytes_on_device, make_mesh
from r1jax.specs.config_file import ConfigError, Experiment, load_experiment, with_flags
from r1jax.specs.policy import RandomInit
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.stages.rl.stage import build
from tests.tiny import POLICY

GIB = 1 << 30


def rl(**changes) -> RlSpec:
    values = load_experiment("configs/zero.py").stages["zero"]
    return read(RlSpec, values | {"init": POLICY} | changes)


CONFIG = config_of(read(RandomInit, POLICY))


@pytest.mark.parametrize(
    "changes",
    [{}, {"mesh": {"fsdp": 8}}, {"optimizer": {"moments_dtype": "bfloat16"}}, {"kl_coef": 0.0}],
    ids=str,
)
def test_the_train_state_is_counted_as_it_is_laid_out(changes):
    spec = rl(**changes)
    mesh = make_mesh(spec.mesh.axes())
    with jax.set_mesh(mesh):
        state = build(spec, *abstract_policy(CONFIG, mesh=mesh))[0]
    counted = count_arrays(spec, CONFIG, mesh).always
    assert sum(counted.values()) == pytest.approx(bytes_on_device(state), rel=0.002)  # router biases, counters


def test_the_cache_is_that_of_the_engine():
    spec = rl(questions_per_phase=2, group_size=4, max_prompt_tokens=32, max_new_tokens=16)
    model, params, buffers = abstract_policy(CONFIG, mesh=make_mesh())
    zeros = jax.tree.map(lambda a: jax.numpy.zeros(a.shape, a.dtype), (params, buffers))
    with jax.set_mesh(make_mesh()):
        session = Engine(model, spec.engine).open(*zeros, num_slots=8, num_tokens=32 + 16)
    layers = jax.tree.leaves(session._slots.layers)
    assert count_arrays(spec, CONFIG, make_mesh()).sampling["cache"] == sum(array.nbytes for array in layers)


def test_a_copy_for_the_sampler_is_counted():
    both = [count_arrays(rl(engine={"dtype": dtype}), CONFIG, make_mesh()) for dtype in (None, "bfloat16")]
    assert "sampler's copy" not in both[0].sampling
    assert both[1].sampling["sampler's copy"] < 0.7 * both[1].always["parameters"]
    assert both[1].sampling["cache"] == both[0].sampling["cache"] // 2


def test_what_cannot_fit_is_refused_with_figures_and_keys(monkeypatch):
    mesh = make_mesh()
    needed = sum(count_arrays(rl(), CONFIG, mesh).most.values())
    for free, is_refused in ((needed, False), (needed - 1, True), (None, False)):
        monkeypatch.setattr(room, "free_bytes", lambda devices, free=free: free)
        if not is_refused:
            check_room(rl(), CONFIG, mesh)
            continue
        with pytest.raises(ValueError) as error:
            check_room(rl(), CONFIG, mesh)
        for words in (
            "GiB (parameters",
            "moments",
            "reference",
            "optimizer.moments_dtype",
            "kl_coef=0",
            "engine.slots",
            "mesh",
        ):
            assert words in str(error.value), words


def test_a_run_of_671b_is_refused_in_seconds(tmp_path):
    stages = load_experiment("configs/zero.py").stages
    large = POLICY | {"preset": "deepseek_v3", "model": {}}
    experiment = Experiment("mine.py", 0, {"zero": stages["zero"] | {"init": large}})
    with pytest.raises(ConfigError, match=r"^mine.py: stages.zero: needs 12,[\d,.]+ GiB \(parameters 2,5\d\d"):
        make_stages(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cpu_has_what_its_host_and_its_group_leave(monkeypatch, tmp_path):
    meminfo = {"MemTotal": 16 * GIB, "MemAvailable": 8 * GIB}
    monkeypatch.setattr(device_memory, "_meminfo", lambda: meminfo)
    monkeypatch.setattr(device_memory, "_CGROUP", tmp_path)
    cpus = jax.local_devices()[:2]
    assert device_memory.free_bytes(cpus) == 4 * GIB and device_memory.total_bytes(cpus) == 16 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert device_memory.free_bytes(cpus) == 4 * GIB
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{1 * GIB}\n")
    assert device_memory.free_bytes(cpus) == 3 * GIB // 2 and device_memory.total_bytes(cpus) == 4 * GIB
    monkeypatch.setattr(device_memory, "_meminfo", dict)
    assert device_memory.free_bytes(cpus) is None and "GiB" in device_memory.describe_memory(cpus)


def test_an_accelerator_says_what_it_has():
    stats = {"bytes_limit": 80 * GIB, "peak_bytes_in_use": 3 * GIB}
    gpus = [types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)] * 2
    assert device_memory.free_bytes(gpus) == 80 * GIB
    assert device_memory.describe_memory(gpus) == "memory 3.0 of 80.0 GiB"


def test_flags_make_it_fit():
    """The keys that the message names are those that count."""
    experiment = Experiment(
        "mine.py", 0, {"zero": load_experiment("configs/zero.py").stages["zero"] | {"init": POLICY}}
    )
    sizes = []
    for flag in ("seed=0", "optimizer.moments_dtype=bfloat16", "kl_coef=0", "engine.slots=4", "engine.dtype=bfloat16"):
        changed = with_flags(experiment, [f"--config.stages.zero.{flag}"])
        arrays = count_arrays(read(RlSpec, changed.stages["zero"]), CONFIG, make_mesh())
        sizes.append((sum(arrays.always.values()), arrays.sampling["cache"]))
    assert all(sum(size) < sum(sizes[0]) for size in sizes[1:])
