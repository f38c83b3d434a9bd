"""One way to make a page: a template of this folder, the house style in it, everything that is put in escaped."""

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """A page as HTML.

    Args:
        template: File of this folder that extends base.html.
        values: What it shows; a name that it uses and does not get is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **values)
