"""A model behind an OpenAI-compatible address (``POST {url}/chat/completions``), by the standard library alone.

Every server of note speaks this: vLLM, SGLang, llama.cpp, hosted models. A key, where one is needed, is read from an
environment variable when a request is made; it stands in no config and no log.
"""

import dataclasses
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from r1jax.text.sample import ChatError

_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_BYTES = 1 << 24
_MAX_WAIT = 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would carry the key to another place."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A ``Chat`` over HTTP; several conversations are asked at the same time.

    Attributes:
        url: up to and without "/chat/completions", such as "http://127.0.0.1:8000/v1".
        model: the server's name of the model.
        temperature, top_p, max_tokens: of the answers; None leaves the server's own.
        timeout: seconds for one attempt to connect, and for each wait on an open connection.
        retries: further attempts after a failure that may pass (no connection, timeout, 429, 5xx).
        backoff: seconds before the second attempt, doubled each time, at most a minute; a Retry-After goes before it (0: at once).
        workers: conversations at the same time.
        key_variable: the environment variable that holds the key; None sends none.
    """

    url: str
    model: str
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    timeout: float = 120.0
    retries: int = 4
    backoff: float = 1.0
    workers: int = 8
    key_variable: str | None = None

    def __post_init__(self):
        """Raises ValueError, naming the field, for what cannot work."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint: url={self.url!r} must begin with http:// or https://")
        if not self.model:
            raise ValueError("endpoint: model must be named")
        for name in ("timeout", "workers"):
            if not getattr(self, name) > 0:
                raise ValueError(f"endpoint: {name}={getattr(self, name)} must be positive")
        for name in ("retries", "backoff"):
            if getattr(self, name) < 0:
                raise ValueError(f"endpoint: {name}={getattr(self, name)} must not be negative")

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]], *, seed: int) -> list[str | ChatError]:
        """The answers in order, a ChatError in the place of one that could not be had; the seed is sent along.

        Raises ChatError where ``key_variable`` is named and not set.
        """
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise ChatError(f"{self.url}: the environment variable {self.key_variable} with its key is not set")
        if not conversations:
            return []
        with ThreadPoolExecutor(min(self.workers, len(conversations))) as pool:
            return list(pool.map(lambda messages: self._ask(messages, seed), conversations))

    def _ask(self, messages: Sequence[Mapping[str, str]], seed: int) -> str | ChatError:
        asked = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        body = {"model": self.model, "messages": [dict(message) for message in messages], "seed": seed}
        body |= {name: value for name, value in asked.items() if value is not None}
        wait, failure = self.backoff, ""
        for attempt in range(1 + self.retries):
            if attempt:
                time.sleep(min(wait, _MAX_WAIT))
                wait = self.backoff * 2**attempt
            try:
                return _content(self._post(json.dumps(body).encode()))
            except urllib.error.HTTPError as error:
                with error:
                    failure = f"HTTP {error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace')}"
                    asked_for = _seconds(error.headers.get("Retry-After"))
                    wait = wait if asked_for is None else asked_for
                if error.code not in _TRY_AGAIN:
                    break
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
            except ValueError as error:
                failure = str(error)
                break
        return ChatError(f"{self.url}: {failure}")

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        with _OPENER.open(request, timeout=self.timeout) as reply:
            content = reply.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"a reply of more than {_MAX_BYTES} bytes")
        try:
            return json.loads(content)
        except ValueError as error:
            raise ValueError(f"the reply is no JSON: {content[:100]!r}") from error


def _content(reply: Any) -> str:
    """The text of the first choice. Raises ValueError for a reply without one, or one that was cut off."""
    try:
        choice = reply["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the reply has no choices[0].message.content: {json.dumps(reply)[:200]}") from error
    if reason == "length":
        raise ValueError("the reply was cut off at its greatest length")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"the reply is empty (finish_reason {reason!r})")
    return content


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; None for a date or nothing."""
    try:
        return None if header is None else max(float(header), 0.0)
    except ValueError:
        return None
