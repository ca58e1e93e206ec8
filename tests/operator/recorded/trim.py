"""Objects without what none of the operator's readers looks at: recordings are read by people, too."""

from __future__ import annotations

from recorded.faults import Object

# Of a container's status; the rest is digests, mounts and resources, which nobody here reads.
CONTAINER_FIELDS = ("name", "restartCount", "state", "lastState")
STATUS_FIELDS = ("phase", "reason", "message", "podIP")
CONDITIONS = ("PodScheduled", "Ready", "DisruptionTarget", "ReplicaFailure")
LAST_WORDS = 500  # of a log
METADATA_FIELDS = ("name", "labels", "ownerReferences", "creationTimestamp", "deletionTimestamp")


def trim_metadata(body: Object) -> Object:
    kept = {key: body["metadata"][key] for key in METADATA_FIELDS if key in body["metadata"]}
    for owner in kept.get("ownerReferences", ()):
        owner.pop("blockOwnerDeletion", None)
    return kept


def trim_pod(body: Object) -> Object:
    spec = {key: body["spec"][key] for key in ("nodeName", "schedulingGates") if key in body["spec"]}
    status = {key: body["status"][key] for key in STATUS_FIELDS if key in body["status"]}
    status |= trim_conditions(body)
    if statuses := body["status"].get("containerStatuses"):
        status["containerStatuses"] = [{key: item[key] for key in CONTAINER_FIELDS if key in item} for item in statuses]
        for item in status["containerStatuses"]:
            for ended in (*item["state"].values(), *item["lastState"].values()):
                ended.pop("containerID", None)
                if "exitCode" in ended:
                    ended["message"] = ended.get("message", "")[-LAST_WORDS:]
    return {"metadata": trim_metadata(body), "spec": spec, "status": status}


def trim_conditions(body: Object) -> Object:
    fields = ("type", "status", "reason", "message", "lastTransitionTime")
    conditions = [item for item in body.get("status", {}).get("conditions", ()) if item["type"] in CONDITIONS]
    return {"conditions": [{key: item[key] for key in fields if key in item} for item in conditions]}


def waiting_message(pod: Object) -> str:
    statuses = pod["status"].get("containerStatuses", ())
    return next((item["state"].get("waiting", {}).get("message", "") for item in statuses), "")


def is_warning_about(event: Object, pod: Object) -> bool:
    return event["type"] == "Warning" and event["involvedObject"].get("uid") == pod["metadata"]["uid"]


def trim_event(body: Object) -> Object:
    fields = ("type", "reason", "message", "count", "lastTimestamp", "eventTime", "series")
    return {key: body[key] for key in fields if body.get(key)}
