"""What is said to who waited for a model, or need not wait: codes, sentences, and when another try is worth it."""

from __future__ import annotations

import math

from topmast_gateway.messages.errors import ModelUnavailable, model_unavailable
from topmast_gateway.routing.model_status import ModelStatus
from topmast_gateway.routing.model_table import Model

_HUMAN_RETRY_S = 60  # where a human has to act first
_RETRY_S = 5  # where no wake was measured yet
_LONGEST_RETRY_S = 600


def never_starts(model: Model, *, started: bool) -> ModelUnavailable | None:
    """Why no pod will come before a human acts; None where one may. An answer that was `started` is not given up for
    a model that cannot start now.
    """
    if model.suspended:
        message = f"the model {model.key} is suspended: unset spec.suspend of its LLMDeployment"
        return model_unavailable("model_suspended", message, _HUMAN_RETRY_S)
    if model.status.stalled and not started:
        message = f"the model {model.key} cannot start: its LLMDeployment's condition Stalled says why"
        return model_unavailable("model_stalled", message, _HUMAN_RETRY_S)
    return None


def no_pod(model: Model, name: str, status: ModelStatus, waited_s: float) -> ModelUnavailable:
    """The end of a wait. `name` is the model's as its callers know it. A model that sleeps was called all the same."""
    if model.sleeps:
        message = f"the model {name} is not ready yet ({status.text()}): ask again then"
        return model_unavailable("model_waking", message, retry_after_s(status))
    message = f"no pod of the model {name} is ready; waited {waited_s:.0f} s, try again soon"
    return model_unavailable("no_ready_pod", message, retry_after_s(status))


def retry_after_s(status: ModelStatus) -> int:
    """Whole seconds for a Retry-After header: the measured time, or a guess where there is none."""
    eta_s = status.eta_s()
    return _RETRY_S if eta_s is None else min(_LONGEST_RETRY_S, max(1, math.ceil(eta_s)))
