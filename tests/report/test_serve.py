import http.client
import threading

import pytest

from r1jax.report import write_report
from r1jax.report.__main__ import main
from r1jax.report.serve import Server
from tests.report.synthetic import make_rl_stage, write_lines


@pytest.fixture
def server(tmp_path):
    stage = make_rl_stage(tmp_path / "rl", updates=3, done=False)
    with Server(write_report(stage), lambda: write_report(stage), port=0, refresh_seconds=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server, path, host="127.0.0.1"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_page_is_written_anew_while_the_run_goes_on(server):
    assert "stopped at update 3 of 60" in get(server, "/")[1]
    write_lines(server.page.with_name("metrics.jsonl"), [{"step": step, "reward": 1.0} for step in range(1, 6)])
    assert "stopped at update 5 of 60" in get(server, "/report.html")[1]
    assert get(server, "/report_data/index.js")[1].startswith("index(")


@pytest.mark.parametrize("path", ["/config.json", "/report_data/../config.json", "/report_data/..%2Fconfig.json", "/x"])
def test_nothing_else_is_served(server, path):
    assert get(server, path)[0] == 404
    assert get(server, "/report.html", host="elsewhere.org")[0] == 404


def test_a_port_that_is_taken_is_one_line(server, capsys):
    assert main([str(server.page.parent), "--serve", str(server.server_port)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
