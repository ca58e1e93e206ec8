"""Where the server listens: one flag for a node of either family, and for one with both."""

from __future__ import annotations

import socket

import pytest

from topmast_server.cli import listen


def reaches(address: str, listener: socket.socket) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(5)
        return client.connect_ex((address, listener.getsockname()[1])) == 0


def test_two_colons_answer_on_ipv4_and_ipv6() -> None:
    with listen("::", 0, "--port") as listener:
        assert reaches("127.0.0.1", listener) and reaches("::1", listener)


def test_two_colons_are_ipv4_where_the_kernel_has_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("::", 0, "--port") as listener:
        assert listener.family == socket.AF_INET
        assert reaches("127.0.0.1", listener) and not reaches("::1", listener)


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("0.0.0.0", "::1")])
def test_an_address_is_that_address_alone(host: str, other: str) -> None:
    with listen(host, 0, "--port") as listener:
        assert reaches("127.0.0.1" if host == "0.0.0.0" else host, listener) and not reaches(other, listener)


def test_a_taken_port_is_one_sentence() -> None:
    with (
        listen("::", 0, "--port") as taken,
        pytest.raises(OSError, match=r"cannot listen on :: port \d+: .*; choose another address or --port"),
    ):
        listen("::", taken.getsockname()[1], "--port")
