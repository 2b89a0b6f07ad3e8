"""The full-size recipe: the paper's values, stages that find each other, and configs that their stages accept."""

import json
import math
import operator
import re
import types
from pathlib import Path

import jax
import pytest

from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.pipeline import make_stages, plan_stages
from r1jax.policies.policy import Policy, config_of, tokenizer_of
from r1jax.rewards.sandbox import probe
from r1jax.sharding import MESH_AXES, partition_spec
from r1jax.specs.config_file import load_experiment
from r1jax.specs.policy import AnyInit
from r1jax.specs.reader import read
from r1jax.specs.rewards import ModelReward
from r1jax.specs.tasks import AnyTask
from r1jax.tasks.mixture import TaskSchedule
from tests.tiny import POLICY

FOLDER = Path(__file__).parents[2] / "configs" / "r1"
STUDENTS = ("qwen_1_5b", "qwen_7b", "llama_8b", "qwen_14b", "qwen_32b", "llama_70b")
NAMES = (
    *("zero", "cold_start", "rl1", "reject", "sft", "preferences", "reward_helpful", "reward_safety", "rl2"),
    *(f"distill_{student}" for student in STUDENTS),
    "zero_qwen_32b",
)
RUNS = Path("/runs/r1")
EXPERIMENTS = {name: load_experiment(str(FOLDER / f"{name}.py")) for name in NAMES}
SPECS = {
    name: {stage.name: stage.spec for stage in plan_stages(experiment, RUNS / name)}
    for name, experiment in EXPERIMENTS.items()
}
TRAINS = [(name, stage) for name in NAMES for stage in SPECS[name] if stage not in ("reject", "preferences")]

RL = ("zero", "rl1", "rl2", "zero_qwen_32b")
SFT = {"cold_start": 5e-6, "sft": 5e-6} | {
    f"distill_{student}": rate for student, rate in zip(STUDENTS, (1e-4, 8e-5, 5e-5, 7e-5, 6e-5, 2e-5), strict=True)
}

