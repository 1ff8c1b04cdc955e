"""The example that trains on Fashion-MNIST in forty lines."""

import ast
import inspect
import re


def test_it_learns(example, monkeypatch, capsys):
    module = example("fashion_mnist.py")
    few = module.load("fashion-mnist-small")
    few = few._replace(train=few.train.subset(range(1280)), test=few.test.subset(range(100)))
    monkeypatch.setattr(module, "load", lambda name: few)
    accuracy = module.main("fashion-mnist-small", 3)
    out = capsys.readouterr().out
    first, _, last = (float(loss) for loss in re.findall(r"epoch \d: loss ([\d.]+),", out))
    assert last < first
    assert f"test accuracy {accuracy:.4f}" in out


def test_it_has_forty_lines(example):
    source = inspect.getsource(example("fashion_mnist.py"))
    docstring = ast.parse(source).body[0]
    lines = [line for line in source.splitlines()[docstring.end_lineno :] if line.strip()]
    assert len(lines) <= 40
