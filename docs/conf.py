"""Sphinx: the reference from the docstrings, and the pages of this folder."""

from __future__ import annotations

import ignite_imgtools

project = "ignite_imgtools"
author = copyright = "the authors of ignite_imgtools"
version = release = ignite_imgtools.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ignite_imgtools {release}"

autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
# Types are in the signatures; long unions and callables stay readable there.
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_attr_annotations = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
