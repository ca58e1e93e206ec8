"""The embedded Kubernetes of `make up` and of the tests: one node without a container engine."""
