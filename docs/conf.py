"""Settings of the documentation site; `make -C docs html` builds it."""

import importlib
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "cogen"
author = "The cogen developers"
copyright = author
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "sphinx_copybutton"]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
html_theme = "furo"
html_title = f"cogen {version}"

# The pages are Markdown that a forge shows too: links between headings use the anchors that a forge makes.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Types come from the annotations, texts from the `:param` fields.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "kernel_type,settings_type"}
autodoc_preserve_defaults = True
autoclass_content = "both"
python_use_unqualified_type_names = True
default_role = "py:obj"

# A link that leads nowhere is an error. Exempt are Python names: annotations name types of other libraries and private ones.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]

PUBLIC = {name for wing in ("models", "inference", "diagnostics") for name in importlib.import_module(f"cogen.{wing}").__all__}


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings write shapes as (batch, *event) and norms as |x|, where both marks would open something; and single backticks
    around every name, of which the public ones become links."""

    def written(found):
        quoted = found[1]
        if quoted is None:
            return f"\\{found[0]}"
        inner = quoted.strip("`")
        is_link = not quoted.startswith("``") and inner.rpartition(".")[2] in PUBLIC
        return f"`{inner}`" if is_link else f"``{inner}``"

    literal = False
    for k, line in enumerate(lines):
        if literal and (not line or line.startswith("    ")):
            continue
        literal = line.endswith("::")
        if not line.lstrip().startswith((">>>", "...")):
            lines[k] = re.sub(r"(`+[^`]+`+)|(?<!\*)\*(?=\w)|\|", written, line)


def setup(app):
    app.connect("autodoc-process-docstring", as_restructured_text)
