"""Peers that take turns with a benchmark."""

import sys

import pytest

from r1jax.bench.peers import Peer, ratio

DOUBLES = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"twice": 2 * json.loads(line)["x"]}), flush=True)
"""


def write(path, text):
    path.write_text(text)
    return path


def test_a_peer_answers_as_often_as_it_is_asked(tmp_path):
    with Peer([sys.executable, write(tmp_path / "peer.py", DOUBLES)]) as peer:
        assert [peer.ask({"x": x})["twice"] for x in (1, 5)] == [2, 10]


def test_a_peer_that_fails_is_named_with_its_last_line(tmp_path):
    script = write(tmp_path / "peer.py", "input()\nraise SystemExit('there is no torch')")
    with (
        Peer([sys.executable, script]) as peer,
        pytest.raises(ValueError, match=r"peer.py failed: .*there is no torch"),
    ):
        peer.ask({"x": 1})
    with pytest.raises(FileNotFoundError, match=r"nothing.py: run this from the root"):
        Peer([sys.executable, tmp_path / "nothing.py"])


def test_ratio_is_of_the_seconds_of_the_same_turn():
    assert ratio([1.0, 2.0, 4.0], [3.0, 2.0, 8.0]) == {"median": 2.0, "least": 1.0, "largest": 3.0}
