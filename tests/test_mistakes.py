"""Mistakes that people make: one line that names key, file or value as they wrote it, exit code 2, and nothing is trained.

Those of Hugging Face folders and of chats have tests in tests/hf and tests/text, those of data files in tests/tasks.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import pytest

from r1jax import run
from r1jax.policies import export
from r1jax.report import __main__ as report
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.workdir.directory import mark_done, open_workdir
from tests import front_door
from tests.mine import write_mine

quiet_cache = front_door.quiet_cache
ZERO = Path(__file__).parent.parent / "configs" / "zero.py"
WRONG_REWARDS = """
import signal

NUMBER = 3

def too_few(completions, **columns):
    return [0.0] * (len(completions) - 1)

def texts(completions, **columns):
    return ["good" for _ in completions]

def nans(completions, **columns):
    return [float("nan") for _ in completions]

def a_dict(completions, **columns):
    return {text: 1.0 for text in completions}

def a_generator(completions, **columns):
    return (1.0 for _ in completions)

def raises(completions, **columns):
    return [1 / 0 for _ in completions]

def exits(completions, **columns):
    raise SystemExit("enough")

def several_lines(completions, **columns):
    raise RuntimeError("line 1\\nline 2")

def document(index, *, seed, **arguments):
    raise KeyError("what")

def wants_columns(completions, animal, **columns):
    return [1.0 for _ in completions]

def alarm(completions, **columns):
    signal.signal(signal.SIGALRM, lambda *arguments: None)
    return [1.0 for _ in completions]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_mine(folder)
    (folder / "wrong.py").write_text(WRONG_REWARDS)
    return folder


def begins(spec, workdir):
    raise AssertionError(f"{workdir} would be trained")


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A folder of one's own with mine.py and what it names, as the current directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.sys, "path", list(run.sys.path))
    for stage in ("rl", "supervised"):
        monkeypatch.setattr(f"r1jax.stages.{stage}.main", begins)
    for name in ("my_rewards", "wrong"):
        run.sys.modules.pop(name, None)
    return tmp_path


@pytest.fixture
def said(folder, capsys):
    """Runs the front door, which must end with 2 before anything is trained; returns the line that it says."""

    def call(*flags, config="mine.py"):
        assert run.main([f"--config={config}", "--workdir=out", *flags]) == 2
        return only_line(capsys.readouterr().err, folder)

    return call


def only_line(err, folder):
    """The error of what was printed: one line, after which only a hint and the differences of two configs may stand."""
    lines = err.splitlines()
    (line,) = [line for line in lines if line.startswith("error: ")]
    after = [other for other in lines[lines.index(line) + 1 :] if not other.startswith("  ")]
    assert "Traceback" not in err and len(after) <= 1
    assert not list(folder.rglob("checkpoints")) and not list(folder.rglob("metrics.jsonl"))
    return line


