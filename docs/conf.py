"""Sphinx builds the pages of this folder as a site: `make docs`."""

from carryover import __version__

project = "Carryover"
release = version = __version__
html_title = f"Carryover {release}"
html_theme = "furo"
extensions = ["myst_parser"]
# Links such as api.md#routes work here as on a page that shows the files.
myst_heading_anchors = 3
