"""What a person types: the `topmast` command, which is also the kubectl plugin.

It imports no other package of Topmast; what those can do is reached by their entry points (`commands`).
"""
