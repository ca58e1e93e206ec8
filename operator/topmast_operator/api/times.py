"""Times as Kubernetes writes them (RFC 3339, UTC, whole seconds) and as the operator computes (Unix seconds)."""

from datetime import UTC, datetime


def to_text(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_unix(text: str) -> float:
    """Unix seconds of an RFC 3339 time, with or without a fraction."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
