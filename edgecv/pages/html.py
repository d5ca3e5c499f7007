"""Fill a page's template: one environment, so that every page escapes, links and looks alike."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edgecv_runtime import __version__


def render(template: Path, **values: Any) -> str:
    """Fill a template that extends `base.html.j2`; it also gets `version` and `written`, the time.

    Text is escaped; a name without a value is an error. The filter `safe_svg` lets a drawing of `svg.render` through.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_svg"] = Markup  # matplotlib has escaped the text in it
    written = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(template.name).render(version=__version__, written=written, **values)
