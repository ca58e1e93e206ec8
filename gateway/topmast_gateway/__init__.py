"""The gateway: keys, routes and live streams in front of all engine pods.

It holds no state that cannot be rebuilt from the API server, and imports neither the engine nor the operator.
"""
