"""Who may import whom (DESIGN: one layer may import only the layers below it), and what is lazy."""

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import binjax

ROOT = Path(binjax.__file__).parent

# Lowest first. Modules of one layer may not import one another.
LAYERS = (
    {"config", "ste", "shift", "packing", "rounding", "losses"},
    {"xnor"},
    {"optim", "layers"},
    {"models", "data"},
    {"metrics", "summary", "checkpoint", "deploy"},
    {"train"},
    {"bench"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
WITHOUT_JAX = ("binjax", "binjax.config", "binjax.cli", "binjax.data")


class Import(NamedTuple):
    target: str  # a module of binjax, or the top-level name of another package
    line: int
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING:`


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(module: str) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(Import(t, node.lineno, lazy, typing) for t in targets(module, node))
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing = True
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, typing)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")), False, False)
    return found


def targets(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        base = node.module or ""
        if node.level:
            package = module.split(".")
            if FILES[module].name != "__init__.py":
                package = package[:-1]
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        # `from package import module` imports the module, `from module import name` the module.
        inner = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if name in FILES else base for name in inner]
    for name in names:
        yield name if name.split(".")[0] == "binjax" else name.split(".")[0]


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


IMPORTS = {module: imports_of(module) for module in FILES}


def allowed(importer: str, imported: str) -> bool:
    """Whether one of our modules may import another."""
    if imported == "binjax":  # its lazy names reach everything: for the top layer only
        return layer(importer) == "cli"
    if layer(importer) == layer(imported):
        return True
    return LEVEL[layer(imported)] < LEVEL[layer(importer)]


def test_every_module_has_a_layer():
    unknown = {layer(m) for m in FILES} - {""} - LEVEL.keys()
    assert not unknown, f"give them a layer in DESIGN.md and in LAYERS: {sorted(unknown)}"


@pytest.mark.parametrize("module", [m for m in FILES if m != "binjax"])
def test_imports_only_lower_layers(module):
    ours = [i for i in IMPORTS[module] if i.target.split(".")[0] == "binjax"]
    wrong = [f"{FILES[module]}:{i.line}: {i.target}" for i in ours if not allowed(module, i.target)]
    assert not wrong


def test_the_rule_has_teeth():
    assert allowed("binjax.layers.binary", "binjax.ste")
    assert allowed("binjax.layers.norm", "binjax.layers.binary")
    assert not allowed("binjax.ste", "binjax.shift")
    assert not allowed("binjax.optim", "binjax.layers.binary")
    assert not allowed("binjax.models.mlp", "binjax.data")
    assert not allowed("binjax.train.step", "binjax.cli.main")
    assert not allowed("binjax.train.step", "binjax")


def test_the_root_imports_nothing_at_run_time():
    assert {i.target for i in IMPORTS["binjax"] if not i.typing} == {
        "__future__",
        "importlib",
        "typing",
    }


def test_no_cycles():
    graph = {
        module: {i.target for i in found if i.target in FILES and i.target != module}
        for module, found in IMPORTS.items()
        if module != "binjax"
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("start", WITHOUT_JAX)
def test_no_jax_behind_module_level_imports(start):
    seen, todo = set(), [start]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        now = [i.target for i in IMPORTS.get(module, []) if not i.lazy and not i.typing]
        heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "triton"} & set(now)
        assert not heavy, f"{module} imports {heavy}"
        todo += [target for target in now if target in FILES]


def test_only_one_file_names_jax_private_modules():
    private = {
        module
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and "._src" in (node.module or ""))
        or (isinstance(node, ast.Import) and any("._src" in a.name for a in node.names))
    }
    assert private <= {"binjax.xnor.bridge"}


STAGES = """
import importlib, json, sys
def heavy():
    roots = {name.split(".")[0] for name in sys.modules}
    return sorted(roots & {"jax", "jaxlib", "flax", "optax", "orbax", "triton", "scipy"})
found = {}
for name in sys.argv[1].split(","):
    importlib.import_module(name)
    found[name] = heavy()
for name in sys.argv[2].split(","):
    importlib.import_module(name)
found["all"] = heavy()
import jax
try:
    jax.devices()
    found["devices"] = "there"
except RuntimeError:
    found["devices"] = "refused"
print(json.dumps(found))
"""


def test_import_is_light_and_touches_no_device():
    # On a platform that does not exist, whatever initializes a back end raises.
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    others = [module for module in FILES if module != "binjax.__main__"]
    command = [sys.executable, "-c", STAGES, ",".join(WITHOUT_JAX), ",".join(others)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found[name] for name in WITHOUT_JAX} == {name: [] for name in WITHOUT_JAX}
    assert "jax" in found["all"]
    assert "triton" not in found["all"]
    assert found["devices"] == "refused"


def test_all_names_resolve():
    for name in binjax.__all__:
        assert getattr(binjax, name) is not None
    assert len(set(binjax.__all__)) == len(binjax.__all__)
    assert dir(binjax) == sorted(binjax.__all__)
    assert binjax.ste_sign is importlib.import_module("binjax.ste").ste_sign
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = binjax.no_such_name


def test_type_checkers_see_the_same_names():
    tree = ast.parse(FILES["binjax"].read_text(encoding="utf-8"))
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert set(seen) == set(binjax.__all__) - {"__version__"}
    for name, module in seen.items():
        expected = importlib.import_module(module)
        assert getattr(binjax, name) is getattr(expected, name)


def test_every_package_says_what_is_public():
    for module, path in FILES.items():
        if path.name == "__init__.py":
            loaded = importlib.import_module(module)
            assert all(hasattr(loaded, name) for name in loaded.__all__), module
