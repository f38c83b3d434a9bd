"""Imports run strictly downward, and the command line starts without torch."""

import ast
import graphlib
import subprocess
import sys

import pytest

from shridhar_ft.shipped import PACKAGE

# From the bottom up; a module may import only from lower rows, or from its own package.
LAYERS = (
    {"errors", "shipped", "durations", "score_table", "score_details", "allocator", "cores"},
    {"config_data", "config_errors", "paths", "allowed", "addresses"},
    {"config_rope"},
    {"config_training", "config_export"},
    {"config", "runfolder", "signals", "progress", "weights", "nodes"},
    {"receipts", "checkpoint"},
    {"plan", "backup"},
    {"monitoring"},
    {"engines", "spending"},
    {"processes", "cloud"},
    {"data"},
    {"tokenizer", "model", "report"},
    {"scoring", "adapter_base", "pickles", "votes", "room", "out_of_memory", "watchdog"},
    {"documents", "adapters", "resume"},
    {"sufficiency"},
    {"preparation"},
    {"arguments", "callbacks", "measuring", "guarded", "plan_receipt"},
    {"trainer", "starting"},
    {"part"},
    {"part_windows"},
    {"handover"},
    {"training"},
    {"stages"},
    {"export"},
    {"api"},
    {"generation", "speed"},
    {"evaluation"},
    {"entry", "chat", "web", "samples"},
    {"pretrain", "sft", "pipeline"},
    {"doctor"},
    {"rehearse"},
    {"cli"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported(source: str) -> set[str]:
    """Parts of shridhar_ft that a file imports, inside functions too, type-checking blocks left out."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.module == "shridhar_ft":
            names = [f"shridhar_ft.{alias.name}" for alias in node.names]
        else:
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("shridhar_ft.")}
    return found - {"__version__"}


def part_of(path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def test_every_module_has_its_layer() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts == set(RANK)


def test_imports_run_downward() -> None:
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        if part == "__init__":
            continue
        for other in imported(path.read_text(encoding="utf-8")) - {part}:
            if RANK[other] >= RANK[part]:
                upward.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert not upward


def modules_at_the_top(path) -> set[str]:
    """Modules of shridhar_ft that a file imports as it is loaded."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_module_is_loaded_in_a_circle() -> None:
    # The layers above leave the inside of a package free.
    names = {
        ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    graph = {name: sorted(modules_at_the_top(path) & set(names) - {name}) for name, path in names.items()}
    assert sum(map(len, graph.values())) > 50, "the walk sees imports"
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipe", "check", "demo"]], ids=" ".join)
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    script = (
        f"import sys; from shridhar_ft.cli import run_command; assert run_command({arguments}) == 0; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
