"""Whether the accelerator that a model reserves is computed on, by what its engines say of themselves.

A device that is reserved and idle is the most expensive way to be wrong, and nothing else shows it: the model is Ready.
"""

from collections.abc import Sequence

from topmast_operator.api.conditions import ACCELERATOR_USED, Condition
from topmast_operator.api.facts import Device, PodFacts
from topmast_operator.api.resource import Accelerator, Model
from topmast_operator.plan.revision import revision_of

_STATUS = {"True": True, "False": False}


def accelerator_used(model: Model, pods: Sequence[PodFacts]) -> Condition | None:
    """The condition AcceleratorUsed, from the pods of the wanted revision; None for a model that reserves none."""
    reserved = model.resources.accelerator
    if reserved is None:
        return None
    said = [pod.engine.device for pod in pods if pod.engine and pod.engine.device and not pod.deleting]
    if not said:
        return _said_before(model) or Condition(
            ACCELERATOR_USED, None, "NotKnownYet", "No engine of this revision has said yet what it computes on."
        )
    least = min(said, key=lambda device: device.count)
    if least.count == 0:
        return Condition(ACCELERATOR_USED, False, "ReservedUnused", _unused(reserved, least))
    if least.count < reserved.count:
        message = (
            f"{_devices(reserved)} reserved and an engine computes on {least.count} ({least.name}): "
            f"set spec.resources.accelerator.count to {least.count}, or see in the engine's log why it takes no more."
        )
        return Condition(ACCELERATOR_USED, False, "PartlyUsed", message)
    return Condition(
        ACCELERATOR_USED, True, "Used", f"Every engine that runs computes on {least.count} ({least.name})."
    )


def _unused(reserved: Accelerator, device: Device) -> str:
    return (
        f"{_devices(reserved)} reserved and the engine computes on CPUs ({device.name}): remove "
        "spec.resources.accelerator to give the device to others, or set spec.engine.image to one that computes on it."
    )


def _devices(reserved: Accelerator) -> str:
    return f"{reserved.count} {reserved.resource} {'is' if reserved.count == 1 else 'are'}"


def _said_before(model: Model) -> Condition | None:
    """What engines of this revision said while they ran: a model that sleeps or restarts has not changed its device."""
    if model.status.get("revision") != revision_of(model):
        return None
    for item in model.status.get("conditions", ()):
        if item["type"] == ACCELERATOR_USED and item["status"] in _STATUS:
            return Condition(ACCELERATOR_USED, _STATUS[item["status"]], item["reason"], item["message"])
    return None
