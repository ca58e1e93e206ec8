"""Container images without a registry or a Docker engine: built by buildah into the user's cache, one layer at a time.

Nothing here knows a cluster; `load` speaks to whatever containerd it is given.
"""
