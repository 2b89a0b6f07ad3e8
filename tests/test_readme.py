"""What the READMEs say: every room has one, what they name exists, their examples run."""

import json
import re
from pathlib import Path

import pytest

from r1jax.pipeline import plan_stages
from r1jax.specs.config_file import load_experiment
from tests.mine import TEN_LINES, write_mine
from tests.report.synthetic import make_workdir

ROOT = Path(__file__).resolve().parent.parent
FRONT = ROOT / "README.md"
ROOMS = sorted(path.parent for path in (ROOT / "r1jax").glob("*/__init__.py"))
READMES = [FRONT, *sorted((ROOT / "r1jax").rglob("README.md"))]
MAX_WIDTH = 120
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors_of(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_of(room: Path, text: str) -> list[str]:
    """The files and folders of a room that its README does not name, `name.py` or `name/`."""
    files = [path.name for path in sorted(room.glob("*.py")) if path.name not in ("__init__.py", "__main__.py")]
    folders = [f"{path.name}/" for path in sorted(room.iterdir()) if path.is_dir() and path.name[0] not in "._"]
    return [name for name in files + folders if f"`{name}" not in text]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_room_has_a_readme_that_names_its_files(room):
    text = (room / "README.md").read_text()
    assert missing_of(room, text) == []
    assert text.startswith(f"# {room.name}/\n")


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_links_make_targets_configs_and_files_exist(page):
    text = page.read_text()
    for link in _LINK.findall(text):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link
    targets = set(re.findall(r"^([a-z0-9_-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z0-9_-]+)", text, flags=re.MULTILINE)) <= targets
    for config in re.findall(r"\bconfigs/[\w/]+\.py", text):
        assert (ROOT / config).is_file(), config
    for path in re.findall(r"`((?:r1jax|tests|experiments|configs|notebooks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for module, function in re.findall(r"\b(r1jax(?:\.\w+)+):(\w+)", text):
        source = (ROOT / module.replace(".", "/")).with_suffix(".py")
        assert re.search(rf"^def {function}\b", source.read_text(), flags=re.MULTILINE), (module, function)


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_lines_fit(page):
    wide = [line for line in page.read_text().splitlines() if len(line) > MAX_WIDTH]
    assert [line for line in wide if not line.startswith("|") and not _LINK.search(line)] == []


def test_the_front_page_is_short_and_leads_to_every_room():
    text = FRONT.read_text()
    assert len(text.splitlines()) < 150
    assert {f"r1jax/{room.name}/README.md" for room in ROOMS} - set(_LINK.findall(text)) == set()


def test_the_front_page_has_the_experiment_that_the_tests_run():
    shown = [code for _, code in _FENCE.findall(FRONT.read_text()) if "def get_config" in code]
    configs = []
    for code in (*shown, TEN_LINES):
        names = {}
        exec(code, names)
        configs.append(names["get_config"]().to_dict())
    assert len(configs) == 2 and configs[0] == configs[1]


def test_every_row_of_the_equation_table_names_a_function_and_a_test():
    table = (ROOT / "r1jax/objectives/README.md").read_text().split("## Equation, function, test")[1]
    rows = re.findall(r"^\| .* \| `(r1jax/\S+\.py):(\w+)` \| `(tests/\S+\.py)` \|$", table, flags=re.MULTILINE)
    assert len(rows) == table.count("\n| ") - 1
    for file, name, test in rows:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), flags=re.MULTILINE), (file, name)
        assert re.search(rf"\b{name}\b", (ROOT / test).read_text()), (name, test)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples name: a model, problems, conversations, a run."""
    folder = tmp_path_factory.mktemp("examples")
    write_mine(folder)
    turn = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    (folder / "conversations.jsonl").write_text(f"{json.dumps({'messages': turn})}\n")
    make_workdir(folder / "out")
    return folder


@pytest.mark.parametrize("page", [page for page in READMES if "```python" in page.read_text()], ids=name_of)
def test_examples_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for number, (language, code) in enumerate(_FENCE.findall(page.read_text())):
        if language != "python":
            continue
        names = {"__name__": f"example_{number}"}
        exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)
        if "get_config" in names:
            (folder / "example.py").write_text(code)
            stages = plan_stages(load_experiment("example.py"), folder / "planned")
            assert [stage.name for stage in stages] == list(names["get_config"]().stages)
