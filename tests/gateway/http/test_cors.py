"""Browsers: pages of the named origins may call, all answers say so, and nobody else learns anything."""

from __future__ import annotations

import pytest

from gateway.lab.exchanges import RecordingClient, a_request, a_writer
from topmast_gateway.http.cors import Cors, origin
from topmast_gateway.messages.headers import towards_client
from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter

PAGE = "https://chat.example.org"


async def application(request: Request, writer: ResponseWriter) -> None:
    engines = [(b"Access-Control-Allow-Origin", b"engine")]
    writer.whole(401, b"", towards_client(engines))


async def called(origins: tuple[str, ...], method: str = "POST", **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer; a header that came twice fails."""
    client = RecordingClient()
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await Cors(application, origins)(a_request(client, method=method, headers=given), a_writer(client))
    got = [(name.decode().lower(), value.decode()) for name, value in client.headers]
    assert len(dict(got)) == len(got) and client.ended
    return client.status, dict(got)


def reported(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


async def test_a_preflight_is_answered_without_a_key() -> None:
    asks = {"origin": PAGE, "access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    status, headers = await called((PAGE,), "OPTIONS", **asks)
    assert status == 204 and headers["access-control-allow-origin"] == PAGE and headers["vary"] == "origin"
    assert (
        "authorization" in headers["access-control-allow-headers"] and "POST" in headers["access-control-allow-methods"]
    )
    assert (await called(("*",), "OPTIONS", **asks))[1]["access-control-allow-origin"] == "*"


async def test_every_answer_carries_the_headers_and_never_allows_credentials() -> None:
    for origins, allowed in (((PAGE,), PAGE), (("*",), "*"), (("https://other.example", PAGE), PAGE)):
        status, headers = await called(origins, origin=PAGE)
        assert status == 401 and headers["x-request-id"] == "r"
        assert reported(headers)["access-control-allow-origin"] == allowed
        assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(
    "page", ["https://chat.example.org.evil.example", "https://evil.example", "null", "", PAGE + "/"]
)
async def test_another_origin_learns_nothing_and_its_preflight_needs_a_key(page: str) -> None:
    for method in ("POST", "OPTIONS"):
        status, headers = await called((PAGE,), method, origin=page, access_control_request_method="POST")
        assert status == 401 and reported(headers) == {}  # not even what an engine allows


async def test_without_origins_no_page_may_read_anything() -> None:
    for method in ("POST", "OPTIONS"):
        status, headers = await called((), method, origin=PAGE, access_control_request_method="POST")
        assert status == 401 and reported(headers) == {}


@pytest.mark.parametrize(
    "wrong", ["chat.example.org", "https://a/b", "https://a/", "", "https://*.example.org", "null"]
)
def test_a_wrong_origin_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"https://chat\.example\.org"):
        origin(wrong)
    assert origin("*") == "*" and origin("http://localhost:3000") == "http://localhost:3000"
