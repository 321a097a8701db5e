"""Prints how many lines of code chat_app has: without imports, blank lines, comments and docstrings."""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import chat_app

NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def code_lines(source: str) -> int:
    """The number of lines with a token that belongs to no import, comment or docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    left_out = {
        line for node in _left_out(ast.parse(source)) for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    return len(lines - left_out)


def _left_out(tree: ast.AST) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                    yield docstring


if __name__ == "__main__":
    files = list(Path(chat_app.__path__[0]).rglob("*.py"))
    total = sum(code_lines(path.read_text()) for path in files)
    sys.stdout.write(f"chat_app: {total} lines of code in {len(files)} files\n")
