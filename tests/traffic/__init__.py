"""A continuous-traffic driver: what every test of a change under load asserts with."""

from .driver import Flow, Traffic

__all__ = ["Flow", "Traffic"]
