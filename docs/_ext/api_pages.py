"""References of the reference: names in docstrings are found as Python finds them.

A docstring says `conv2d` or `BackendMismatchError`, as its module knows the name; the page of the thing may carry
another name, since packages export what their modules define. What Sphinx does not find by the text of the name is
looked up in the module of the docstring, and the page of that very object is linked.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import inspect as sphinx_inspect

_NOTHING = object()


def _resolve(name: str) -> Any:
    """The object of a dotted name, or `_NOTHING`."""
    parts = name.split(".")
    for cut in (*range(len(parts) - 1, 0, -1), len(parts)):  # a parent's attribute hides a module of its name
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = (
                inspect.getattr_static(found, part, _NOTHING)
                if isinstance(found, type)
                else getattr(found, part, _NOTHING)
            )
            if found is _NOTHING:
                break
        return found
    return _NOTHING


def _origin(name: str) -> str | None:
    """The module that defines the documented object of that name, or that of its class."""
    parts = name.split(".")
    while parts:
        module = getattr(_resolve(".".join(parts)), "__module__", None)
        if isinstance(module, str):
            return module
        parts.pop()
    return None


def _candidates(node: pending_xref, target: str) -> Iterator[str]:
    """Full names that ``target`` may stand for, the nearest first."""
    module, cls = node.get("py:module"), node.get("py:class")
    homes = [home for home in (module, _origin(f"{module}.{cls}") if module and cls else None) if home]
    for home in homes:
        if cls:
            yield f"{home}.{cls}.{target}"
        yield f"{home}.{target}"
    yield target
    yield f"xpconv.{target}"


def _pages(env: BuildEnvironment) -> dict[int, str]:
    """Documented names by the identity of what they name."""
    found = getattr(env, "xpconv_pages", None)
    objects = env.get_domain("py").objects  # type: ignore[attr-defined]
    if found is None or found[0] != len(objects):
        pages = {}
        for name in objects:
            thing = _resolve(name)
            if thing is not _NOTHING and not isinstance(thing, (int, str, float, tuple, type(None))):
                pages[id(thing)] = name
        env.xpconv_pages = found = (len(objects), pages)  # type: ignore[attr-defined]
    return found[1]


def resolve_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """What Sphinx calls for a reference that it could not resolve."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    domain: Any = env.get_domain("py")
    pages = _pages(env)
    for name in _candidates(node, target):
        page = name if name in domain.objects else pages.get(id(_resolve(name)))
        if page is not None:
            entry = domain.objects[page]
            return nodes.reference(
                "", "", contnode, internal=True, reftitle=page,
                refuri=app.builder.get_relative_uri(node["refdoc"], entry.docname) + f"#{entry.node_id}",
            )  # fmt: skip
    return None


def skip_foreign(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out methods that another library makes: those of NumPy's arrays, which a subclass wraps, scikit-learn's."""
    if what == "class" and not skip and callable(obj):
        origin = getattr(getattr(obj, "__wrapped__", obj), "__objclass__", obj)
        if not str(getattr(origin, "__module__", "xpconv")).startswith("xpconv"):
            return True
    return None


def mend_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """The arguments of a class from its ``__init__``, and names of aliases as they stand in the source.

    Sphinx asks ``__new__``, which in layers takes anything, and shows a class of its own for ``Array`` in a union.
    """
    if what == "class" and signature is not None and signature.startswith("(*args"):
        aliases = app.config.autodoc_type_aliases
        found = sphinx_inspect.signature(obj.__init__, bound_method=True, type_aliases=aliases)
        own = obj.__init__ is not object.__init__
        signature = sphinx_inspect.stringify_signature(found, show_return_annotation=False) if own else "()"

    def plain(text: str | None) -> str | None:
        return None if text is None else re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)

    return plain(signature), plain(result)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve_reference)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("autodoc-process-signature", mend_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
