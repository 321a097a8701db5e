"""Reads the longest SQL statements from their files: an editor shows them as SQL, and psql runs them."""

from pathlib import Path


def read_sql(name: str, **columns: str) -> str:
    """The statement of this file, with these lists of columns. Other words in braces stay for `format`."""
    statement = Path(__file__).with_name(name).read_text()
    for column, content in columns.items():
        statement = statement.replace(f"{{{column}}}", content)
    return statement
