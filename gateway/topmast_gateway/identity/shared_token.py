"""The token that gateways and operator share, as a mounted Secret's file has it at the moment.

The file is replaced while processes run, so it is read again and again. The token is never logged.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path

from topmast_gateway.identity.api_keys import bearer_token
from topmast_gateway.messages.request import Request

log = logging.getLogger(__name__)

_LINE = re.compile(rb"[\x20-\x7e]+")  # what a header can carry
_REMEMBERED_S = 1.0  # so that whoever asks much does not make us read much


class SharedToken:
    """Without a file there is no token: none is sent, and nobody can know it."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._token = b""
        self._read_at = float("-inf")
        self._trouble = ""

    def __bool__(self) -> bool:
        return self._file is not None

    def header(self) -> Mapping[str, str]:
        """What shows it to others; OSError or ValueError when the file cannot be used."""
        return {"Authorization": f"Bearer {self._now().decode()}"} if self._file else {}

    def is_known_to(self, request: Request) -> bool:
        """Whether a request carries it. False, and a line in the log, while the file cannot be used."""
        shown = bearer_token(request.headers.get(b"authorization"))
        try:
            expected = self._now()
        except (OSError, ValueError) as error:
            if (trouble := str(error)) != self._trouble:
                self._trouble = trouble
                log.warning("nobody can read /usage or /queue here: %s", trouble)
            return False
        self._trouble = ""
        return shown is not None and hmac.compare_digest(expected, shown)

    def _now(self) -> bytes:
        if self._file is None:
            raise ValueError("there is no --shared-token-file")
        if time.monotonic() - self._read_at >= _REMEMBERED_S:
            token = self._file.read_bytes().strip()
            if not _LINE.fullmatch(token):
                raise ValueError(f"{self._file} is not one line of plain text: put any long random text into it")
            self._token, self._read_at = token, time.monotonic()
        return self._token
