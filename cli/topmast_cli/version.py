"""`topmast version`: the release that is installed."""

from importlib.metadata import version


def main() -> int:
    print(version("topmast"))
    return 0
