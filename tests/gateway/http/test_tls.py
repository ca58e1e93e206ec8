"""TLS on the public port: only new versions, new files without a restart, and no place for who never says a word."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from gateway.lab.certificates import trusting_anybody, write_pair
from gateway.lab.rawhttp import Seen, listening
from gateway.lab.stage import soon
from topmast_gateway.http import tls, tls_server
from topmast_gateway.http.tls import Certificate

GET = b"GET /ok HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setattr(tls, "_LOOK_S", 0.02)
    return Certificate(*write_pair(tmp_path, "first"))


@pytest.fixture
async def seen(certificate: Certificate) -> AsyncIterator[Seen]:
    following = asyncio.create_task(certificate.follow())
    async with listening(tls=certificate.context) as seen:
        yield seen
    following.cancel()


async def asked(seen: Seen, context: ssl.SSLContext) -> tuple[bytes, str]:
    """The answer, and the common name of the certificate."""
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port, ssl=context)
    certificate = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.write(GET)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return answer, str(name.value)


async def test_answers_come_encrypted(seen: Seen) -> None:
    answer, name = await asked(seen, trusting_anybody())
    assert answer.startswith(b"HTTP/1.1 200 ") and name == "first"


async def test_versions_before_1_2_are_refused(seen: Seen) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of versions that are old
        old = trusting_anybody(ssl.TLSVersion.TLSv1_1)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asked(seen, old)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert (await asked(seen, trusting_anybody(version)))[0]


async def test_new_files_count_for_new_connections_and_open_ones_stay(
    seen: Seen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port, ssl=trusting_anybody())
    write_pair(tmp_path, "second")
    await soon(lambda: "new certificate from" in caplog.text, "taken over")
    assert (await asked(seen, trusting_anybody()))[1] == "second"
    writer.write(GET)
    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_broken_files_leave_the_old_certificate_and_are_named_once(
    seen: Seen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_pair(other, "other")
    caplog.set_level(logging.INFO, tls.log.name)
    (other / "tls.key").replace(tmp_path / "tls.key")  # a key that does not fit
    await soon(lambda: bool(caplog.messages), "named")
    await asyncio.sleep(0.1)
    assert len(caplog.messages) == 1 and "keeping the old one" in caplog.messages[0]
    assert (await asked(seen, trusting_anybody()))[1] == "first"
    (tmp_path / "tls.crt").unlink()
    assert (await asked(seen, trusting_anybody()))[1] == "first"
    write_pair(tmp_path, "third")
    await soon(lambda: "new certificate from" in caplog.text, "taken over")
    assert (await asked(seen, trusting_anybody()))[1] == "third"


async def test_a_handshake_that_never_ends_does_not_hold_the_connection(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "HANDSHAKE_S", 0.3)
    async with listening(tls=certificate.context) as seen:
        for said in (b"", b"\x16\x03\x01", GET):
            assert await seen.seconds_until_closed(said) < 5


async def test_handshakes_that_never_end_leave_room_for_others(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand of them held 140 MiB, and were counted as no connections at all."""
    limits = seen.server._handshakes
    monkeypatch.setattr(limits._places, "_most", 40)
    idle = [await asyncio.open_connection("127.0.0.1", seen.port) for _ in range(60)]
    await soon(lambda: limits.open == 30, "an address has its part")
    gone = await asyncio.gather(*(_is_closed(reader) for reader, _ in idle))
    assert sum(gone) == 30
    context = trusting_anybody()
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port, ssl=context, local_addr=("127.0.0.2", 0))
    writer.write(GET)
    assert b" 200 " in await asyncio.wait_for(reader.read(), 30)
    for _, one in (*idle, (reader, writer)):
        one.close()
    await soon(lambda: limits.open == 0, "all are given back")
    assert seen.server._limits.open == 0


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 0.5) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_a_request_right_behind_its_handshake_is_answered(seen: Seen) -> None:
    """The last flight of a handshake and the first request may come in one packet."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting_anybody().wrap_bio(incoming, outgoing)
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await asyncio.wait_for(reader.read(65_536), 30))
    client.write(GET)
    writer.write(outgoing.read())  # both at once
    answer = b""
    while not answer.endswith(b"ok"):
        incoming.write(await asyncio.wait_for(reader.read(65_536), 30))
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while piece := client.read(65_536):
                answer += piece
    assert b" 200 " in answer
    writer.close()


@pytest.mark.parametrize("wrong", ["missing", "empty", "swapped"])
def test_files_that_do_not_fit_are_refused_at_start(tmp_path: Path, wrong: str) -> None:
    cert, key = write_pair(tmp_path, "first")
    if wrong == "missing":
        key.unlink()
    elif wrong == "empty":
        cert.write_bytes(b"")
    else:
        cert, key = key, cert
    with pytest.raises(OSError):
        Certificate(cert, key)
