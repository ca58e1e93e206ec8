"""The models as one caller sees them: names and aliases resolve among those that it may call; no others are listed."""

from __future__ import annotations

import json

from topmast_gateway.identity.caller import Caller
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.routing.model_table import ModelTable, Route

_LISTED_MODELS = 50


class VisibleModels:
    """A view of the routes; created per request, and cheap until something is listed."""

    def __init__(self, routes: ModelTable, caller: Caller) -> None:
        self._routes = routes
        self._caller = caller

    def find(self, asked: str) -> Route:
        """The route for a name or alias, alone or behind its namespace: 404 when there is none, 403 for what the
        patterns rule out.

        Neither says whether other callers have a model of that name.
        """
        keys = self._mine(asked)
        if not keys and "/" in asked:
            keys = [self._routes.key_of(asked)]
            if not self._caller.may_call(keys[0]):
                raise self._not_allowed(asked)
        if len(keys) > 1:
            message = f"several namespaces have a model {asked!r}: say {' or '.join(keys)}"
            raise ApiError(404, "model_ambiguous", message, param="model")
        route = self._routes.by_key(keys[0]) if keys else None
        if route is None:
            raise self._unknown(asked)
        return route

    def fallbacks(self, route: Route) -> list[Route]:
        """The models that may answer in its place, in order, as far as there are any that the caller may call."""
        keys = [key for key in route.model.fallbacks if key != route.model.key and self._caller.may_call(key)]
        return [found for key in dict.fromkeys(keys) if (found := self._routes.by_key(key))]

    def listing(self) -> bytes:
        """OpenAI's list of models; an alias has its model's name as `root`."""
        names = self._names()
        return json.dumps({"object": "list", "data": [_card(route, name) for name, route in names.items()]}).encode()

    def card(self, route: Route, asked: str) -> bytes:
        """One model of that list, by the name that was asked for."""
        return json.dumps(_card(route, asked)).encode()

    def _mine(self, name: str) -> list[str]:
        """Keys of this name that the caller may call."""
        return [key for key in self._routes.named(name) if self._caller.may_call(key)]

    def _names(self) -> dict[str, Route]:
        """The shortest names that `find` resolves: one of each model, and one of each alias."""
        names: dict[str, Route] = {}
        for route in self._routes:
            if self._caller.may_call(route.model.key):
                for full_name in (route.model.key, *self._routes.aliases(route.model)):
                    name = full_name.partition("/")[2]
                    names[name if len(self._mine(name)) == 1 else full_name] = route
        return names

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
    model = route.model
    card: dict[str, str | int] = {"id": name, "object": "model", "created": model.created, "owned_by": model.namespace}
    return card if name in (model.name, model.key) else {**card, "root": model.key}
