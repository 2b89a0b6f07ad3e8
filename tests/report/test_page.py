import html.parser
import json
import re
import subprocess
import sys

import pytest

from r1jax.report import NotAWorkdirError, write_report
from r1jax.report.__main__ import main
from r1jax.report.markup import code
from r1jax.report.page import SCRIPTS
from tests.report.synthetic import make_rl_stage, make_workdir, write_lines

VOID = {"meta", "br", "img", "link", "input"}


class Balance(html.parser.HTMLParser):
    """Fails on a tag that closes another one; collects tags, attributes and what is in scripts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.scripts = [], set(), set(), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data


def read(path):
    """The page without its scripts, which are its code and JSON, and nothing else."""
    text = path.read_text(encoding="utf-8")
    parsed, own = Balance(text), code(*SCRIPTS)["scripts"]
    assert [script for script in parsed.scripts if script in own] == own
    for script in parsed.scripts:
        assert script in own or json.loads(script) is not None
    assert not parsed.tags & {"img", "link", "iframe", "object"}
    assert not any(name.startswith("on") for name in parsed.attributes)
    text = re.sub("<script.*?</script>", "", text, flags=re.DOTALL)
    assert "://" not in text
    return text


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    workdir = make_workdir(tmp_path_factory.mktemp("runs") / "zero", updates=60)
    path = write_report(workdir)
    assert path == workdir / "report.html"
    assert [child.name for child in workdir.iterdir() if child.name.endswith(".part")] == []
    return read(path)


def test_headline(report):
    for text in ("0.231 → 0.872", "95 %: 0.200–0.260 → 0.850–0.890", "0.340 → 0.940", "23.5 → 36.2", "6 min 12 s"):
        assert f"{text}<" in report, text
    assert "finished at update 60, 6 min 12 s" in report and "2 stages, 6 min 22 s altogether" in report


TITLES = [
    "Held-out score",
    "Held-out pass@k",
    "Reward",
    "Reward parts",
    "Groups without a signal",
    "Loss",
    "Held-out format",
    "Response length",
    "Truncated",
    "Reflection words per 1,000 tokens",
    "Reflection words per completion",
    "Language",
    "KL to the reference",
    "Entropy",
    "Clipped ratios",
    "Sampler against trainer",
    "Gradient norm",
    "Learning rate",
    "Expert load",
    "Where the time goes",
    "Throughput",
    "my_new_metric",
]


@pytest.mark.parametrize("title", TITLES)
def test_every_metric_has_its_plot(report, title):
    assert f"<figcaption>{title}<" in report


def test_settings_and_environment_are_there(report):
    assert "<td>optimizer.learning_rate</td><td>0.0003</td>" in report
    assert "<td>rewards[0].function</td><td>r1jax.rewards.accuracy:accuracy_reward</td>" in report
    assert "<td>versions.jax</td><td>0.10.2</td>" in report


def test_unfinished_run(tmp_path):
    text = read(write_report(make_rl_stage(tmp_path / "rl", updates=7, done=False)))
    assert "running or stopped at update 7 of 60, 22 s so far, last row written" in text and "wall time so far<" in text
    assert "held-out pass@1" in text  # the first evaluation alone
    assert "0.234 → –" in text and "<h3>First evaluation</h3>" in text


@pytest.mark.parametrize("files", [[], ["metrics.jsonl"], ["metrics.jsonl", "summary.json", "completions"]])
def test_run_that_has_only_begun(tmp_path, files):
    (tmp_path / "config.json").write_text('{"stage": "rl"}')
    for name in files:
        (tmp_path / name).mkdir() if name == "completions" else (tmp_path / name).write_text("")
    text = read(write_report(tmp_path, out=tmp_path / "page.html"))
    assert "no update recorded yet" in text and "No metrics yet." in text


def test_hostile_names_and_settings(tmp_path):
    bad = "</title><script>x</script>$\\frac{&\ud800\x00"
    folder = tmp_path / "<b>run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({bad: bad, "stage": [bad], "seed": bad, "num_updates": bad}))
    (folder / "environment.json").write_text(json.dumps({"x": [{bad: None}]}))
    (folder / "summary.json").write_text(json.dumps({"before": bad, "after": {bad: 1}, "updates": bad, "seed": bad}))
    names = [bad, f"rewards/{bad}/mean", f"eval/cons@{bad}", "eval/cons@²", "eval/cons@x_low"]
    write_lines(folder / "metrics.jsonl", [{"step": step} | dict.fromkeys(names, step) for step in range(3)])
    text = read(write_report(folder))
    assert "<title>&lt;b&gt;run: r1jax report</title>" in text


def test_not_a_work_directory(tmp_path):
    with pytest.raises(NotAWorkdirError, match="is no work directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path):
    stage = make_rl_stage(tmp_path / "rl", updates=2)
    good = subprocess.run([sys.executable, "-m", "r1jax.report", stage], capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, f"{stage / 'report.html'}\n", "")
    bad = subprocess.run([sys.executable, "-m", "r1jax.report", tmp_path / "no"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr == f"error: {tmp_path / 'no'}: there is no such folder\n"


@pytest.mark.parametrize("kind", ["model", "folder of models", "nothing has run", "empty"])
def test_a_folder_without_a_run_is_one_line_and_exit_2(tmp_path, capsys, kind):
    folder = tmp_path / "folder"
    inner = {
        "model": folder,
        "folder of models": folder / "a",
        "nothing has run": folder / "zero",
        "empty": folder / "a",
    }
    inner[kind].mkdir(parents=True)
    if kind == "nothing has run":
        (folder / "zero" / "config.json").write_text('{"stage": "rl"}')
        (folder / "error.txt").write_text("x")
    elif kind != "empty":
        (inner[kind] / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (inner[kind] / "model.safetensors").write_bytes(b"")
    before = sorted(folder.rglob("*"))
    assert main([str(folder)]) == 2 and sorted(folder.rglob("*")) == before
    words = "nothing has run yet of its stages zero" if kind == "nothing has run" else "is no work directory"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}") and words in line
