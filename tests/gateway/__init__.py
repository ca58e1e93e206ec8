"""Tests of the gateway, and the pieces of a cluster's side that bench/gateway.py borrows."""
