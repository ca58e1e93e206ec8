"""Requests that wait for a pod, and the call that wakes a model."""
