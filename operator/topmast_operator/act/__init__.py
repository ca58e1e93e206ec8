"""Writes plans to the API server. Decides nothing."""
