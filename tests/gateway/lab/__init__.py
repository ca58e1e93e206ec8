"""Clusters, engines and clients that the gateway's tests are built of."""
