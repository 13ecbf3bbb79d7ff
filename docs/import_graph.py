"""The import graph of docs/architecture.md, as text, from the imports of today.

    pip install grimp    # https://grimp.readthedocs.io, in any environment: it only reads sources
    PYTHONPATH=platform python docs/import_graph.py

Nodes: the modules of search, run and runtime, and the rooms of data. A node stands one floor above the highest of
those that it imports, so every arrow points down; a circle would end the program.
"""

import sys
from graphlib import TopologicalSorter

import grimp

ROOMS = ("search", "run", "runtime")


def node_of(module: str) -> str | None:
    """The node that a module belongs to: itself, its room in data, or none."""
    parts = module.split(".")[1:]
    if not parts or parts[0] not in (*ROOMS, "data"):
        return None
    return ".".join(parts[:2]) if len(parts) > 1 else None


def main() -> None:
    """Write the floors, the highest first."""
    graph = grimp.build_graph("raysft")
    below: dict[str, set[str]] = {}
    for module in graph.modules:
        if (node := node_of(module)) is not None:
            found = {node_of(target) for target in graph.find_modules_directly_imported_by(module)}
            below.setdefault(node, set()).update(target for target in found if target not in (None, node))
    floor: dict[str, int] = {}
    for node in TopologicalSorter(below).static_order():
        floor[node] = max((floor[target] + 1 for target in below[node]), default=0)
    for level in range(max(floor.values()), -1, -1):
        sys.stdout.write(f"floor {level}\n")
        for node in sorted(node for node in floor if floor[node] == level):
            arrow = f" -> {', '.join(sorted(below[node]))}" if below[node] else ""
            sys.stdout.write(f"  {node}{arrow}\n")
    arrows = sum(map(len, below.values()))
    sys.stdout.write(f"{len(floor)} nodes, {arrows} arrows, {max(floor.values()) + 1} floors, no circle, none up\n")


if __name__ == "__main__":
    main()
