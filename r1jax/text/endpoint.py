"""A model behind an OpenAI-compatible address (``POST {url}/chat/completions``), by the standard library alone.

Every server of note speaks this: vLLM, SGLang, llama.cpp, hosted models. A key, where one is needed, is read from an
environment variable when a request is made; it stands in no config and no log.
"""

import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from r1jax.specs.rewards import EndpointSpec
from r1jax.text.sample import ChatError
from r1jax.text.templates import Messages

_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_BYTES = 1 << 24
_MAX_WAIT = 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def ask_endpoint(spec: EndpointSpec, conversations: Sequence[Messages], *, seed: int) -> list[str | ChatError]:
    """The answers in order, a ChatError in the place of one that could not be had; the seed is sent along.

    Several are asked at the same time. A server's Retry-After goes before ``backoff``. ChatError: ``key_variable`` is
    not set.
    """
    if spec.key_variable is not None and not os.environ.get(spec.key_variable):
        raise ChatError(f"{spec.url}: the environment variable {spec.key_variable} with its key is not set")
    if not conversations:
        return []
    with ThreadPoolExecutor(min(spec.workers, len(conversations))) as pool:
        return list(pool.map(lambda messages: _ask(spec, messages, seed), conversations))


def _ask(spec: EndpointSpec, messages: Messages, seed: int) -> str | ChatError:
    asked = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
    body = {"model": spec.model, "messages": [dict(message) for message in messages], "seed": seed}
    body |= {name: value for name, value in asked.items() if value is not None}
    wait, failure = spec.backoff, ""
    for attempt in range(1 + spec.retries):
        if attempt:
            time.sleep(min(wait, _MAX_WAIT))
            wait = spec.backoff * 2**attempt
        try:
            return _content(_post(spec, json.dumps(body).encode()))
        except urllib.error.HTTPError as error:
            with error:
                failure = f"HTTP {error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace')}"
                with contextlib.suppress(TypeError, ValueError):  # no Retry-After, or a date
                    wait = max(float(error.headers["Retry-After"]), 0.0)
            if error.code not in _TRY_AGAIN:
                break
        except (OSError, http.client.HTTPException) as error:
            failure = f"{type(error).__name__}: {error}"
        except ValueError as error:
            failure = str(error)
            break
    return ChatError(f"{spec.url}: {failure}")


def _post(spec: EndpointSpec, body: bytes) -> Any:
    headers = {"Content-Type": "application/json"}
    if spec.key_variable is not None:
        headers["Authorization"] = f"Bearer {os.environ[spec.key_variable]}"
    request = urllib.request.Request(f"{spec.url.rstrip('/')}/chat/completions", body, headers)
    with _OPENER.open(request, timeout=spec.timeout) as reply:
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
