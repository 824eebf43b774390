"""The pages as a site: ``make docs`` (Sphinx, MyST, Furo), with search and the API of every module."""

project = "GREAM"
author = "the authors of GREAM for LLaMA-Factory and verl"
project_copyright = "Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.napoleon", "autoapi.extension"]
root_doc = "contents"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "GREAM for LLaMA-Factory and verl"

myst_heading_anchors = 4

autoapi_dirs = ["../plugins", "../data_processing", "../eval", "../serving"]
autoapi_options = ["members", "show-inheritance"]
autoapi_root = "api"
autoapi_add_toctree_entry = False
