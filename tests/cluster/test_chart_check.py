"""What `helm test` runs, against servers of this machine."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import pytest

from cluster.chart_rendering import CHART, named, render


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_release", CHART / "files" / "check_release.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.wait, "__defaults__", (0.0,))
    return module


@contextmanager
def server(status: int, address: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """host:port of one that answers everything alike."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = b"ok\n" if status == 200 else b"starting: no list yet of pods\n"
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer((address, port), Answer)
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{address}:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_a_release_that_is_ready_passes(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with server(200) as operator, server(401) as public:
        assert script.main([f"tcp://{operator}/readyz", f"tcp://{public}/v1/models"]) == 0
    assert capsys.readouterr().out.count("ready\n") == 2


def test_what_is_not_ready_fails_with_its_own_words(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with server(503) as gateway, server(200) as operator:
        assert script.main([f"http://{gateway}/readyz", f"tcp://{operator}/readyz"]) == 1
    said = capsys.readouterr().out
    assert "answers 503: starting: no list yet of pods" in said and "/readyz: ready" in said


def test_nobody_there_fails(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with server(200) as gone:
        pass
    assert script.main([f"tcp://{gone}/readyz"]) == 1
    assert "does not answer" in capsys.readouterr().out


def test_every_address_behind_a_name_is_asked(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200) as first:
        port = int(first.rpartition(":")[2])
        both = [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]
        real = socket.getaddrinfo

        def resolve(host: str, *rest: Any, **more: Any) -> Any:
            return both if host == "peers.example" else real(host, *rest, **more)

        monkeypatch.setattr(script, "has_dns", lambda: True)
        monkeypatch.setattr(script.socket, "getaddrinfo", resolve)
        with server(503, "127.0.0.2", port):
            assert script.main([f"http://peers.example:{port}/readyz"]) == 1
        with server(200, "127.0.0.2", port):
            assert script.main([f"http://peers.example:{port}/readyz"]) == 0


def test_without_any_dns_names_are_left_out_and_with_it_an_unknown_one_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known: set[str] = set()

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [host]

    monkeypatch.setattr(script.socket, "getaddrinfo", resolve)
    assert script.main(["http://peers.example:8081/readyz"]) == 0
    assert "this cluster has no DNS" in capsys.readouterr().out
    known.add("kubernetes.default.svc")
    assert script.main(["http://peers.example:8081/readyz"]) == 1
    assert "leads nowhere" in capsys.readouterr().out


def test_https_is_spoken_where_the_gateway_has_a_certificate(script: ModuleType) -> None:
    with server(200) as plain:  # answers a handshake with nonsense
        assert script.main([f"tls+tcp://{plain}/v1/models"]) == 1


def test_the_pod_runs_the_script_as_it_is_and_kubernetes_expands_nothing_in_it() -> None:
    (container,) = named(render(), "Pod", "topmast-test")["spec"]["containers"]
    text = (CHART / "files" / "check_release.py").read_text()
    assert container["command"] == ["python3", "-c", text] and "$(" not in text
    assert container["args"] == [
        "$(TOPMAST_OPERATOR_PORT)/readyz",
        "http://topmast-gateway-peers.topmast-system.svc:8081/readyz",
        "$(TOPMAST_GATEWAY_PORT)/v1/models",
    ]
