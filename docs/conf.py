"""Sphinx's configuration. Before each build the losses' pages are made from their blocks, and the page on accuracy by measuring."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")  # before anything imports JAX: its arrays of float64 are in the tables, too
os.environ.setdefault("KERAS_BACKEND", "jax")

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import polyloss

sys.path.insert(0, str(Path(__file__).parent))
import accuracy
import loss_pages

project = "polyloss"
release = polyloss.__version__
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "matplotlib.sphinxext.plot_directive", "sphinx_copybutton",
]  # fmt: skip
exclude_patterns = ["_build"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
html_math_renderer = "mathml"
myst_heading_anchors = 3
numpydoc_show_class_members = False
plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_apply_rcparams = True
plot_rcparams = {"svg.hashsalt": "polyloss", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
html_theme = "pydata_sphinx_theme"
html_title = "polyloss"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["polyloss.css"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "footer_end": []}
# Only the losses have neighbours to list.
html_sidebars = {page: [] for page in ("losses/accuracy", *(path.stem for path in Path(__file__).parent.glob("*.md")))}


def setup(app):
    """Hook the making of pages into the build, and formulas as MathML, which browsers show without a script from another server."""
    app.connect("builder-inited", lambda app: made(Path(app.srcdir) / "losses"))
    app.add_html_math_renderer("mathml", (math, None), (math, None))


def math(writer, node):
    """Write a formula, or a paragraph of one."""
    writer.body.append(tex2mathml(node.astext(), as_block=node.tagname == "math_block"))
    raise SkipNode


def made(folder):
    """Make the losses' pages and the page on accuracy."""
    loss_pages.write(folder)
    accuracy.write(folder / "accuracy.md")
