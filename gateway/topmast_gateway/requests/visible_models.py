"""The models as one caller sees them: names resolve among those that it may call, and no others are listed."""

from __future__ import annotations

import json

from topmast_gateway.identity.caller import Caller
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.routing.model_table import ModelTable, Route

_LISTED_MODELS = 50


class VisibleModels:
    """A view of the routes; made per request, and cheap until something is listed."""

    def __init__(self, routes: ModelTable, caller: Caller) -> None:
        self._routes = routes
        self._caller = caller

    def find(self, asked: str) -> Route:
        """The route for a name alone or `namespace/name`: 404 when there is none, 403 for what the patterns rule out.

        Neither says whether other callers have a model of that name.
        """
        if "/" in asked:
            if not self._caller.may_call(asked):
                raise self._not_allowed(asked)
            keys = [asked]
        else:
            keys = self._mine(asked)
        if len(keys) > 1:
            message = f"several namespaces have a model {asked!r}: say {' or '.join(keys)}"
            raise ApiError(404, "model_ambiguous", message, param="model")
        route = self._routes.by_key(keys[0]) if keys else None
        if route is None:
            raise self._unknown(asked)
        return route

    def listing(self) -> bytes:
        """OpenAI's list of models."""
        names = self._names()
        return json.dumps({"object": "list", "data": [_card(route, name) for name, route in names.items()]}).encode()

    def card(self, route: Route) -> bytes:
        """One model of that list."""
        return json.dumps(next(_card(route, name) for name, mine in self._names().items() if mine == route)).encode()

    def _mine(self, name: str) -> list[str]:
        """Keys of this name that the caller may call."""
        return [key for key in self._routes.named(name) if self._caller.may_call(key)]

    def _names(self) -> dict[str, Route]:
        """The shortest names that `find` resolves."""
        mine = [route.model for route in self._routes if self._caller.may_call(route.model.key)]
        names = {model.key: model.name if len(self._mine(model.name)) == 1 else model.key for model in mine}
        return {name: route for key, name in names.items() if (route := self._routes.by_key(key))}

    def _not_allowed(self, asked: str) -> ApiError:
        allowed = ", ".join(self._caller.models)
        message = f"{self._caller.name!r} may not use the model {asked[:200]!r}: it may use {allowed}"
        return ApiError(403, "model_not_allowed", message, param="model", kind="permission_error")

    def _unknown(self, asked: str) -> ApiError:
        names = sorted(self._names())
        listed = ", ".join(names[:_LISTED_MODELS]) + (" ..." if len(names) > _LISTED_MODELS else "")
        known = f"you may use {listed}" if names else "there are none that you may use: apply an LLMDeployment"
        message = f"there is no model {asked[:200]!r}: {known}"
        return ApiError(404, "model_not_found", message, param="model")


def _card(route: Route, name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": route.model.created, "owned_by": route.model.namespace}
