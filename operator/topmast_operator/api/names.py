"""Every name that the operator shares with others: the API group, labels, annotations, ports.

docs/contracts.md is the authority; a change here is a change there.
"""

GROUP = "topmast.dev"
VERSION = "v1alpha1"
KIND = "LLMDeployment"
PLURAL = "llmdeployments"
API_VERSION = f"{GROUP}/{VERSION}"

MANAGER = "topmast-operator"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_MODEL = f"{GROUP}/model"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_CHECK = f"{GROUP}/check"  # of a check pod, with the model's name: nothing that looks for its engines finds it
MANAGED_BY = "topmast"
ENGINE_NAME = "topmast-engine"
CHECK_NAME = "topmast-check"

ANNOTATION_DRAINING = f"{GROUP}/draining"
ANNOTATION_RETRY = f"{GROUP}/retry"
ANNOTATION_PINNED = f"{GROUP}/pinned"
ANNOTATION_TEMPLATE = f"{GROUP}/template"  # written by versions that kept environment values in it; read only
ANNOTATION_APPLIED = f"{GROUP}/applied"
ANNOTATION_PROVEN = f"{GROUP}/proven"
ANNOTATION_FAILED = f"{GROUP}/failed"
ANNOTATION_ACCESS = f"{GROUP}/access"  # on pods; a change makes the kubelet look at what they mount at once
ANNOTATION_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

CONTAINER = "engine"
HTTP_PORT = 8000
ADMIN_PORT = 8001
SERVICE_PORT = 80

DRAIN_NOTICE_S = 3


def model_labels(model: str) -> dict[str, str]:
    """The labels on everything that is made for one model."""
    return {LABEL_MANAGED_BY: MANAGED_BY, LABEL_NAME: ENGINE_NAME, LABEL_MODEL: model}


def access_name(model: str) -> str:
    """The ConfigMap that holds a model's access file."""
    return f"{model}-access"


def policy_name(model: str) -> str:
    """The NetworkPolicy of a model's engines."""
    return f"{model}-engines"


def model_selector(model: str) -> str:
    """The label selector, as a string, that finds a model's Deployments and pods."""
    return ",".join(f"{key}={value}" for key, value in model_labels(model).items())


def owned_selector(model: str) -> str:
    """The label selector, as a string, that finds everything with a model's label: engines and strays."""
    return f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_MODEL}={model}"


def check_selector(model: str) -> str:
    """The label selector that finds the check pods of a model."""
    return f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_CHECK}={model}"
