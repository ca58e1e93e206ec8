"""A `spec.pod` in which every field that the schema has is set somewhere, down to the last leaf."""

from __future__ import annotations

from typing import Any

_SELECTOR: dict[str, Any] = {
    "matchLabels": {"team": "a"},
    "matchExpressions": [{"key": "tier", "operator": "In", "values": ["gpu"]}],
}
_NODE_TERM = {
    "matchExpressions": [{"key": "gpu.count", "operator": "Gt", "values": ["3"]}],
    "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-7"]}],
}
_POD_TERM = {
    "topologyKey": "kubernetes.io/hostname",
    "labelSelector": _SELECTOR,
    "namespaceSelector": _SELECTOR,
    "namespaces": ["shared"],
    "matchLabelKeys": ["pod-template-hash"],
    "mismatchLabelKeys": ["tenant"],
}
_POD_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_POD_TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": _POD_TERM}],
}
_TO_PATHS = [{"key": "ca.crt", "path": "ca.pem", "mode": 0o400}]
_POD_FIELDS = [
    {"path": "name", "mode": 0o444, "fieldRef": {"fieldPath": "metadata.name"}},
    {
        "path": "cpu",
        "resourceFieldRef": {"containerName": "engine", "resource": "limits.cpu", "divisor": "1m"},
    },
]
_OBJECT = {"name": "proxy", "optional": True, "items": _TO_PATHS}
_PROFILES: dict[str, Any] = {
    "seccompProfile": {"type": "Localhost", "localhostProfile": "numa.json"},
    "appArmorProfile": {"type": "Localhost", "localhostProfile": "engine"},
    "seLinuxOptions": {"user": "u", "role": "r", "type": "t", "level": "s0:c1,c2"},
}
_TIMES = {"periodSeconds": 2, "timeoutSeconds": 4, "failureThreshold": 300}

FULL_POD: dict[str, Any] = {
    "labels": {"kueue.x-k8s.io/queue-name": "team-a"},
    "annotations": {"karpenter.sh/do-not-disrupt": "true", "prometheus.io/scrape": "true"},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "models",
    "runtimeClassName": "nvidia",
    "schedulerName": "default-scheduler",
    "securityContext": {
        **{"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True, "fsGroup": 1000},
        **{"fsGroupChangePolicy": "Always", "supplementalGroups": [44], "supplementalGroupsPolicy": "Merge"},
        "sysctls": [{"name": "net.ipv4.tcp_keepalive_time", "value": "60"}],
        **_PROFILES,
    },
    "containerSecurityContext": {
        **{"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True},
        **{"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
        "capabilities": {"add": ["IPC_LOCK", "SYS_NICE"], "drop": ["ALL"]},
        **_PROFILES,
    },
    "volumes": [
        {
            "name": "config",
            "configMap": {"name": "ca", "optional": True, "defaultMode": 0o444, "items": _TO_PATHS},
        },
        {
            "name": "secret",
            "secret": {"secretName": "key", "optional": True, "defaultMode": 0o400, "items": _TO_PATHS},
        },
        {"name": "fields", "downwardAPI": {"defaultMode": 0o444, "items": _POD_FIELDS}},
        {
            "name": "all",
            "projected": {
                "defaultMode": 0o444,
                "sources": [
                    {"configMap": _OBJECT},
                    {"secret": {**_OBJECT, "items": [{"key": "tls.key", "path": "key.pem", "mode": 0o400}]}},
                    {"downwardAPI": {"items": _POD_FIELDS}},
                    {"serviceAccountToken": {"audience": "vault", "expirationSeconds": 600, "path": "token"}},
                ],
            },
        },
        {"name": "claim", "persistentVolumeClaim": {"claimName": "cache", "readOnly": True}},
        {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {
            "name": "own",
            "ephemeral": {
                "volumeClaimTemplate": {
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "storageClassName": "fast",
                        "resources": {"requests": {"storage": "20Gi"}},
                    }
                }
            },
        },
        {
            "name": "inline",
            "csi": {
                **{"driver": "secrets-store.csi.k8s.io", "fsType": "ext4", "readOnly": True},
                "nodePublishSecretRef": {"name": "driver"},
                "volumeAttributes": {"secretProviderClass": "hub"},
            },
        },
        {"name": "files", "image": {"reference": "registry.example/adapters:1", "pullPolicy": "IfNotPresent"}},
    ],
    "volumeMounts": [
        {"name": "config", "mountPath": "/etc/certs", "readOnly": True, "subPath": "certs"},
        {"name": "own", "mountPath": "/cache/numba", "subPathExpr": "$(TOKEN)"},
    ],
    "env": [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token", "optional": True}}},
        {"name": "PROXY", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "url", "optional": True}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
        {
            "name": "MEMORY",
            "valueFrom": {
                "resourceFieldRef": {"containerName": "engine", "resource": "limits.memory", "divisor": "1Mi"}
            },
        },
        {"name": "ZONE", "value": "a"},
    ],
    "envFrom": [
        {"prefix": "P_", "configMapRef": {"name": "proxy", "optional": True}},
        {"secretRef": {"name": "hub", "optional": True}},
    ],
    "resourceClaims": [
        {"name": "gpu", "resourceClaimTemplateName": "one-gpu"},
        {"name": "nic", "resourceClaimName": "nic-0"},
    ],
    "shmSize": "8Gi",
    "probes": {"startup": _TIMES, "liveness": _TIMES, "readiness": _TIMES},
    "topologySpreadConstraints": [
        {
            **{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"},
            **{"minDomains": 2, "nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Honor"},
            **{"matchLabelKeys": ["pod-template-hash"], "labelSelector": _SELECTOR},
        }
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_NODE_TERM]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _NODE_TERM}],
        },
        "podAffinity": _POD_AFFINITY,
        "podAntiAffinity": _POD_AFFINITY,
    },
    "hostAliases": [{"ip": "10.0.0.7", "hostnames": ["registry.internal"]}],
    "dnsPolicy": "None",
    "dnsConfig": {
        **{"nameservers": ["10.0.0.10"], "searches": ["svc.cluster.local"]},
        "options": [{"name": "ndots", "value": "1"}],
    },
}
