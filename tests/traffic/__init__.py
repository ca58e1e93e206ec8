"""Continuous-traffic drivers: what every test of a change under load asserts with.

`Traffic` is a closed loop that needs nothing but a URL. `OpenLoop` waits for nobody and compares every answer with an
undisturbed one.
"""

from .answer import Answer
from .asks import Ask, long, mixed
from .driver import Flow, Traffic
from .open_loop import Log, OpenLoop, Visit, undisturbed

__all__ = ["Answer", "Ask", "Flow", "Log", "OpenLoop", "Traffic", "Visit", "long", "mixed", "undisturbed"]
