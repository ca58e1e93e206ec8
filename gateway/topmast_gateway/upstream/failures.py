"""What the failure of an attempt means for the next one.

A failure here came before the answer was complete. Which one may be retried is decided in retry_policy.py.
"""

from __future__ import annotations

from topmast_access.terms import REFUSED
from topmast_gateway.messages.errors import read_error
from topmast_gateway.messages.response import EngineAnswer


class UpstreamFailure(Exception):
    """A try that did not finish the answer. `kind` labels metrics; for `avoid_s` nobody should try this pod again.

    `may_have_run`: the request may have been worked on, and may even be the reason. `broken`: it speaks against the
    pod.
    """

    kind = "failure"
    avoid_s = 0.0
    may_have_run = False
    broken = False


class ConnectionRefused(UpstreamFailure):
    """No connection: the request certainly did not run."""

    kind = "refused"
    avoid_s = 1.0
    broken = True


class Unreachable(ConnectionRefused):
    """Not even a refusal within the time to connect. It cost that time, so the pod is avoided for longer."""

    kind = "unreachable"
    avoid_s = 5.0


class NotServing(UpstreamFailure):
    """The engine says that it is starting, leaving or broken. It did not run the request."""

    kind = "not_serving"
    avoid_s = 1.0


class ConnectionLost(UpstreamFailure):
    """The connection broke before the answer was complete."""

    kind = "lost"
    may_have_run = True
    broken = True


class EngineGone(UpstreamFailure):
    """The engine itself says that it cannot finish: it is leaving, or its model process died."""

    kind = "engine_gone"
    avoid_s = 1.0
    may_have_run = True


class EngineSilent(UpstreamFailure):
    """The connection stands and nothing comes: the pod, its node or the way there hangs."""

    kind = "silent"
    avoid_s = 5.0
    may_have_run = True
    broken = True


class BadAnswer(UpstreamFailure):
    """What came is no answer: too large, or not what the protocol has. The text repeats nothing of it."""

    kind = "bad_answer"
    may_have_run = True
    broken = True


class EngineFull(UpstreamFailure):
    """The engine has no room. Its own answer says when to come back."""

    kind = "full"

    def __init__(self, answer: EngineAnswer) -> None:
        super().__init__()
        self.answer = answer


class TokenRejected(UpstreamFailure):
    """The engine does not take this gateway's token. That is between the two of them, and no matter of the caller's."""

    kind = "not_let_in"
    avoid_s = 1.0


class EngineFailed(UpstreamFailure):
    """The engine answered that it failed. Its own answer is the client's, where no other pod answers better."""

    kind = "engine_failed"
    may_have_run = True
    broken = True

    def __init__(self, answer: EngineAnswer, code: str = "") -> None:
        super().__init__(f"{answer.status} {code}".rstrip())
        self.answer = answer


_TOO_LATE = "deadline_exceeded"  # the request's own time is over
_FAILED = (500, 502, 504)  # of a 5xx: what may be the pod's fault, and not the request's


def failure_of(answer: EngineAnswer) -> UpstreamFailure | None:
    """What an engine's refusal means, where it is about the engine and not about the request."""
    if answer.status not in (401, 503, *_FAILED):
        return None
    error = read_error(answer.body)
    if answer.status == 401:
        return TokenRejected(error.message[:300]) if error.code == REFUSED else None
    if error.code == "engine_lost":
        return EngineGone(error.code)
    if error.code == _TOO_LATE:
        return None
    if answer.status in _FAILED:
        return EngineFailed(answer, error.code[:100])
    return NotServing(error.code) if error.code in ("not_ready", "draining", "engine_failed") else EngineFull(answer)
