"""The pictures of an X-ray: what a network sees, how it learns, and what it makes of a photograph."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgecv.pages import svg
from edgecv.pages.figures import Plot
from edgecv.xray.pictures import attention, features, field, gradients, growth, kernels, spectrum
from edgecv.xray.pictures.subject import Absent, Photo, Picture, Subject

__all__ = ["PICTURES", "Missing", "Photo", "Subject", "draw"]

PICTURES: dict[str, Callable[[Subject], Picture]] = {
    "Receptive field by depth": growth.draw,
    "Theoretical and effective receptive field": field.draw,
    "First kernels": kernels.draw,
    "Feature maps": features.draw,
    "Attention distance": attention.draw,
    "Gradient norm by depth": gradients.draw,
    "Spectrum after enlarging": spectrum.draw,
}


class Missing(NamedTuple):
    """A picture that is not there, and why."""

    title: str
    why: str


def draw(subject: Subject, say: Callable[[str], None] = lambda _: None) -> tuple[list[Plot], list[Missing]]:
    """Every picture that the subject allows, and why the others are missing; `say` hears of each before it is made."""
    plots, missing = [], []
    with svg.style():
        for place, (title, make) in enumerate(PICTURES.items()):
            say(f"picture: {title.lower()}")
            picture = make(subject)
            if isinstance(picture, Absent):
                missing.append(Missing(title, picture.why))
                continue
            figure = picture.figure
            drawing = svg.render(figure, f"picture-{place}", title)
            plots.append(Plot(place, figure.get_figheight(), title, drawing, picture.caption))
    return plots, missing
