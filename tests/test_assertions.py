"""Every test asserts something that surely runs.

A test passes for nothing where its only assertions stand in a loop over nothing, or behind an `if` that is never true.
What counts as surely run, by the syntax tree alone:

1. `assert`, `pytest.raises`, `pytest.warns`, and calls of functions of the tests whose name begins with `assert_`,
   `check_` or `until`, or that assert surely themselves (helpers and fixtures of the same file, one level of names);
2. within a `with`, a `try`, and both branches of an `if`;
3. within a `for` over a literal, `range`, a name in capitals (a table of the module), `enumerate`, `zip` and other
   wrappers of one, a name that one of these was given to, or over what an assertion before the loop looks at
   (`assert rows`, `assert len(rows) == 3`).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

TESTS = sorted(Path(__file__).parent.glob("test_*.py"))
HELPERS = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_"))
WRAPPERS = {"enumerate", "reversed", "sorted", "list", "tuple", "set", "map", "product", "items", "values", "keys"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FULL = (ast.ListComp, ast.DictComp, ast.SetComp)
RAISES = {"raises", "warns", "deprecated_call", "fail"}


class Sure:
    """Looks for an assertion that surely runs."""

    def __init__(self, asserting: set[str]) -> None:
        self.asserting = asserting

    def block(self, statements: list[ast.stmt]) -> bool:
        seen: set[str] = set()  # what assertions before have looked at
        for statement in statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and self.block(statement.body):
                self.asserting = self.asserting | {statement.name}  # it asserts where it is called
            if self.statement(statement, seen):
                return True
            if isinstance(statement, FUNCTIONS) and self.block(statement.body):
                self.asserting = {*self.asserting, statement.name}  # where it is called from here on
            if isinstance(statement, ast.Assert):
                seen |= names_in(statement)
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                seen |= {ast.unparse(one) for one in targets} if self.runs(statement.value, seen) else set()
        return False

    def statement(self, node: ast.stmt, seen: set[str]) -> bool:
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, (ast.With, ast.AsyncWith)):
            return any(self.call(item.context_expr) for item in node.items) or self.block(node.body)
        if isinstance(node, ast.Try):
            return self.block(node.body) or self.block(node.finalbody) or self.block(node.orelse)
        if isinstance(node, ast.If):
            return self.block(node.body) and self.block(node.orelse)
        if isinstance(node, ast.For):
            return self.runs(node.iter, seen) and self.block(node.body)
        if isinstance(node, ast.While):
            return isinstance(node.test, ast.Constant) and self.block(node.body)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return False
        return any(self.call(one) for one in ast.walk(node) if isinstance(one, ast.Call))

    def call(self, node: ast.expr) -> bool:
        """Whether a call asserts."""
        if not isinstance(node, ast.Call):
            return False
        name = called(node)
        return name in RAISES or name in self.asserting or name.startswith(("assert_", "check_", "until"))

    def runs(self, node: ast.expr, seen: set[str]) -> bool:
        """Whether a loop over this surely has a turn."""
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return bool(node.elts)
        if isinstance(node, ast.Dict):
            return bool(node.keys)
        if isinstance(node, ast.Constant):
            return bool(node.value)
        if isinstance(node, ast.Name):
            return node.id.isupper() or node.id in seen
        if isinstance(node, ast.Attribute):
            return node.attr.isupper() or ast.unparse(node) in seen
        if isinstance(node, FULL):
            return not node.generators[0].ifs and self.runs(node.generators[0].iter, seen)
        if isinstance(node, ast.BinOp):
            return self.runs(node.left, seen) or self.runs(node.right, seen)
        if isinstance(node, ast.Subscript):
            return isinstance(node.slice, ast.Slice) is False and self.runs(node.value, seen)
        if isinstance(node, ast.Call):
            name = called(node)
            if name == "range":
                return all(not isinstance(arg, ast.Constant) or arg.value != 0 for arg in node.args[-1:])
            inner = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
            if name == "zip":
                strict = any(one.arg == "strict" and getattr(one.value, "value", False) for one in node.keywords)
                return (any if strict else all)(self.runs(arg, seen) for arg in node.args)
            return name in WRAPPERS and any(self.runs(arg, seen) for arg in inner)
        return False


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def names_in(node: ast.AST) -> set[str]:
    return {ast.unparse(one) for one in ast.walk(node) if isinstance(one, (ast.Name, ast.Attribute))}


@cache
def helpers() -> frozenset[str]:
    """Functions of the modules beside the tests that surely assert."""
    return asserting_of([node for path in HELPERS for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))])


def asserting_of(nodes: Sequence[ast.AST], known: frozenset[str] = frozenset()) -> frozenset[str]:
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = set(known)
    while True:
        new = {one.name for one in functions if one.name not in found and Sure(found).block(one.body)}
        if not new:
            return frozenset(found)
        found |= new


def unsure(path: Path) -> list[str]:
    """`name:line` of each test of a file of which it is not sure that it asserts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    others = [node for node in tree.body if not getattr(node, "name", "").startswith("test")]
    asserting = asserting_of(others, helpers())
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    return [f"{test.name}:{test.lineno}" for test in tests if not Sure(set(asserting)).block(test.body)]


def test_every_test_asserts_something_that_surely_runs() -> None:
    assert TESTS
    found = {path.name: unsure(path) for path in TESTS}
    assert {name: tests for name, tests in found.items() if tests} == {}, "assert that there are rows before the loop"


VACUOUS = """
def test_loops_over_nothing():
    for row in rows():
        assert row

def test_behind_an_if():
    if found():
        assert True

def test_asserts_in_a_function_that_nobody_calls():
    def inner():
        assert True
    for step in range(3):
        call(step)

def test_only_one_branch():
    try:
        call()
    except ValueError:
        assert True
"""
SURE = """
def holds(row):
    assert row

def test_loops_over_a_table():
    for row in ROWS:
        assert row

def test_looked_before():
    rows = read()
    assert len(rows) == 3
    for row in rows:
        holds(row)

def test_both_branches():
    if found():
        assert True
    else:
        with pytest.raises(ValueError):
            call()

def test_calls_a_function_of_its_own():
    async def holds_too():
        assert True
    asyncio.run(holds_too())

def test_named_list():
    rows = [1, 2]
    for row, other in zip(rows, read(rows), strict=True):
        holds(row)
"""


def test_the_check_knows_one_kind_from_the_other(tmp_path: Path) -> None:
    for text, count in ((VACUOUS, 4), (SURE, 0)):
        (tmp_path / "test_a.py").write_text(text, encoding="utf-8")
        assert len(unsure(tmp_path / "test_a.py")) == count
