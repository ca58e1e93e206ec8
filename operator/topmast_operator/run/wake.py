"""`POST /wake/{namespace}/{name}`: a gateway calls a model that sleeps.

The call becomes a time in the model's status and nothing else, so every operator process may take it: the one that acts
sees it as an event, and a restart loses none. Whether it wakes anything is decided in plan/sleep.py.
"""

import hmac
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError
from topmast_operator.api.resource import Model, parse
from topmast_operator.api.times import to_text
from topmast_operator.plan.sleep import eta_s

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

log = logging.getLogger(__name__)


class WakeDoor:
    """Takes calls from those who know the token in `token_file`, which is read anew for each call."""

    def __init__(self, api: Api, namespaces: Sequence[str], token_file: Path) -> None:
        self._api = api
        self._namespaces = frozenset(namespaces)
        self._token_file = token_file

    def routes(self) -> list[web.RouteDef]:
        """What the web server needs to know."""
        return [web.post("/wake/{namespace}/{name}", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        if not self._knows_the_token(request.headers.get("Authorization", "")):
            return _told(401, "the token is wrong: send the one that operator and gateway share")
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        try:
            return await self._call(namespace, name)
        except ApiUnreachableError as error:
            return _told(503, f"the API server does not answer: {error}")
        except ApiError as error:
            log.warning("%s/%s could not be called: %s", namespace, name, error)
            return _told(503, f"the API server refused: {error}")

    async def _call(self, namespace: str, name: str) -> web.Response:
        named = _NAME.fullmatch(namespace) and _NAME.fullmatch(name)
        watched = not self._namespaces or namespace in self._namespaces
        body = await self._api.get(paths.model(namespace, name)) if named and watched else None
        if body is None or body["metadata"].get("deletionTimestamp"):
            return _told(404, "there is no such model here")
        model = parse(body)
        if model.suspend:
            return _told(409, "the model is suspended, and no request overrules that: unset spec.suspend", "suspended")
        if model.sleep is None:
            return _told(409, "the model does not sleep: set spec.sleep, or spec.replicas", "never_sleeps")
        await self._note(model)
        told: dict[str, Any] = {"phase": model.status.get("phase", ""), "eta_s": eta_s(model.status, time.time())}
        return web.json_response(told, status=202)

    async def _note(self, model: Model) -> None:
        """Written as a merge, not by server-side apply: a pass, which applies its whole status, must not own it."""
        call = {"status": {"wake": {"calledAt": to_text(time.time())}}}
        await self._api.merge(f"{paths.model(model.namespace, model.name)}/status", call)

    def _knows_the_token(self, authorization: str) -> bool:
        try:
            expected = self._token_file.read_text().strip()
        except OSError as error:
            log.error("nobody can wake a model: %s", error)
            return False
        given = authorization.encode(errors="surrogateescape")  # bytes of any kind may be sent
        return bool(expected) and hmac.compare_digest(f"Bearer {expected}".encode(), given)


def _told(status: int, message: str, code: str = "") -> web.Response:
    return web.json_response({"error": message, "code": code}, status=status)
