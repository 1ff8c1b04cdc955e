"""Every public name is documented: its parameters, what it returns, the shapes of arrays, the errors it raises.

Public are the names in ``__all__`` of the packages without an underscore, of the modules of `xpconv.cs231n`, and of the
other modules in `MODULES`; of classes the methods, properties and fields without an underscore. What has to be
documented is read from the code: the parameters from the signature, the errors from the ``raise`` statements of a
function and of the private helpers that it calls.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import functools
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import types
from typing import NamedTuple

import pytest

import xpconv

docscrape = pytest.importorskip("numpydoc.docscrape", reason="numpydoc reads the docstrings")

# public modules that are neither packages nor in one without names of its own
MODULES = (
    "xpconv.backends.cuda",
    "xpconv.functional.activation",
    "xpconv.functional.columns",
    "xpconv.functional.conv",
    "xpconv.functional.conv_transpose",
    "xpconv.functional.dropout",
    "xpconv.functional.linear",
    "xpconv.functional.norm",
    "xpconv.functional.pool",
    "xpconv.testing.naive",
    "xpconv.testing.strategies",
    "xpconv.weights",
)
# packages that need a library besides, and which
NEEDED = {"xpconv.sklearn": "sklearn", "xpconv.testing.strategies": "hypothesis"}

_ARRAY = re.compile(r"\b(Array|ndarray|NDArray|ArrayLike)\b")
_SHAPE = re.compile(r"\([^()]*,[^()]*\)|\(\.\.\.\)|\bshape|\blike\b|\bscalar\b|\bwithout axes\b|\bany rank\b")
_UNSAID = (NotImplementedError, AssertionError, StopIteration)  # of abstract methods, faults of xpconv, iterators


def public_modules():
    """Names of the modules whose names are public."""
    found = ["xpconv"]
    for info in pkgutil.walk_packages(xpconv.__path__, "xpconv."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        if info.ispkg or info.name in MODULES or info.name.startswith("xpconv.cs231n."):
            found.append(info.name)
    return found


def load(module):
    if module in NEEDED:
        pytest.importorskip(NEEDED[module], reason=f"{module} needs it")
    return importlib.import_module(module)


def public_names(module):
    """The objects that a module makes public, by name, without modules and without what xpconv does not define."""
    names = getattr(module, "__all__", ())
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}


# ---- what the code says ---------------------------------------------------------------------------------------------


@functools.cache
def _tree(code):
    source = textwrap.dedent("".join(inspect.getsource(code)))
    return ast.parse(source).body[0]


def _plain(function):
    """The function behind wrappers, or None where there is no Python code."""
    if isinstance(function, (staticmethod, classmethod)):
        function = function.__func__
    if isinstance(function, (property, functools.cached_property)):
        function = function.fget if isinstance(function, property) else function.func
    function = inspect.unwrap(function) if callable(function) else None
    return function if isinstance(function, types.FunctionType) else None


def _is_private(function):
    parts = f"{function.__module__}.{function.__qualname__}".split(".")
    return any(part.startswith("_") and not part.startswith("__") for part in parts[1:])


def raised(function, cls=None, seen=None):
    """Classes of the errors in ``raise`` statements of a function and of the private helpers that it calls."""
    function = _plain(function)
    seen = set() if seen is None else seen
    if function is None or function in seen or not function.__module__.startswith("xpconv"):
        return set()
    seen.add(function)
    try:
        tree = _tree(function)
    except (OSError, TypeError, SyntaxError):
        return set()
    names = {**vars(builtins), **function.__globals__}
    found = set()
    caught = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            target = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            error = names.get(target.id) if isinstance(target, ast.Name) else None
            if isinstance(error, type) and issubclass(error, Exception) and not issubclass(error, _UNSAID):
                found.add(error)
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            types_ = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            caught |= {names.get(type_.id) for type_ in types_ if isinstance(type_, ast.Name)}
        elif isinstance(node, ast.Call):
            called = None
            if isinstance(node.func, ast.Name):
                called = names.get(node.func.id)
            elif (
                isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("self", "cls")
                and cls is not None
            ):
                called = inspect.getattr_static(cls, node.func.attr, None)
            plain = _plain(called) if called is not None else None
            if plain is not None and _is_private(plain):
                found |= raised(plain, cls, seen)
    return {error for error in found if not any(isinstance(c, type) and issubclass(error, c) for c in caught)}


def annotations(function):
    """Annotations as they stand in the source."""
    return {name: str(value) for name, value in getattr(function, "__annotations__", {}).items()}


def _is_array(annotation):
    """Whether something of that annotation is an array or holds arrays; functions of arrays are none."""
    return not annotation.startswith("Callable") and _ARRAY.search(annotation) is not None


def parameters(function, *, bound):
    """Names of the parameters, in order, without self, cls and those that begin with an underscore."""
    names = []
    for k, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        if (k == 0 and bound) or name.startswith("_"):
            continue
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        names.append(stars + name)
    return names


# ---- what the docstring says ----------------------------------------------------------------------------------------


def documented(sections):
    """Entries of a section by name: ``a, b : int`` gives both."""
    found = {}
    for entry in sections:
        for name in entry.name.split(","):
            found[name.strip().replace("\\", "")] = " ".join((entry.type, *entry.desc))
    return found


def error_classes(doc, names):
    """The classes in the section Raises, and what there is no class of."""
    classes, unknown = set(), []
    for entry in doc["Raises"]:
        for name in re.split(r"[,\s]+", (entry.name or entry.type)):
            name = name.strip("`.,~")
            if not name:
                continue
            error = names.get(name)
            if error is None:
                error = getattr(builtins, name, None) or _exceptions().get(name)
            if error is None and "sklearn.exceptions" in sys.modules:
                error = getattr(sys.modules["sklearn.exceptions"], name, None)
            if isinstance(error, type) and issubclass(error, BaseException):
                classes.add(error)
            else:
                unknown.append(name)
    return classes, unknown


@functools.cache
def _exceptions():
    found = {"MissingExtraError": importlib.import_module("xpconv._extras").MissingExtraError}
    for module in public_modules():
        if module not in NEEDED:
            for name, value in public_names(importlib.import_module(module)).items():
                if isinstance(value, type) and issubclass(value, BaseException):
                    found[name] = value
    return found


def _errors(doc, needed, names, *, always):
    """Faults of the section Raises, for errors that the code raises."""
    classes, unknown = error_classes(doc, names)
    faults = [f"Raises: {name!r} is no class of an error" for name in unknown]
    if any(not "".join(entry.desc).strip() for entry in doc["Raises"]):
        faults.append("Raises: an error without a word on when")
    missing = sorted(error.__name__ for error in needed if not any(issubclass(error, known) for known in classes))
    if missing:
        faults.append(f"Raises lacks {', '.join(missing)}")
    elif always and not doc["Raises"]:
        faults.append("no Raises, though arrays go in")
    return faults


def _parameter_faults(doc, function, *, bound, extra=()):
    wanted = parameters(function, bound=bound)
    entries = documented([*doc["Parameters"], *doc["Other Parameters"]])
    # "stride, dilation" may stand together where padding is between: the first of each entry is what counts
    leading = [entry.name.split(",")[0].strip().replace("\\", "") for entry in doc["Parameters"]]
    missing = [name for name in wanted if name not in entries]
    unknown = [name for name in entries if name not in wanted]
    if unknown and any(name.startswith("**") for name in missing):  # the keywords are named one by one
        wanted = [*wanted, *unknown]
        missing, unknown = [name for name in missing if not name.startswith("**")], []
    faults = []
    if missing:
        faults.append(f"Parameters lacks {', '.join(missing)}")
    if unknown:
        faults.append(f"Parameters has {', '.join(unknown)}, which the signature has not")
    if not missing and not unknown and leading != sorted(leading, key=wanted.index):
        faults.append("Parameters are in another order than in the signature")
    kinds = annotations(function)
    for name, text in entries.items():
        if _is_array(kinds.get(name.lstrip("*"), "")) and not _SHAPE.search(text):
            faults.append(f"{name}: no shape")
    return faults


def function_faults(function, *, bound=False, cls=None, doc=None):
    """What the docstring of a function lacks."""
    text = doc if doc is not None else inspect.getdoc(function)
    if not text:
        return ["no docstring"]
    plain = _plain(function)
    doc = docscrape.NumpyDocString(text)
    if not any(doc["Summary"]):
        return ["no summary"]
    kinds = annotations(plain)
    faults = _parameter_faults(doc, plain, bound=bound)
    result = kinds.get("return", "None")
    if result not in ("None", "NoReturn"):
        entries = [*doc["Returns"], *doc["Yields"]]
        text = " ".join(" ".join((e.name, e.type, *e.desc)) for e in entries)
        if not entries and not parameters(plain, bound=bound):
            text = " ".join((*doc["Summary"], *doc["Extended Summary"]))  # which is about nothing but the result
        elif not entries:
            faults.append(f"no Returns, of {result}")
        if text and _is_array(result) and not _SHAPE.search(text):
            faults.append("Returns: no shape")
    takes = any(_is_array(kind) for name, kind in kinds.items() if name != "return")
    faults += _errors(doc, raised(function, cls), plain.__globals__, always=takes)
    return faults


def _base_method(cls, name):
    """The method that this one overrides, of a public class of xpconv, or None."""
    for base in cls.__mro__[1:]:
        if name in vars(base) and base.__module__.startswith("xpconv") and not base.__name__.startswith("_"):
            return vars(base)[name]
    return None


def _is_foreign(cls, name, value):
    """Whether a member is another library's, with its documentation: the methods of NumPy's arrays, wrapped."""
    others = [base for base in cls.__mro__ if not base.__module__.startswith("xpconv")]
    return any(getattr(vars(o).get(name), "__doc__", None) == value.__doc__ is not None for o in others)


def property_faults(value, cls):
    """What the docstring of a property lacks."""
    getter = _plain(value)
    text = inspect.getdoc(value)
    if not text:
        return ["no docstring"]
    doc = docscrape.NumpyDocString(text)
    faults = [] if any(doc["Summary"]) else ["no summary"]
    if _is_array(annotations(getter).get("return", "")) and not _SHAPE.search(text):
        faults.append("no shape")
    return faults + _errors(doc, raised(value, cls), getter.__globals__, always=False)


def override_faults(method, base, cls):
    """What an override lacks: the docstring of the method that it overrides says the rest."""
    text = inspect.getdoc(method)
    if not text:
        return ["no docstring"]
    plain = _plain(method)
    doc = docscrape.NumpyDocString(text)
    if doc["Parameters"] or doc["Returns"]:
        return function_faults(method, bound=not isinstance(method, staticmethod), cls=cls)
    faults = [] if any(doc["Summary"]) else ["no summary"]
    base_doc = docscrape.NumpyDocString(inspect.getdoc(base) or "")
    both = error_classes(doc, plain.__globals__)[0] | error_classes(base_doc, _plain(base).__globals__)[0]
    both |= error_classes(docscrape.NumpyDocString(inspect.getdoc(cls) or ""), plain.__globals__)[0]
    missing = sorted(e.__name__ for e in raised(method, cls) if not any(issubclass(e, known) for known in both))
    return faults + ([f"Raises lacks {', '.join(missing)}"] if missing else [])


def class_faults(cls):
    """What a class lacks: what its docstring lacks, by "", and what its members lack, by their names."""
    text = cls.__doc__
    if not text or not text.strip():
        return {"": ["no docstring"]}
    doc = docscrape.NumpyDocString(inspect.cleandoc(text))
    faults = [] if any(doc["Summary"]) else ["no summary"]
    members = {}
    fields = [f for f in getattr(cls, "_fields", ()) if not f.startswith("_")]
    if dataclasses.is_dataclass(cls):
        fields = [f.name for f in dataclasses.fields(cls) if not f.name.startswith("_")]
    said = documented([*doc["Parameters"], *doc["Attributes"]])
    module = vars(importlib.import_module(cls.__module__))
    if issubclass(cls, BaseException) or getattr(cls, "_is_protocol", False):
        pass
    elif fields:
        kinds = {
            name: str(kind) for base in cls.__mro__ for name, kind in vars(base).get("__annotations__", {}).items()
        }
        for name in fields:
            if name not in said:
                faults.append(f"the field {name} is not documented")
            elif _is_array(kinds.get(name, "")) and not _SHAPE.search(said[name]):
                faults.append(f"{name}: no shape")
        faults += _errors(doc, raised(vars(cls).get("__post_init__"), cls), module, always=False)
    elif not issubclass(cls, enum.Enum):
        for maker in ("__init__", "__new__"):
            plain = _plain(vars(cls).get(maker))
            if plain is not None and [p for p in parameters(plain, bound=True) if p not in ("*args", "**kwargs")]:
                faults += _parameter_faults(doc, plain, bound=True)
                faults += _errors(doc, raised(plain, cls), module, always=False)
    for name, value in vars(cls).items():
        if name.startswith("_") or name in fields or isinstance(value, type) or _is_foreign(cls, name, value):
            continue
        base = _base_method(cls, name)
        if isinstance(value, (property, functools.cached_property)):
            members[name] = property_faults(value, cls)
        elif _plain(value) is not None:
            if base is not None and _plain(base) is not None:
                members[name] = override_faults(value, base, cls)
            else:
                members[name] = function_faults(value, bound=not isinstance(value, staticmethod), cls=cls)
    return {"": faults, **members}


def constant_faults(module, name):
    """A constant has a docstring of its own, below it, in the module that defines it."""
    tree = ast.parse(inspect.getsource(module))
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return [] if is_text and isinstance(after.value.value, str) else ["no docstring below it"]
    source = [
        importlib.import_module("." * node.level + (node.module or ""), module.__name__)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names)
    ]
    return constant_faults(source[0], name) if source else ["not found"]


@functools.cache
def count(module_name):
    """Faults of every name of a module: an empty list for those that are documented.

    A thing counts once: in the public module that defines it, not in those that export it too.
    """
    module = load(module_name)
    found = {}
    if not (module.__doc__ or "").strip():
        found[module_name] = ["no docstring"]
    for name, value in public_names(module).items():
        where = getattr(value, "__module__", module_name) or module_name
        home = max((m for m in public_modules() if where == m or where.startswith(m + ".")), key=len, default="xpconv")
        if home != module_name and name in public_names(importlib.import_module(home)):
            continue
        path = f"{module_name}.{name}"
        if isinstance(value, type):
            for member, faults in class_faults(value).items():
                found[f"{path}.{member}" if member else path] = faults
        elif _plain(value) is not None:
            found[path] = function_faults(value)
        else:
            found[path] = constant_faults(module, name)
    return found


@pytest.mark.parametrize("module", public_modules())
def test_every_public_name_is_documented(module):
    counted = count(module)
    faults = {name: what for name, what in counted.items() if what}
    share = 100 * (1 - len(faults) / max(len(counted), 1))
    lines = "\n".join(f"{name}: {'; '.join(what)}" for name, what in faults.items())
    assert not faults, f"{share:.0f} % of {len(counted)} names are documented:\n{lines}"


def test_the_count_finds_the_names():
    counted = [name for module in public_modules() if module not in NEEDED for name in count(module)]
    assert len(counted) == len(set(counted)) > 550
    assert {
        "xpconv.functional.conv.conv2d",
        "xpconv.functional.conv.Conv2dCache",
        "xpconv.layers.Layer.begin_step",
        "xpconv.backends.set_backend",
        "xpconv.testing.CASES",
        "xpconv.training.Trainer.fit",
    } <= set(counted)


# ---- the count itself ---------------------------------------------------------------------------------------------


def _helper(x):
    if x is None:
        raise ValueError("x: None")


_helper.__module__ = "xpconv.tests"


def _documented(x: Array, k: int = 1) -> Array:  # noqa: F821, never evaluated
    """Do it.

    Parameters
    ----------
    x : array (N, C)
        Numbers.
    k : int
        How often.

    Returns
    -------
    y : array like x

    Raises
    ------
    ValueError
        No array.
    """
    _helper(x)
    return x


_documented.__module__ = "xpconv.tests"


def test_a_whole_docstring_has_no_faults():
    assert function_faults(_documented) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("    k : int\n        How often.\n", "", "Parameters lacks k"),
        ("    k : int", "    times : int", "Parameters lacks k"),
        ("k : int\n", "k : int\n        How often.\n    q : int\n", "Parameters has q, which the signature has not"),
        ("array (N, C)", "array", "x: no shape"),
        ("array like x", "array", "Returns: no shape"),
        ("Returns\n    -------\n    y : array like x\n", "", "no Returns, of Array"),
        ("ValueError", "TypeError", "Raises lacks ValueError"),
        ("ValueError\n        No array.", "ValueError", "Raises: an error without a word on when"),
        ("ValueError", "WrongError", "Raises: 'WrongError' is no class of an error"),
    ],
    ids=str,
)
def test_what_is_missing_is_found(old, new, fault):
    text = _documented.__doc__
    assert old in text
    assert fault in function_faults(_documented, doc=inspect.cleandoc(text.replace(old, new, 1)))


def test_parameters_in_another_order_are_found():
    text = inspect.getdoc(_documented)
    x, k = "x : array (N, C)\n    Numbers.\n", "k : int\n    How often.\n"
    faults = function_faults(_documented, doc=text.replace(x + k, k + x))
    assert faults == ["Parameters are in another order than in the signature"]


def test_a_field_without_a_word_is_found():
    class Cache(NamedTuple):
        """What is kept.

        Attributes
        ----------
        x : array
            The argument.
        """

        x: Array  # noqa: F821
        shape: tuple

    assert class_faults(Cache)[""] == ["x: no shape", "the field shape is not documented"]
