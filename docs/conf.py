"""Configuration of the documentation site.

    pip install -e ".[docs]"
    python -m sphinx -W --keep-going -n -j auto docs docs/_build/html

Nothing is fetched: the build gives the same pages without a network.
"""

import sys
from pathlib import Path

import xpconv

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "xpconv"
author = "the xpconv contributors"
copyright = "the xpconv contributors"
version = release = xpconv.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "api_pages",
    "mathml",
    "offline",
    "sidebar",
    "tables",
]
exclude_patterns = ["_build", "_ext", "_templates", "figures", "images"]
templates_path = ["_templates"]
root_doc = "index"

# ---- pages in Markdown
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False  # there is none
html_math_renderer = "mathml"  # docs/_ext/mathml.py

# ---- the reference, from the docstrings
default_role = "py:obj"
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_type_aliases = {
    "Array": "Array",
    "IntOrPair": "IntOrPair",
    "Padding": "Padding",
}
autosummary_generate = True
autosummary_imported_members = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# References into xpconv must resolve. Other libraries are not linked, since that would take a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!xpconv).*"),
    # what is not public and yet shows: base classes that only share code, and types of arguments that are passed on
    (r"py:.*", r"xpconv\.(.*\.)?_.*"),
    (r"py:class", r"xpconv\.backends\.protocol\.(HostRandom|Shortage)"),
    (r"py:.*", r"xpconv\.data\.dataset\.AnyDataset"),
    (r"py:class", r"xpconv\.(data\.order\.ImageRandom|onnx\.layers\.\w+|testing\.parity\.cases\.Draw)"),
    (r"py:class", r"xpconv\.report\.collect\.(Predictions|Filters|LayerTimes)"),
]

# ---- the pages as a reader sees them
html_theme = "furo"
html_title = f"xpconv {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "tango"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp"
