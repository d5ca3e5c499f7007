"""How the receptive field grows from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

from edgecv.pages import svg
from edgecv.pages.figures import plain
from edgecv.xray.fields import Field, receptive_fields
from edgecv.xray.pictures.subject import Absent, Drawing, Picture, Subject

_BETWEEN = ("matmul", "softmax", "attention")  # what they give lies between two places each


def growth(subject: Subject) -> list[tuple[int, Field]]:
    """Number of each layer, from 1, and its receptive field; layers without places of their own are left out.

    So are layers on a shorter branch, which see less than one before them, and attention scores, which belong to pairs
    of places.
    """
    fields = receptive_fields(subject.graph)
    found = ((number, fields.get(layer.outputs[0])) for number, layer in enumerate(subject.graph.layers, 1))
    growing: list[tuple[int, Field]] = []
    for number, field in found:
        if field is None or not max(field.jump) or subject.graph.layers[number - 1].kind in _BETWEEN:
            continue
        if not growing or min(now - before for now, before in zip(field.size, growing[-1][1].size, strict=True)) >= 0:
            growing.append((number, field))
    return growing


def draw(subject: Subject) -> Picture:
    """Size of the field against depth, with the size of the input and the strides."""
    points = growth(subject)
    if not points:
        return Absent("no layer has places: there is no receptive field to grow")
    figure, (axis,) = svg.panels(2.9)
    numbers = [number for number, _ in points]
    names = ("height", "width") if len(points[0][1].size) == 2 else ("length",)
    lines = [[field.size[index] for _, field in points] for index in range(len(names))]
    same = all(line == lines[0] for line in lines)
    for name, line, shade in zip(names, lines, (svg.BLUE, svg.ORANGE), strict=False):
        if line is lines[0] or not same:
            axis.step(numbers, line, where="post", color=shade, linewidth=1.6, label="_" if same else name)
    _strides(axis, points)
    for index, length in enumerate(sorted(set(subject.size))):
        axis.axhline(length, color=svg.MUTED, linewidth=1, linestyle=(0, (3, 2)))
        if index == 0:
            axis.annotate(
                "the input's side", (1, length), (0, 3), axis.get_yaxis_transform(), "offset points", ha="right",
                color=svg.MUTED, fontsize=8.5,
            )  # fmt: skip
    whole = next((number for number, field in points if field.whole), None)
    if whole is not None:
        axis.axvline(whole, color=svg.PURPLE, linewidth=1, linestyle=(0, (1, 2)), label="global paths begin")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.set_xlabel("layer, from input to output")
    axis.set_ylabel("receptive field, pixels")
    axis.grid()
    plain(axis.xaxis)
    plain(axis.yaxis)
    if not same or whole is not None:
        axis.legend(loc="upper left")
    return Drawing(figure, _caption(points, whole))


def _strides(axis: object, points: Sequence[tuple[int, Field]]) -> None:
    """A dot wherever neighbouring places come to lie further apart."""
    before = 1.0
    for number, field in points:
        if field.jump[-1] != before:
            axis.plot(number, field.size[-1], "o", color=svg.INK, markersize=3.5)  # type: ignore[attr-defined]
            before = field.jump[-1]


def _caption(points: Sequence[tuple[int, Field]], whole: int | None) -> str:
    last = points[-1][1]
    size = "×".join(f"{each:g}" for each in dict.fromkeys(last.size))
    text = (
        f"How many pixels of the input a place of each layer can see through its windows, {size} in the end. Dots mark "
        "strides: after each, kernels reach further. Above the dashed line a place sees past the picture's borders."
    )
    if whole is not None:
        text += " Attention or a gate that sees the whole picture comes on top of the windows from the dotted line on."
    return text
