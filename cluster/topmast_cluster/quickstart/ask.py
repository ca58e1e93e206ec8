"""One question through the front door: an API key, the gateway, a pod, the real model, by the `openai` client."""

import base64
import hashlib
import json
import secrets
import string
import sys
import time
from dataclasses import dataclass

import openai

from topmast_cluster.errors import ClusterError
from topmast_cluster.quickstart.target import SYSTEM_NAMESPACE, Target

KEYS_SECRET = "topmast-api-keys"
FIRST_KEY_SECRET = "topmast-first-key"
_OWN_NAME = "make-up"
_KEY_LENGTH = 40


@dataclass(frozen=True)
class Answer:
    text: str
    first_token_s: float
    total_s: float
    output_tokens: int


def client_key(target: Target) -> str:
    """The first key of the chart; a new one called make-up where somebody put the first one away, as they should."""
    secret = target.get("secret", FIRST_KEY_SECRET, "-n", SYSTEM_NAMESPACE)
    if secret is not None:
        return base64.b64decode(secret["data"]["key"]).decode()
    alphabet = string.ascii_letters + string.digits
    key = "tm-" + "".join(secrets.choice(alphabet) for _ in range(_KEY_LENGTH))
    patch = {"stringData": {_OWN_NAME: f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"}}
    target.kubectl("patch", "secret", KEYS_SECRET, "-n", SYSTEM_NAMESPACE, "--type=merge", "-p", json.dumps(patch))
    return key


def ask(url: str, key: str, model: str, question: str) -> Answer:
    """Streams the answer to standard output while it is made."""
    # No proxy of the environment: the gateway is on this machine's own networks.
    http = openai.DefaultHttpxClient(trust_env=False)
    began = time.monotonic()
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, timeout=60) as client:
            return _stream(_opened(client, model, question), began)
    except openai.OpenAIError as error:
        raise ClusterError(f"the model did not answer through {url}: {error}") from error


def _opened(client: openai.OpenAI, model: str, question: str) -> "openai.Stream[openai.types.chat.ChatCompletionChunk]":
    """A key that was just made is known to the gateway within two seconds."""
    for attempt in range(10):
        try:
            return client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                max_tokens=80,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        except openai.AuthenticationError:
            if attempt == 9:
                raise
            time.sleep(0.5)
    raise AssertionError("the loop returns or raises")


def _stream(stream: "openai.Stream[openai.types.chat.ChatCompletionChunk]", began: float) -> Answer:
    text, first, tokens = "", 0.0, 0
    for chunk in stream:
        piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        if piece and not text:
            first = time.monotonic() - began
        text += piece
        sys.stdout.write(piece)
        sys.stdout.flush()
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    sys.stdout.write("\n")
    if not text.strip():
        raise ClusterError("the model answered nothing: see `kubectl logs -l topmast.dev/model`")
    return Answer(text, first, time.monotonic() - began, tokens)
