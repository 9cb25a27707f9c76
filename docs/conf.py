"""How Sphinx builds the documentation: Markdown pages, and the reference from the docstrings."""

import fastdb

project = "fastdb"
author = "the fastdb authors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's name
version = release = fastdb.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fastdb {release}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