RL = "--config.stages.rl."
REWARD = f"{RL}rewards[0]."
ZERO_RL = "--config.stages.zero."


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (f"{RL}group_sise=4", "mine.py: there is no key 'stages.rl.group_sise'; near it: group_size"),  # 1
        ("--workdr=x", "unknown flag --workdr"),
        ("--config.stages.r.group_size=4", "mine.py: there is no stage 'r'"),
        (f"{RL}group_size=four", "stages.rl.group_size='four' must be a whole number"),  # 2
        (f"{RL}group_size=4.0", "stages.rl.group_size=4.0 must be a whole number"),
        (f"{REWARD}function=my_rewards:nothing", "'my_rewards:nothing': module 'my_rewards' has no 'nothing'"),  # 4
        (f"{REWARD}function=my_reward:digits", "'my_reward:digits': cannot import module 'my_reward'"),
        (f"{REWARD}function=wrong:NUMBER", "'wrong:NUMBER' is a int, not a function"),
        (f"{REWARD}function=my_rewards.digits", "'my_rewards.digits' must have the form 'module:function'"),
        (f"{REWARD}function=wrong:too_few", "too_few"),  # 5
        (f"{REWARD}function=wrong:texts", "texts"),
        (f"{REWARD}function=wrong:nans", "nans"),
        (f"{REWARD}function=wrong:a_dict", "a_dict"),
        (f"{REWARD}function=wrong:a_generator", "a_generator"),
        (f"{REWARD}function=wrong:raises", "ZeroDivisionError"),  # 6
        (f"{REWARD}function=wrong:wants_columns", "animal"),
        (f"{REWARD}function=my_rewards:digit", "module 'my_rewards' has no 'digit'; near it: digits"),
        (
            f"{REWARD}function=builtins:max",
            "mine.py: stages.rl.rewards[0].function='builtins:max': which columns it takes cannot be read",
        ),
        (f"{REWARD}function=wrong:exits", "SystemExit: enough"),
        (f"{REWARD}function=wrong:several_lines", "RuntimeError: line 1 line 2"),
        (f"{RL}mesh.fsdp=3", "mesh"),  # 8
        (f"{RL}mesh={{'fsd': 2}}", "there is no key 'stages.rl.mesh.fsd'; near it: fsdp"),
        (f"{RL}mesh.data=0", "stages.rl.mesh.data=0 must be at least 1"),
        (f"{RL}questions_per_phase=-4", "stages.rl.questions_per_phase=-4 must be at least 1"),  # 12
        (f"{RL}seed=-1", "stages.rl.seed=-1 must be at least 0"),
        ("--seed=-1", "seed=-1 must be at least 0"),
        (f"{RL}temperature=0", "stages.rl.temperature=0 must be more than 0"),
        (f"{RL}group_size=1", "stages.rl.group_size=1: a group needs at least 2"),
        (f"{RL}optimizer.clip_norm=none", "stages.rl.optimizer.clip_norm='none' must be a number or None"),
        (f"{RL}num_updates=1,000", "stages.rl.num_updates=1,000 must be a whole number"),
        (f"{RL}rewards[1].function=a:b", "the file has 1 reward(s) there; add it in the file"),
        (
            f"{RL}tasks[0].train=x.jsonl",
            "path does not go with train and heldout: leave out path, or train and heldout",
        ),
        (f"{RL}stage=r1", "stages.rl.stage='r1' must be one of supervised, rl, "),  # 15
        (f"{RL}tasks[0].dataset=gsm9k", "gsm9k"),
        (f"{RL}tasks[0].path=nowhere.jsonl", "mine.py: stages.rl.tasks[0].path: /"),
        (f"{RL}tasks=[{{'kind': 'reasoning_gym', 'dataset': 'chain_sun'}}]", "chain_sun"),
        (f"{REWARD}weight=one", "stages.rl.rewards[0].weight='one' must be a number"),  # 19
        (f"{REWARD}weight=None", "stages.rl.rewards[0].weight='None' must be a number"),
        (f"{RL}advantage=stdd", "stages.rl.advantage='stdd' must be one of 'std', 'mean', 'leave_one_out'"),  # 20
        (f"{RL}template=qwen", "stages.rl.template='qwen'"),  # 21
        (
            f"{RL}init.path=Qwen/Qwen2.5-0.5B",
            "/Qwen/Qwen2.5-0.5B, and only folders on this machine are read; a model of the ",
        ),  # 22
        (f"{RL}init.model.dtype=float17", "float17"),
        (f"{RL}max_new_tokens=0", "stages.rl.max_new_tokens=0 must be at least 1, or must be a list"),
        (f"{RL}max_prompt_tokens=4", "stages.rl.max_prompt_tokens=4"),  # 24
        (f"{RL}eval.final_problems=1000", "stages.rl.eval.final_problems=1000"),  # 25
        (f"{RL}eval.problems=1000", "stages.rl.eval.problems=1000"),
        (f"{RL}mesh.expert=8", "mesh"),  # 26
        (f"{REWARD}function=wrong:alarm", "signal only works in main thread"),  # 27
        (f"{RL}aggregation_constant=0.5", "stages.rl.aggregation_constant=0.5 must be a whole number"),  # 32
        (f"{RL}aggregation_constant=-128", "stages.rl.aggregation_constant=-128 must be at least 1"),
        (f"--seed={2**70}", f"seed={2**70} must be at least 0 and below 2**31"),  # 33
        (f"{RL}seed={2**70}", f"stages.rl.seed={2**70} must be at least 0 and below 2**31"),
    ],
)
def test_a_wrong_value_of_the_ten_line_experiment(said, flag, words):
    assert words in said(flag)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (f"{ZERO_RL}max_prompt_tokens=4", "stages.zero.max_prompt_tokens=4: "),  # 24
        (f"{ZERO_RL}eval.final_problems=100000", "stages.zero.eval.final_problems=100000"),  # 25
        (f"{ZERO_RL}mesh={{'sequence': 3}}", "stages.zero.mesh"),  # 26
        (f"{ZERO_RL}mesh={{'expert': 3}}", "stages.zero.mesh"),
        ("--config.stages.base.mesh={'sequence': 7}", "stages.base.mesh"),
        (
            "--config.stages.base.row_length=4",
            " tokens and a row holds 4: make row_length larger, or say too_long='cut'",
        ),
        (
            "--config.stages.base.init.preset=mini_v4",
            "stages.base: there is no model preset 'mini_v4'; near it: mini_v3, ",
        ),
        (f"{ZERO_RL}rewards[0].function=wrong:alarm", "signal only works in main thread"),  # 27
        ("--config.stages.base.data.function=r1jax.tasks.mini.corpus:corpus_txt", "stages.base.data.function="),  # 30
        ("--config.stages.base.data.function=wrong:document", "stages.base: 'wrong:document' raised KeyError: 'what'"),
        (f"{ZERO_RL}template=qwen", "stages.zero.template='qwen'"),
        (f"{ZERO_RL}init.path={{bas}}", "stages.zero.init.path='{bas}': unknown placeholder"),
        (
            "--config.stages.base.data.arguments.x=3",
            "stages.base: corpus_text() got an unexpected keyword argument 'x'",
        ),
        (f"{ZERO_RL}init.step=best", "stages.zero.init.step='best': the stage 'base' has no held-out score"),
        (f"{ZERO_RL}row_length=64", "stages.zero.row_length=64 does not hold max_prompt_tokens=48 and 112 new tokens"),
    ],
)
def test_a_wrong_value_of_a_stage_whose_policy_another_has_still_to_make(said, flag, words):
    assert words in said(flag, config=ZERO)


