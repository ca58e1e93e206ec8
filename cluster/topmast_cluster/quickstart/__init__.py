"""The steps of `make up` after the cluster runs: install the chart, apply a model, wait, ask.

They see a cluster only as kubectl, helm and an environment, so the user's own cluster and the embedded one are alike.
"""
