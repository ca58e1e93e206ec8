"""Manifests: what a plan's decisions look like to the API server. Decides nothing, reads nothing."""
