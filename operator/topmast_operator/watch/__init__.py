"""Looks at the cluster and the engines: events that wake, reads that gather. Decides and writes nothing."""
