"""Carries a request to a pod and the answer back, over as many attempts as it takes."""
