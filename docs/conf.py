"""Sphinx's configuration. Prose is taken as it stands; before each build `loss_pages` makes one page per loss from its block."""

import sys
from pathlib import Path

import polyloss

sys.path.insert(0, str(Path(__file__).parent))
import loss_pages

project = "polyloss"
release = polyloss.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
html_theme = "pydata_sphinx_theme"
html_title = "polyloss"
html_static_path = ["_static"]
html_css_files = ["polyloss.css"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "footer_end": []}
html_sidebars = {"index": []}


def setup(app):
    """Hook the making of pages into the build."""
    app.connect("builder-inited", lambda app: loss_pages.write(Path(app.srcdir) / "losses"))
