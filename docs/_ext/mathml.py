"""Formulas as MathML, which browsers draw by themselves: no page loads a script from a network for them."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_logger = logging.getLogger(__name__)


def to_mathml(source: str, *, as_block: bool = False) -> str:
    """The MathML of a formula in LaTeX; MathError for a command that docutils does not know."""
    # docutils takes the index of a letter with a hat for a limit, and puts it below; an empty group keeps them apart
    return tex2mathml(re.sub(r"\\hat (\w)_", r"{\\hat \1{}}_", source), as_block=as_block)


def _formula(node: nodes.Element, *, as_block: bool) -> str:
    """The MathML of a node, or after a warning its source."""
    try:
        return to_mathml(node.astext(), as_block=as_block)
    except MathError as error:
        _logger.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def visit_inline(translator: Any, node: nodes.math) -> None:
    """A formula in a line."""
    translator.body.append(_formula(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """A formula on lines of its own."""
    translator.body.append(f'<div class="math">{_formula(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