def test_a_logger_whose_package_is_not_there(said, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == "trackio" else find_spec(name, *of)
    )
    words = said(f"{ZERO_RL}loggers=['trackio']", config=ZERO)
    assert "stages.zero.loggers: 'trackio' is not installed; pip install trackio" in words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "--config=mine.py: there is no such Python file"),  # 3
        ("", "mine.py defines no get_config()"),  # 15
        ("def get_config(:\n    pass", "mine.py, line 1: invalid syntax"),  # 17
        ("def get_config():\n  a\n b", "mine.py, line 3: unindent does not match"),
        ("def get_config():\n    return {}['a']", "mine.py, line 2: KeyError: 'a'"),  # 18
        ("import no_such_module", "mine.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config(size): pass", "mine.py: TypeError: get_config() missing 1 required positional argument"),
    ],
)
def test_a_config_that_cannot_be_read(said, folder, source, words):
    if source is None:
        (folder / "mine.py").unlink()
    else:
        (folder / "mine.py").write_text(source)
    assert words in said()


def test_a_module_that_exits_when_it_is_imported(said, folder):
    (folder / "leaves.py").write_text("import sys\nsys.exit('no tokens\\nleft')\n")
    words = "stages.rl.rewards[0].function='leaves:x': cannot import module 'leaves': SystemExit: no tokens left"
    assert words in said(f"{REWARD}function=leaves:x")


def test_a_reward_by_the_grade_where_no_row_has_an_answer(said, folder):
    (folder / "bare.jsonl").write_text("".join(f'{{"prompt": "What is {n}?"}}\n' for n in range(40)))
    flags = [f"{RL}tasks[0].path=bare.jsonl", f"{REWARD}function=r1jax.rewards.accuracy:accuracy_reward"]
    words = "mine.py: stages.rl.rewards: 'accuracy_reward' scores by the grade of the answer, and no row of "
    assert f"{words}{folder}/bare.jsonl has an answer" in said(*flags)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("'workdir': 3", "mine.py: stages.rl.workdir=3 must be a text"),
        ("'stage': ['rl']", "mine.py: stages.rl.stage=['rl'] must be one of supervised, rl, "),
        ("'temperature': 10**400", "must be finite"),
    ],
)
def test_a_wrong_value_in_the_file(said, folder, entry, words):
    source = (folder / "mine.py").read_text().replace('"num_updates": 50}', f'"num_updates": 50, {entry}}}')
    (folder / "mine.py").write_text(source)
    assert words in said()


