"""The client against a server on this machine: what is sent, which failures are tried again, and what is no reply."""

import contextlib
import functools
import http.server
import json
import threading
import time
import types

import pytest

from r1jax.specs.reader import read
from r1jax.specs.rewards import EndpointSpec
from r1jax.text import endpoint
from r1jax.text.endpoint import ask_endpoint
from r1jax.text.sample import ChatError

ASKED = [{"role": "user", "content": "6*7?"}]


def make_chat(url, model="m", **options):
    return functools.partial(ask_endpoint, EndpointSpec(url=url, model=model, **options))


@contextlib.contextmanager
def served(answer):
    """(url, requests) of a server that answers with (status, headers, body) = answer(number of the request, its body)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers.get("Authorization"), body))
            status, headers, content = answer(len(requests), body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(content, reason="stop"):
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": reason}]}).encode()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_what_is_sent_and_the_answers_in_order(monkeypatch):
    monkeypatch.setenv("THE_KEY", "abc")
    with served(lambda number, body: (200, {}, reply(body["messages"][0]["content"].upper()))) as (url, requests):
        chat = make_chat(url + "/", "v3", temperature=0.5, max_tokens=9, key_variable="THE_KEY", workers=3)
        questions = [[{"role": "user", "content": letter}] for letter in "abcde"]
        assert chat(questions, seed=7) == list("ABCDE")
    path, key, body = min(requests, key=lambda request: request[2]["messages"][0]["content"])
    assert path == "/v1/chat/completions" and key == "Bearer abc"
    assert body == {"model": "v3", "messages": questions[0], "seed": 7, "temperature": 0.5, "max_tokens": 9}
    assert chat([], seed=0) == []


def test_failures_that_pass_are_tried_again_and_others_are_not():
    def flaky(number, body):
        return (
            (200, {}, reply("42"))
            if number == 3
            else ((503, {}, b"busy"), (429, {"Retry-After": "0"}, b""))[number - 1]
        )

    with served(flaky) as (url, requests):
        assert make_chat(url, backoff=0.001)(([ASKED]), seed=0) == ["42"]
        assert len(requests) == 3
    with served(lambda *_: (503, {}, b"busy")) as (url, requests):
        (error,) = make_chat(url, retries=2, backoff=0.001)([ASKED], seed=0)
        assert isinstance(error, ChatError) and "HTTP 503" in str(error) and "busy" in str(error) and len(requests) == 3
    with served(lambda *_: (400, {}, b"no such model")) as (url, requests):
        (error,) = make_chat(url, backoff=0.001)([ASKED], seed=0)
        assert "no such model" in str(error) and len(requests) == 1
    with served(lambda *_: (302, {"Location": "/v1/elsewhere"}, b"")) as (url, requests):
        (error,) = make_chat(url, backoff=0.001)([ASKED], seed=0)
        assert "HTTP 302" in str(error) and len(requests) == 1


def test_it_waits_as_the_server_says_and_else_twice_as_long_each_time(monkeypatch):
    waits = []
    monkeypatch.setattr(endpoint, "time", types.SimpleNamespace(sleep=waits.append))
    headers = [{}, {}, {"Retry-After": "7"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {"Retry-After": "0"}]
    headers.append({"Retry-After": "3600"})
    with served(lambda number, _: (429, headers[number - 1], b"")) as (url, requests):
        make_chat(url, retries=5, backoff=0.5)([ASKED], seed=0)
        assert len(requests) == 6 and waits == [0.5, 1.0, 7.0, 4.0, 0.0]
        waits.clear()
    with served(lambda *_: (429, headers[-1], b"")) as (url, _):
        make_chat(url, retries=1)([ASKED], seed=0)
    assert waits == [60.0]  # and no longer


def test_workers_are_the_conversations_at_the_same_time():
    lock, both, counts = threading.Lock(), threading.Barrier(2, timeout=10), [0]

    def count(*_):
        with lock:
            counts.append(counts[-1] + 1)
        both.wait()  # one alone would wait for ever
        time.sleep(0.02)  # long enough for a third to come
        with lock:
            counts.append(counts[-1] - 1)
        return 200, {}, reply("42")

    with served(count) as (url, _):
        assert make_chat(url, workers=2)([ASKED] * 6, seed=0) == ["42"] * 6
    assert max(counts) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", "no JSON"),
        (b'{"error": "x"}', "no choices"),
        (b'{"choices": []}', "no choices"),
        (b"[1]", "no choices"),
        (reply("half", "length"), "cut off"),
        (reply("  "), "empty"),
        (reply(None), "empty"),
    ],
)
def test_what_is_no_reply_is_an_error_of_its_conversation(content, words):
    with served(lambda *_: (200, {}, content)) as (url, requests):
        (error,) = make_chat(url, backoff=0.001)([ASKED], seed=0)
    assert isinstance(error, ChatError) and words in str(error) and url in str(error) and len(requests) == 1


def test_a_server_that_hangs_or_is_not_there_does_not_hold_the_run_up():
    released = threading.Event()

    def hang(number, body):
        if body["messages"][0]["content"] == "hang":
            released.wait(5)
        return 200, {}, reply("42")

    with served(hang) as (url, _):
        begin = time.monotonic()
        chat = make_chat(url, timeout=0.3, retries=1, backoff=0.001)
        error, answer = chat([[{"role": "user", "content": "hang"}], ASKED], seed=0)
        assert answer == "42" and isinstance(error, ChatError) and "timed out" in str(error)
        assert time.monotonic() - begin < 4
        released.set()
    (error,) = make_chat("http://127.0.0.1:1/v1", retries=1, backoff=0.001)([ASKED], seed=0)
    assert isinstance(error, ChatError) and "refused" in str(error)


def test_bad_settings_are_named(monkeypatch):
    for options, words in (
        ({"url": "file:///etc"}, "chat.url='file:///etc' must begin with http"),
        ({"model": ""}, "chat.model='' must be the server's name"),
        ({"timeout": 0}, "chat.timeout=0 must be more than 0"),
        ({"workers": 0}, "chat.workers=0 must be at least 1"),
        ({"retries": -1}, "chat.retries=-1 must be at least 0"),
        ({"backoff": -1}, "chat.backoff=-1 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            read(EndpointSpec, {"kind": "endpoint", "url": "http://x", "model": "m"} | options, "chat")
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(ChatError, match="variable THE_KEY with its key is not set"):
        make_chat("http://x", key_variable="THE_KEY")([ASKED], seed=0)
