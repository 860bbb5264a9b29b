"""The strings below the fields of a dataclass: what `--help` says of them. They are read from the source."""

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any


def below(kind: type[Any]) -> dict[str, str]:
    """Field -> the string below it, in the class or in a base; empty where there is no source."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= _strings(base.__module__).get(base.__name__, {})
    return found


@cache
def _strings(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> string."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {node.name: _of(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for one, following in pairwise(node.body):
        if isinstance(one, ast.AnnAssign) and isinstance(following, ast.Expr):
            found[ast.unparse(one.target)] = ast.literal_eval(following.value)
    return found