def test_a_work_directory_that_cannot_be_used(said, folder, monkeypatch):  # 9, 14
    (folder / "out").write_text("a file")
    assert f"{folder}/out/rl: cannot write the work directory" in said()
    (folder / "out").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
        assert f"{folder}/out/rl: needs 67 MB, 0 MB are free on its disk" in said()
    spec = read(
        RlSpec,
        {
            "init": {"kind": "hf", "path": "m"},
            "tasks": [{"kind": "files", "path": "p"}],
            "rewards": [{"function": "a:b"}],
        },
    )
    with open_workdir(folder / "out" / "rl", spec) as workdir:
        assert f"{folder}/out/rl is in use by process" in said()
        mark_done(workdir, {})
    assert f"{folder}/out/rl holds a run of another config" in said()


def test_no_such_backend(said, monkeypatch):  # 23
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda': ...\nmore")

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert "JAX_PLATFORMS=cuda: JAX finds no devices (Unable to initialize backend 'cuda': ...)" in said()


def test_export_from_the_directory_of_a_run_and_of_nothing(folder, capsys):  # 28
    for name in ("base", "zero"):
        (folder / "out" / name).mkdir(parents=True)
        (folder / "out" / name / "model.json").write_text("{}")
    assert export.main(["--from=out", "--to=new"]) == 2
    line = only_line(capsys.readouterr().err, folder)
    assert line == "error: out is the directory of a run; say which stage: out/base, out/zero"
    for name in ("nothing", "my_model"):
        assert export.main([f"--from={name}", "--to=new"]) == 2
        assert name in only_line(capsys.readouterr().err, folder)
    assert not (folder / "new").exists()


def test_optional_keys_by_flag(folder, capsys):  # 29
    flags = [
        "rollout_mesh.data=8",
        "offload=['optimizer']",
        "engine.slots=64",
        "init.model.remat=full",
        "engine.cache=dense",
    ]
    assert run.main(["--config=mine.py", "--help", *(f"{RL}{flag}" for flag in flags)]) == 0
    out = capsys.readouterr().out
    for line in (
        "rollout_mesh.data = 8",
        "offload = ['optimizer']",
        "engine.slots = 64",
        "init.model = {'remat': 'full'}",
    ):
        assert f"\n  {line}" in out


def test_a_start_after_an_error_runs_with_the_config_mended(said, folder, monkeypatch):  # 31

    def fails(spec, workdir):
        with open_workdir(workdir, spec):
            raise ValueError("the first update failed")

    monkeypatch.setattr("r1jax.stages.rl.main", fails)
    assert "the first update failed" in said()
    assert (folder / "out" / "rl" / "config.json").exists()

    def ends(spec, workdir):
        with open_workdir(workdir, spec):
            summary = {"wall_seconds": 1.0, "seed": spec.seed}
            mark_done(workdir, summary)
        return summary

    monkeypatch.setattr("r1jax.stages.rl.main", ends)
    assert run.main(["--config=mine.py", "--workdir=out", f"{RL}optimizer.learning_rate=1e-5"]) == 0
    config = json.loads((folder / "out" / "rl" / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 1e-5


def test_a_report_of_no_run(folder, capsys):  # 34
    (folder / "empty").mkdir()
    for name in ("empty", "my_model", "nothing"):
        assert report.main([name]) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and name in err and not list(folder.rglob("*.html"))


def test_a_start_from_a_folder_says_nothing_of_what_it_was_trained_on(folder, capsys, monkeypatch):  # 35
    monkeypatch.setattr("r1jax.stages.rl.main", lambda spec, workdir: {"wall_seconds": 1.0, "seed": 0})
    run.main(["--config=mine.py", "--workdir=out"])
    captured = capsys.readouterr()
    assert "cannot tell" not in captured.out + captured.err and "KeyError" not in captured.err
