"""What the README names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_row_of_the_equation_table_names_a_function_and_a_test():
    rows = re.findall(r"^\| .* \| `(r1jax/\S+\.py):(\w+)` \| `(tests/\S+\.py)` \|$", README, flags=re.MULTILINE)
    assert len(rows) == README.split("## Equation, function, test")[1].split("## Licence")[0].count("\n| ") - 1
    for file, name, test in rows:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), flags=re.MULTILINE), (file, name)
        assert (ROOT / test).is_file(), test


def test_the_map_names_every_room():
    rooms = {path.name for path in (ROOT / "r1jax").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {f"  {room}/" for room in rooms} - {line[: line.find("/") + 1] for line in README.splitlines()} == set()


def test_make_targets_and_configs_exist():
    targets = set(re.findall(r"^([a-z0-9_-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z0-9_-]+)", README.split("## An experiment")[0])) <= targets
    for config in re.findall(r"--config=(\S+\.py)", README):
        assert (ROOT / config).is_file(), config
