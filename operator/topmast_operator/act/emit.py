"""Kubernetes Events about a model (events.k8s.io/v1). An Event that cannot be written is logged and forgotten."""

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError
from topmast_operator.api.names import API_VERSION, KIND, MANAGER
from topmast_operator.api.resource import Model
from topmast_operator.plan.events import Event

NOTE_LIMIT = 1000  # characters; the API refuses more than 1024 bytes

log = logging.getLogger(__name__)


async def emit(api: Api, model: Model, events: Sequence[Event]) -> None:
    """Write Events that `kubectl describe llm` shows."""
    for event in events:
        text = event.message.encode()[:NOTE_LIMIT].decode(errors="ignore")
        log.log(logging.WARNING if event.warning else logging.INFO, "%s: %s: %s", model.key, event.reason, text)
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{model.name}.{time.time_ns():x}", "namespace": model.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "action": event.action,
            "note": text,
            "reportingController": f"{MANAGER}.topmast.dev",
            "reportingInstance": _INSTANCE,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": model.namespace,
                "name": model.name,
                "uid": model.uid,
            },
        }
        try:
            await api.request("POST", paths.child("Event", model.namespace), body=body)
        except (ApiError, ApiUnreachableError) as error:
            log.warning("%s: the Event %s could not be written: %s", model.key, event.reason, error)


_INSTANCE = f"{MANAGER}-{uuid.uuid4().hex[:8]}"