# (experiment, key below its stages, the paper's value, place in the reference)
TABLE = [
    *((name, "rl.group_size", 16, "B.2") for name in RL),
    *((name, "rl.questions_per_phase", 8192 // 16, "B.2: 8,192 outputs a rollout") for name in RL),
    *((name, "rl.updates_per_phase", 16, "B.2: 32 questions, 512 outputs a step") for name in RL),
    *((name, "rl.kl_coef", 0.001, "B.2") for name in RL),
    *((name, "rl.kl_estimator", "k3", "B.1") for name in RL),
    *((name, "rl.advantage", "std", "B.1") for name in RL),
    *((name, "rl.aggregation", "sequence", "B.1: 1/|o|, then the mean of outputs") for name in RL),
    *((name, "rl.clip_low", 10.0, "B.2, G.1") for name in RL),
    *((name, "rl.clip_high", 10.0, "B.2, G.1") for name in RL),
    *((name, "rl.reference_every", 400, "B.2") for name in RL),
    *((name, "rl.optimizer.schedule", "constant", "B.2") for name in RL),
    *((name, "rl.optimizer.learning_rate", 3e-6, "B.2") for name in ("zero", "rl1", "rl2")),
    ("zero_qwen_32b", "rl.optimizer.learning_rate", 1e-6, "B.2, G.22"),
    *((name, "rl.temperature", 1.0, "B.2") for name in ("zero", "rl1", "zero_qwen_32b")),
    ("rl2", "rl.temperature", 0.7, "B.2"),
    ("zero", "rl.num_updates", 10_400, "B.2"),
    ("zero", "rl.max_new_tokens", ((0, 32_768), (8192, 65_536)), "B.2, B.3: at 8.2k, phase 512"),
    *((name, "rl.max_new_tokens", ((0, 32_768),), "B.2") for name in ("rl1", "rl2", "zero_qwen_32b")),
    ("rl2", "rl.num_updates", 1696, "B.2: 1,700, here whole phases"),
    ("zero", "rl.template", "r1_zero", "B.5"),
    ("rl1", "rl.template", "r1", "A.9.2"),
    *((name, "supervised.num_epochs", 2, "C.4, C.6: 2-3 for students") for name in SFT),
    *((name, "supervised.documents_per_update", 64, "C.4, C.6") for name in SFT),
    *((name, "supervised.row_length", 32_768, "C.4, C.6") for name in SFT),
    *((name, "supervised.optimizer.schedule", "cosine", "C.4, C.6") for name in SFT),
    *((name, "supervised.optimizer.final_fraction", 0.1, "C.4, C.6") for name in SFT),
    *((name, "supervised.optimizer.learning_rate", rate, "C.4, C.6") for name, rate in SFT.items()),
    ("cold_start", "reject.temperature", 1.0, "C.1"),
    ("preferences", "preferences.queries", 4, "B.7"),
    ("preferences", "preferences.threshold", 1.0, "B.7"),
    *((name, "reward_model.examples_per_update", 256, "B.7") for name in ("reward_helpful", "reward_safety")),
    *((name, "reward_model.optimizer.learning_rate", 6e-6, "B.7") for name in ("reward_helpful", "reward_safety")),
    *((name, "reward_model.epochs", 1, "B.7") for name in ("reward_helpful", "reward_safety")),
    *((name, "reward_model.max_tokens", 8192, "B.7") for name in ("reward_helpful", "reward_safety")),
    ("reward_helpful", "reward_model.kind", "helpful", "B.7"),
    ("reward_safety", "reward_model.kind", "safety", "B.7"),
]


@pytest.mark.parametrize(("name", "key", "value", "place"), TABLE, ids=lambda part: str(part)[:40])
def test_the_paper_s_values(name, key, value, place):
    stage, _, field = key.partition(".")
    assert operator.attrgetter(field)(SPECS[name][stage]) == value, place


def test_the_folder_holds_what_the_table_knows():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*NAMES, "recipe"}


def test_rewards_and_the_last_400_updates_of_stage_2():
    rewards = {name: SPECS[name]["rl"].rewards for name in ("zero", "rl1", "rl2")}
    functions = {
        name: {spec.function.rpartition(".")[2] for spec in specs if not isinstance(spec, ModelReward) and spec.weight}
        for name, specs in rewards.items()
    }
    assert functions["zero"] == {"accuracy:accuracy_reward", "format:r1_zero"}  # B.6.4
    assert functions["rl1"] == {"accuracy:accuracy_reward", "format:r1", "language:consistency"}
    assert functions["rl2"] == functions["rl1"]
    assert {spec.weight for specs in rewards.values() for spec in specs} == {0.0, 1.0}
    stage = SPECS["rl2"]["rl"]
    joins = {spec.name: spec.from_update for spec in (*stage.rewards, *stage.tasks) if spec.from_update}
    assert joins == dict.fromkeys(("helpful", "safety", "harmless"), 1696 - 400)
    of_models = {spec.name: spec.tasks for spec in stage.rewards if isinstance(spec, ModelReward)}
    assert of_models == {"helpful": ("helpful",), "safety": ("harmless",)}  # B.6.3: one score for each prompt
    (accuracy,) = (spec for spec in stage.rewards if spec.name == "accuracy")
    assert accuracy.tasks == ("math", "code", "stem", "logic")


def test_the_set_is_filtered_as_the_paper_says():
    def filters_of(stage):
        return {spec.function.rpartition(":")[2] for spec in stage.filters}

    filters = {"correct", "one_language", "short_paragraphs", "no_code_in_thought"}
    assert filters <= filters_of(SPECS["reject"]["reject"])  # C.3
    cold_start = SPECS["cold_start"]["reject"]
    assert {"correct", "not_repetitive", "one_language"} <= filters_of(cold_start)  # C.1
    assert cold_start.rewrite is not None


STARTS = {
    "zero": "models/deepseek_v3_base",
    "cold_start": "models/deepseek_v3_base",
    "rl1": "cold_start/supervised",
    "reject": "rl1/rl",
    "sft": "models/deepseek_v3_base",  # not from Dev2
    "rl2": "sft/supervised",
}


@pytest.mark.parametrize(("name", "start"), STARTS.items())
def test_stages_start_where_the_paper_s_do(name, start):
    *_, stage = SPECS[name].values()
    assert stage.init.path == str(RUNS / start)


def test_students_learn_from_the_same_set():
    for student in STUDENTS:
        stage = SPECS[f"distill_{student}"]["supervised"]
        assert stage.data == SPECS["sft"]["supervised"].data and stage.data.path == str(RUNS / "reject/reject")
        assert stage.init.kind == "hf"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_config_reads_another_one_makes(name):
    text = json.dumps(EXPERIMENTS[name].stages)
    for experiment, stage in re.findall(r'"{workdir}/\.\./(\w+)/(\w+)"', text):
        assert experiment == "models" or stage in EXPERIMENTS[experiment].stages


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_what_every_config_s_must(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert f"python -m r1jax.run --config=configs/r1/{name}.py --workdir=runs/r1/{name}\n" in text
    for word in ("Reads:", "never run", "Expected:", "Got: not run", "spec"):
        assert word in text


CHOICE = {"options": ["1", "2", "3", "4"], "answer": "B", "answer_index": 1}
GPQA = {"Correct Answer": "a", **{f"Incorrect Answer {number}": f"b{number}" for number in (1, 2, 3)}}
PROGRAM = {"title": "Sum", "description": "Add.", "time_limit": 1.0, "memory_limit": 256.0}
TALK = [{"role": "user", "content": "Hello"}]
DATA = {
    "math": {"problem": "What is 1 + 1?", "answer": "2"},
    "aime_2024": {"problem": "What is 2 + 2?", "answer": "4"},
    "math_500": {"problem": "What is 3 + 3?", "answer": "6", "solution": "6"},
    "gpqa_diamond": {"Question": "Which letter?", **GPQA},
    "livecodebench": {"question_content": "Print 1.", "starter_code": ""},
    "code": PROGRAM | {"official_tests": [{"input": "1 1", "output": "2"}]},
    "code_heldout": PROGRAM | {"title": "Product", "official_tests": [{"input": "1 1", "output": "1"}]},
    "stem": {"question": "Which quantity?"} | CHOICE,
    "stem_heldout": {"question": "Which element?"} | CHOICE,
    "logic": {"question": "Who lies?"} | CHOICE,
    "logic_heldout": {"question": "Who is tall?"} | CHOICE,
    "open": {"prompt": "Why is the sum even?", "answer": "Both are odd."},
    "helpful": {"prompt": "Write a letter."},
    "harmless": {"prompt": "How do I pick a lock?"},
    "non_reasoning": {"messages": [*TALK, {"role": "assistant", "content": "Hello!"}]},
    "software": {"prompt": "Repair this.", "completion": "Done."},
    "candidates": {"messages": TALK, "responses": ["Hi.", "Go away."]},
    "safety": {"messages": TALK, "response": "Hi.", "is_safe": True},
}


END, *OTHERS = (f"<｜{name}｜>" for name in ("end▁of▁sentence", "begin▁of▁sentence", "User", "Assistant"))
R1_POLICY = POLICY | {
    "model": POLICY["model"] | {"num_mtp_layers": 1},
    "tokenizer": POLICY["tokenizer"] | {"special_tokens": [END, "<|pad|>", *OTHERS]},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs/r1 with a row of each data set in its published fields, and a DONE and a random policy where a model is to be."""
    folder = tmp_path_factory.mktemp("runs") / "r1"
    init = read(AnyInit, R1_POLICY)
    policy = Policy(make_model(config_of(init, seed=0)), tokenizer_of(init, seed=0))
    for name, stage in TRAINS:
        (folder / name / stage).mkdir(parents=True)
        (folder / name / stage / "DONE").touch()
        policy.save(folder / name / stage)
    (folder / "data").mkdir(parents=True)
    for name, row in DATA.items():
        (folder / "data" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_its_stages_accept_every_config_on_one_device_with_a_random_policy(name, runs):
    experiment = load_experiment(str(FOLDER / f"{name}.py"))
    stages = experiment.stages
    if probe.find_problem() is not None and "codeforces" in json.dumps(stages):
        pytest.skip(str(probe.find_problem()))
    for stage in stages.values():
        stage.pop("mesh", None)
        stage.pop("rollout_mesh", None)
        if stage.get("init", {}).get("kind") == "hf":
            stage["init"] = R1_POLICY
        if stage["stage"] == "rl":
            stage["eval"] |= {"problems": 3, "final_problems": 3}  # a row of each data set is held out
        if stage["stage"] in ("rl", "reject", "evaluate"):
            stage["engine"] = {**stage.get("engine", {}), "cache_gb": 1.0}  # a pod's is refused on a smaller machine
    planned = make_stages(experiment, runs / f"{name}_anew")
    assert [stage.workdir for stage in planned] == [runs / f"{name}_anew" / stage for stage in stages]


def test_the_mixture_of_stage_2_before_and_after(runs):
    tasks = json.dumps(EXPERIMENTS["rl2"].stages["rl"]["tasks"]).replace("{workdir}/..", str(runs))
    schedule = TaskSchedule(read(tuple[AnyTask, ...], json.loads(tasks)), seed=0)
    assert set(schedule.at(1280).tasks) == {"math", "code", "stem", "logic"}
    assert set(schedule.at(1296).tasks) == {"math", "code", "stem", "logic", "helpful", "harmless"}


MODELS = {"deepseek_v3_base": "deepseek_v3"}


@pytest.mark.parametrize(("name", "stage"), TRAINS)
def test_the_state_of_every_stage_fits_its_mesh(name, stage):
    """16 bytes a trained parameter, 20 with RL's reference, as the rules lay them out: at most 60 of a chip's 95 GB."""
    spec = SPECS[name][stage]
    folder = spec.init.path.rpartition("/")[2] if spec.init.kind == "hf" else "deepseek_v3_base"
    model = make_model(make_preset(MODELS.get(folder, folder)))
    mesh = types.SimpleNamespace(shape={axis: getattr(spec.mesh, axis) for axis in MESH_AXES})
    shapes, axes = model.abstract()[0], model.logical_axes()[0]

    def share(names, leaf):
        entries = partition_spec(names, leaf.shape, mesh)
        cuts = [(entry,) if isinstance(entry, str) else entry or () for entry in entries]
        return leaf.size / math.prod(mesh.shape[axis] for cut in cuts for axis in cut)

    count = sum(jax.tree.leaves(jax.tree.map(share, axes, shapes, is_leaf=lambda node: isinstance(node, tuple))))
    assert count * (20 if stage == "rl" else 16) < 60e9
