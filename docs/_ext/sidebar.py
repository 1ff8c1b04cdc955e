"""A sidebar that stays small: of the pages of single names it lists those of the module that is being read.

Each name of the reference has a page of its own. With all of them in the tree of contents the sidebar of every page
would have hundreds of links, and making it would be most of the work of a build.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment.adapters.toctree import global_toctree_for_doc
from sphinx.ext.autosummary import autosummary_toc

_KEY = "names"  # in the metadata of a page: the pages of the names that it lists


def take_out(app: Sphinx, doctree: nodes.document) -> None:
    """Move the pages of names from the tree of contents to the metadata of the page that lists them."""
    names = []
    for node in list(doctree.findall(autosummary_toc)):
        for tree in node.children:
            names += tree["includefiles"]  # type: ignore[index]
        node.parent.remove(node)
    if names:
        app.env.metadata[app.env.current_document.docname][_KEY] = names


def with_names(tree: str, listing: str, page: str, names: list[str], uri: Callable[[str, str], str]) -> str:
    """The tree of contents as the page ``listing`` has it, for ``page``, with the names below that page's entry."""

    def moved(found: re.Match[str]) -> str:
        target = found[1]
        if re.match(r"[a-z]+:", target):
            return found[0]
        if target == "#":
            return f'href="{uri(page, listing)}"'
        place = posixpath.join(posixpath.dirname(listing), target)
        return f'href="{posixpath.relpath(place, posixpath.dirname(page) or ".")}"'

    entries = []
    for name in names:
        current = " current" if name == page else ""
        link = f'<a class="reference internal{current}" href="{uri(page, name)}">{escape(name.rpartition(".")[2])}</a>'
        entries.append(f'<li class="toctree-l3{current}">{link}</li>')
    parts = re.split(r'(<a class="current [^>]*href="#"[^>]*>.*?</a>)', tree, maxsplit=1, flags=re.DOTALL)
    if len(parts) != 3:  # the page that lists them is not in the tree itself
        return tree
    head, entry, rest = parts
    if page != listing:
        head, entry, rest = (re.sub(r'href="([^"]*)"', moved, text) for text in (head, entry, rest))
    return f"{head}{entry}<ul>{''.join(entries)}</ul>{rest}"


def set_sidebar(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page that lists names, and the pages of those, a tree of contents that has the names."""
    listings = _listings(app)
    listing = page if _KEY in app.env.metadata.get(page, {}) else listings.get(page)
    if listing is None:
        return
    builder: Any = app.builder

    def toctree(**options: Any) -> str:
        tree = _tree(builder, listing, tuple(sorted(options.items())))
        return with_names(tree, listing, page, app.env.metadata[listing][_KEY], builder.get_relative_uri)

    context["toctree"] = toctree


@functools.cache
def _listings(app: Sphinx) -> dict[str, str]:
    """The page that lists it, by the page of a name."""
    return {name: page for page, values in app.env.metadata.items() for name in values.get(_KEY, ())}


@functools.cache
def _tree(builder: Any, page: str, options: tuple[tuple[str, Any], ...]) -> str:
    tree = global_toctree_for_doc(builder.env, page, builder, tags=builder.tags, **dict(options))
    return builder.render_partial(tree)["fragment"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("doctree-read", take_out, priority=400)  # before Sphinx reads the tree
    app.connect("html-page-context", set_sidebar, priority=400)  # before the theme asks for it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
