"""python -m tests.mutants [NAME ...]: change right answers mechanically, place by place, and list what still passes.

Not a test, because some changes leave an answer right (`a * b` for `b * a`): its list is to be read. Each survivor that
is really wrong wants a case in the check, and a mutant in tests/mutants.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import sys
import textwrap
from pathlib import Path

from lora_lab import practice
from tests.mutants import answers_right

SWAPS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div],
    ast.Pow: [ast.Mult],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "max", "zeros": "ones", "vstack": "hstack"}


def changed(tree: ast.AST):
    """(what was changed, a changed copy), for each place of a function's tree."""
    for at, node in enumerate(ast.walk(tree)):

        def at_place(edit, at=at):
            other = copy.deepcopy(tree)
            edit(list(ast.walk(other))[at])
            return ast.fix_missing_locations(other)

        where = ast.unparse(node)[:60] if hasattr(node, "lineno") else ""
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
            for new in SWAPS.get(type(node.op), []):
                yield f"{where}: {new.__name__}", at_place(lambda n, new=new: setattr(n, "op", new()))
        if isinstance(node, ast.BinOp):  # one side alone: a term or a factor forgotten
            for side in ("left", "right"):
                yield f"{where}: only {side}", at_place(lambda n, side=side: _become(n, getattr(n, side)))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield f"{where}: sides swapped", at_place(lambda n: _swap(n))
        if isinstance(node, ast.Compare):
            for new in SWAPS.get(type(node.ops[0]), []):
                yield f"{where}: {new.__name__}", at_place(lambda n, new=new: n.ops.__setitem__(0, new()))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            for step in (1, -1):
                yield f"{where}: {step:+d}", at_place(lambda n, s=step: setattr(n, "value", n.value + s))
        if isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield f"{where}: not", at_place(lambda n: setattr(n, "value", not n.value))
        if isinstance(node, ast.Attribute) and node.attr == "T":
            yield f"{where}: not transposed", at_place(lambda n: _become(n, n.value))
        if isinstance(node, ast.Name) and node.id in NAMES:
            yield f"{where}: {NAMES[node.id]}", at_place(lambda n: setattr(n, "id", NAMES[n.id]))
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield f"{where}: {NAMES[node.attr]}", at_place(lambda n: setattr(n, "attr", NAMES[n.attr]))
        if isinstance(node, ast.UnaryOp):
            yield f"{where}: without {type(node.op).__name__}", at_place(lambda n: _become(n, n.operand))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            yield f"{where}: not called", at_place(lambda n: _become(n, n.func.value))
        if isinstance(node, ast.Return | ast.Tuple) and isinstance(getattr(node, "elts", None), list):
            if len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
                yield f"{where}: swapped", at_place(lambda n: n.elts.reverse())
        if isinstance(node, ast.IfExp):
            yield f"{where}: always", at_place(lambda n: _become(n, n.body))
            yield f"{where}: never", at_place(lambda n: _become(n, n.orelse))
        if isinstance(node, ast.Expr | ast.AugAssign) and not isinstance(getattr(node, "value", 0), ast.Constant):
            yield f"{where}: left out", at_place(lambda n: _become(n, ast.Pass()))
        if isinstance(node, ast.If):
            yield f"if {ast.unparse(node.test)}: always", at_place(lambda n: setattr(n, "test", ast.Constant(True)))
            yield f"if {ast.unparse(node.test)}: never", at_place(lambda n: setattr(n, "test", ast.Constant(False)))


def _become(node: ast.AST, other: ast.AST) -> None:
    node.__class__ = type(other)
    node.__dict__ = dict(other.__dict__)


def _swap(node: ast.BinOp) -> None:
    node.left, node.right = node.right, node.left


def main(names: list[str]) -> None:
    for file in sorted(Path(__file__).parent.glob("lesson_*.py")):
        importlib.import_module(f"tests.mutants.{file.stem}")
    tried = survived = 0
    for answer in answers_right():
        if (names and answer.exercise not in names) or not inspect.isfunction(answer.answer):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer.answer)))
        tree.body[0].decorator_list = []
        for what, other in changed(tree):
            space = dict(answer.answer.__globals__)
            try:
                exec(compile(other, "mutant", "exec"), space)
                verdict = practice.judge(answer.exercise, space[answer.answer.__name__], seconds=2, **answer.given)
            except SyntaxError:
                continue
            tried += 1
            if verdict.passed:
                survived += 1
                print(f"{answer.exercise} ({answer.label}) passes with  {what}")
            elif "could not use" in verdict.message:
                print(f"{answer.exercise} ({answer.label}): {what}: {verdict.message}")
    print(f"{survived} of {tried} changed answers pass; read them: are they right?")


if __name__ == "__main__":
    main(sys.argv[1:])
