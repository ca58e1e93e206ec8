"""Every module of Topmast with the first line of its docstring.

python tests/docs/module_map.py [PART ...]     prints them; a part is a folder such as gateway
python tests/docs/module_map.py --write        writes the tables of packages in docs/architecture.md anew
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PARTS = ("operator", "gateway", "server", "kernels", "cli", "cluster")
BEGIN, END = "<!-- packages: made by module_map.py --write -->", "<!-- end of packages -->"


def modules(part: str) -> Iterator[tuple[Path, str]]:
    """Files of a part, each package before its modules, with their first lines."""
    for path in sorted((ROOT / part).glob("topmast_*/**/*.py"), key=lambda path: (path.parent, path.name)):
        yield path, first_line(path)


def first_line(path: Path) -> str:
    """Of the docstring; empty where there is none."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def tables() -> str:
    """What docs/architecture.md says of packages: one row each."""
    parts = []
    for part in PARTS:
        rows = [(path.parent, line) for path, line in modules(part) if path.name == "__init__.py"]
        made = [f"| [{name.relative_to(ROOT / part)}](../{name.relative_to(ROOT)}) | {line} |" for name, line in rows]
        parts.append("\n".join([f"| in `{part}/` | |", "|---|---|", *made]))
    return "\n\n".join(parts)


def written(page: str) -> str:
    """The page with its tables as they are now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        for part in sys.argv[1:] or PARTS:
            for path, line in modules(part):
                print(f"{path.relative_to(ROOT)}: {line}")
