"""A model behind an OpenAI-compatible address (``POST {url}/chat/completions``), by the standard library alone.

Every server of note speaks this: vLLM, SGLang, llama.cpp, hosted models. A key, where one is needed, is read from an
environment variable when a request is made; it stands in no config and no log.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from r1jax.specs.rewards import EndpointSpec
from r1jax.text.sample import ChatError

_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_BYTES = 1 << 24
_MAX_WAIT = 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class EndpointChat:
    """A ``Chat`` over HTTP; several conversations are asked at the same time. A Retry-After of the server goes before ``backoff``."""

    def __init__(self, spec: EndpointSpec):
        self.spec = spec

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]], *, seed: int) -> list[str | ChatError]:
        """The answers in order, a ChatError in the place of one that could not be had; the seed is sent along.

        Raises ChatError where ``key_variable`` is named and not set.
        """
        if self.spec.key_variable is not None and not os.environ.get(self.spec.key_variable):
            raise ChatError(
                f"{self.spec.url}: the environment variable {self.spec.key_variable} with its key is not set"
            )
        if not conversations:
            return []
        with ThreadPoolExecutor(min(self.spec.workers, len(conversations))) as pool:
            return list(pool.map(lambda messages: self._ask(messages, seed), conversations))

    def _ask(self, messages: Sequence[Mapping[str, str]], seed: int) -> str | ChatError:
        asked = {"temperature": self.spec.temperature, "top_p": self.spec.top_p, "max_tokens": self.spec.max_tokens}
        body = {"model": self.spec.model, "messages": [dict(message) for message in messages], "seed": seed}
        body |= {name: value for name, value in asked.items() if value is not None}
        wait, failure = self.spec.backoff, ""
        for attempt in range(1 + self.spec.retries):
            if attempt:
                time.sleep(min(wait, _MAX_WAIT))
                wait = self.spec.backoff * 2**attempt
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
        return ChatError(f"{self.spec.url}: {failure}")

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.spec.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.spec.key_variable]}"
        request = urllib.request.Request(f"{self.spec.url.rstrip('/')}/chat/completions", body, headers)
        with _OPENER.open(request, timeout=self.spec.timeout) as reply:
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
