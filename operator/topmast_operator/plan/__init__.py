"""Decisions: pure functions from facts to plans. No input or output, no clock, no client; imports `api` alone."""
