"""What the cluster code raises when something cannot go on.

Every message is a sentence for a person: what happened, to what, and what to do next.
"""


class ClusterError(Exception):
    """Something failed while the cluster was being built, run or removed."""

    exit_code = 1


class MachineError(ClusterError):
    """This machine cannot run an embedded cluster as it is."""

    exit_code = 2
