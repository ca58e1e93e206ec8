"""The cluster's certificates: one CA, server certificates, and a client certificate for each component.

Elliptic-curve keys, because making RSA keys would cost the start a second. Valid for a year; a cluster is
throw-away and its files go with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its key, as files in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates into one directory. Finds its own key there again, so that a later node can be added."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._name = _subject("topmast-ca", [])
        self.ca = directory / "ca.crt"
        key_file = directory / "ca.key"
        if key_file.exists():
            self._key = _load_key(key_file)
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(self._name, self._key.public_key(), self._name)
        unsigned = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        unsigned = unsigned.add_extension(_key_usage(signs=True), critical=True)
        self.ca.write_bytes(unsigned.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        _write_secret(key_file, _pem(self._key))

    def client(self, file: str, common_name: str, groups: Sequence[str] = ()) -> KeyPair:
        """A certificate that lets its bearer be user `common_name` in `groups`."""
        return self._issue(file, common_name, groups, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def server(self, file: str, common_name: str, names: Sequence[str], groups: Sequence[str] = ()) -> KeyPair:
        """A certificate for a server that is called by `names` (host names or addresses)."""
        return self._issue(file, common_name, groups, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def signing_pair(self, file: str) -> tuple[Path, Path]:
        """Public and private key for service-account tokens."""
        key = ec.generate_private_key(ec.SECP256R1())
        public, private = self._directory / f"{file}.pub", self._directory / f"{file}.key"
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        _write_secret(private, _pem(key))
        return public, private

    def _issue(
        self, file: str, common_name: str, groups: Sequence[str], usage: x509.ObjectIdentifier, names: Sequence[str]
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(_subject(common_name, groups), key.public_key(), self._name)
        unsigned = unsigned.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        unsigned = unsigned.add_extension(_key_usage(signs=False), critical=True)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            unsigned = unsigned.add_extension(alternatives, critical=False)
        pair = KeyPair(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        pair.certificate.write_bytes(unsigned.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        _write_secret(pair.key, _pem(key))
        return pair


def _subject(common_name: str, groups: Sequence[str]) -> x509.Name:
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(subject: x509.Name, public_key: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of virtual machines jump
        .not_valid_after(now + timedelta(days=365))
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds another kind of key")
    return key


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
