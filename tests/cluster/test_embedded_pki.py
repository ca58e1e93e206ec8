"""Certificates: accepted where they should be, by the same TLS that the components use, and nowhere else."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from topmast_cluster.pki import Authority, KeyPair


def handshake(ca: Path, server: KeyPair, called: str, client: KeyPair | None = None) -> str | None:
    """One TLS connection over a socket pair; the common name that the server saw, None without client certificate."""
    ours, theirs = socket.socketpair()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    serving.load_cert_chain(server.certificate, server.key)
    serving.verify_mode = ssl.CERT_REQUIRED if client else ssl.CERT_NONE
    seen: list[str | None] = []

    def serve() -> None:
        try:
            with serving.wrap_socket(theirs, server_side=True) as connection:
                connection.recv(1)
                subject = dict(pair for group in (connection.getpeercert() or {}).get("subject", ()) for pair in group)
                seen.append(subject.get("commonName"))
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    calling = ssl.create_default_context(cafile=str(ca))
    if client:
        calling.load_cert_chain(client.certificate, client.key)
    try:
        with calling.wrap_socket(ours, server_hostname=called) as connection:
            connection.send(b"x")
    finally:
        ours.close()
        thread.join(timeout=60)
    return seen[0]


def test_a_server_is_known_by_each_of_its_names_and_by_no_other(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server("api", "kube-apiserver", ["kubernetes.default.svc", "10.1.0.2"])
    handshake(authority.ca, server, "kubernetes.default.svc")
    handshake(authority.ca, server, "10.1.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.ca, server, "10.1.0.3")


def test_a_client_is_who_its_certificate_says(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server("api", "kube-apiserver", ["localhost"])
    client = authority.client("kubelet", "system:node:node-1", ["system:nodes"])
    assert handshake(authority.ca, server, "localhost", client) == "system:node:node-1"
    groups = x509.load_pem_x509_certificate(client.certificate.read_bytes()).subject
    assert [group.value for group in groups.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)] == ["system:nodes"]


def test_another_clusters_server_is_not_trusted(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    stranger = theirs.server("api", "kube-apiserver", ["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ours.ca, stranger, "localhost")


def test_a_later_node_is_signed_by_the_same_authority(tmp_path: Path) -> None:
    first = Authority(tmp_path)
    server = first.server("api", "kube-apiserver", ["localhost"])
    again = Authority(tmp_path)
    assert again.ca.read_bytes() == first.ca.read_bytes()
    assert handshake(first.ca, server, "localhost", again.client("late", "system:node:node-2")) == "system:node:node-2"


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server("api", "kube-apiserver", ["localhost"])
    authority.signing_pair("tokens")
    keys = list(tmp_path.glob("*.key"))
    assert len(keys) == 3
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
