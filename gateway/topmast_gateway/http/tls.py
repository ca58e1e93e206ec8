"""TLS on the public port: TLS 1.2 or newer, and a certificate that is replaced while connections stay open.

cert-manager and mounted Secrets replace both files; what is open keeps its session, new connections get the new one.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

log = logging.getLogger(__name__)

_LOOK_S = 2.0

Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate chain and its key, from two PEM files. OSError (ssl.SSLError is one) when they do not fit."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._stamp = self._look()
        self.context = self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])

    async def follow(self) -> None:
        """Take over new files for ever; broken ones are named once and the old certificate stays."""
        trouble = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    continue
                # Into a context of its own first: a key that does not fit would leave the live one without any.
                self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
                self._loaded(self.context)
            except OSError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("cannot use the new certificate in %s (%s): keeping the old one", self._cert, trouble)
            else:
                self._stamp, trouble = stamp, ""
                log.info("new certificate from %s", self._cert)

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        # A key with a passphrase would otherwise ask for it on the terminal and wait for ever.
        context.load_cert_chain(self._cert, self._key, password="")
        return context

    def _look(self) -> Stamp:
        facts = (path.stat() for path in (self._cert, self._key))
        return tuple((fact.st_mtime_ns, fact.st_ino, fact.st_size) for fact in facts)
