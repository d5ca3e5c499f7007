"""Rules that say when a result is an event: data, read by a grammar of its own and never evaluated as code.

    label == 'person' and score > 0.6 inside [(0, 0), (640, 0), (640, 360)] for 2 s cooldown 30 s

A detector misses an object in one frame of ten, and finds it ten times a second: so a stay survives short gaps, makes
one event, and the next one waits for its cool-down.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.records import Record
from edgecv_runtime.stream.sinks.around import Around
from edgecv_runtime.stream.sinks.base import Happening, Output, Sink

Facts = Mapping[str, "str | float"]
Point = tuple[float, float]

_FLICKER_S = 0.5  # a gap that does not end a stay
_FARTHEST = 1e6  # pixels; OpenCV fills what is larger somewhere else
_TEXTS = ("label", "source")
# What can be asked of one thing that was found: a label, a box, a class of a mask.
NAMES: dict[str, tuple[str, ...]] = {
    "classification": ("label", "source", "score", "index"),
    "detection": ("label", "source", "score", "index", "x", "y", "width", "height", "area"),
    "segmentation": ("label", "source", "index", "share", "area"),
}
_ALL_NAMES = tuple(dict.fromkeys(name for names in NAMES.values() for name in names))
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign>==|!=|<=|>=|[<>=()\[\],]))"
)


@dataclass(frozen=True)
class Compare:
    """`name operator value`, or `name in [values]`."""

    name: str
    sign: str
    value: str | float | tuple[str | float, ...]

    def holds(self, facts: Facts) -> bool:
        """Whether it is so for one thing that was found; raises BadInput where that has no such name."""
        if self.name not in facts:
            raise BadInput(f"this model's results have no '{self.name}'{nearest(self.name, facts)}")
        if self.sign == "in":
            return facts[self.name] in self.value  # type: ignore[operator]  # a tuple there
        return _OPERATORS[self.sign](facts[self.name], self.value)

    def compares(self) -> Iterator[Compare]:
        """Itself."""
        yield self


@dataclass(frozen=True)
class Junction:
    """`and`, `or` of all parts, or `not` of the only one."""

    word: str
    parts: tuple[Condition, ...]

    def holds(self, facts: Facts) -> bool:
        """Whether it is so for one thing that was found."""
        if self.word == "not":
            return not self.parts[0].holds(facts)
        return (all if self.word == "and" else any)(part.holds(facts) for part in self.parts)

    def compares(self) -> Iterator[Compare]:
        """The comparisons in it."""
        for part in self.parts:
            yield from part.compares()


Condition = Compare | Junction


class Rule(Record, frozen=True):
    """When a result is an event.

    when: a condition on one thing that was found. inside: corners of a polygon in pixels of the source; of a box the
    middle of its lower edge counts, where an object stands, of a mask the pixels inside. dwell_s: how long it must
    hold. cooldown_s: least time between two events of one source. name: in events, by default the condition.
    """

    when: str
    inside: tuple[Point, ...] | None = None
    dwell_s: float = 0.0
    cooldown_s: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        _Parser(self.when).condition_only()
        if self.inside is not None and len(self.inside) < 3:
            raise BadInput(f"rule '{self.when}': a region has three corners at least, got {len(self.inside)}")
        if self.inside is not None and not _encloses(self.inside):
            raise BadInput(f"rule '{self.when}': a region's corners are pixels, and not all on one line")
        if not (0 <= self.dwell_s < float("inf") and 0 <= self.cooldown_s < float("inf")):
            raise BadInput(f"rule '{self.when}': dwell_s and cooldown_s are seconds from 0 on")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `CONDITION [inside [(x, y), ...]] [for TIME] [cooldown TIME]`; raises BadInput that shows the place."""
        return _Parser(text).rule()

    @property
    def condition(self) -> Condition:
        """The condition, parsed."""
        return _Parser(self.when).condition_only()

    def check(self, task: str, labels: Sequence[str]) -> None:
        """Refuse what this model can never find; raises BadInput with the nearest name."""
        if self.inside is not None and task == "classification":
            raise BadInput(f"rule '{self.when}': a region is for boxes and masks; a label is of the whole frame")
        for compare in self.condition.compares():
            names = NAMES.get(task, _ALL_NAMES)
            if compare.name not in names:
                raise BadInput(f"rule '{self.when}': {task} has no '{compare.name}'{nearest(compare.name, names)}")
            wanted = compare.value if isinstance(compare.value, tuple) else (compare.value,)
            for label in wanted if compare.name == "label" else ():
                if label not in labels:
                    raise BadInput(f"rule '{self.when}': the model has no label '{label}'{nearest(str(label), labels)}")


class _Stay(NamedTuple):
    """How long a rule has held for a source: since, until (seconds of that source), and whether it made its event.

    connection: of the source, whose next one shows another time.
    """

    since_s: float
    until_s: float
    is_told: bool
    connection: int


class Watch:
    """Rules, and what of them holds at the moment for each source."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [(rule, rule.condition) for rule in rules]
        self._stays: dict[tuple[int, str], _Stay] = {}
        self._last_s: dict[tuple[int, str], float] = {}
        self._looked_s: dict[str, float] = {}  # at each source, lately

    def look(self, output: Output) -> tuple[Happening, ...]:
        """The events that this result completes, none for most; raises BadInput as `Compare.holds` does."""
        frame = output.frame
        now_s = frame.captured_ns / 1e9 if frame.live or frame.pts_s is None else frame.pts_s
        happenings = []
        before_s = self._looked_s.get(frame.source)
        self._looked_s[frame.source] = now_s
        seen: dict[tuple[Point, ...] | None, list[dict[str, str | float]]] = {}  # counting a mask takes milliseconds
        for number, (rule, condition) in enumerate(self._rules):
            key = number, frame.source
            if rule.inside not in seen:
                seen[rule.inside] = list(things(output, rule.inside))
            found = [facts for facts in seen[rule.inside] if condition.holds(facts)]
            stay = self._stays.get(key)
            if stay is not None and self._is_over(stay, rule, frame.connection, before_s, now_s):
                del self._stays[key]
                stay = None
            if not found:
                continue
            stay = _Stay(now_s, now_s, False, frame.connection) if stay is None else stay._replace(until_s=now_s)
            last_s = self._last_s.get(key)
            is_cool = last_s is None or not 0 <= now_s - last_s < rule.cooldown_s
            if not stay.is_told and now_s - stay.since_s >= rule.dwell_s and is_cool:
                stay = stay._replace(is_told=True)
                self._last_s[key] = now_s
                happenings.append(Happening(rule.name or rule.when, round(now_s - stay.since_s, 3), tuple(found)))
            self._stays[key] = stay
        return tuple(happenings)

    @staticmethod
    def _is_over(stay: _Stay, rule: Rule, connection: int, before_s: float | None, now_s: float) -> bool:
        """Whether it was missed for longer than a flicker; frames that come seldom miss nothing between two of them."""
        if connection != stay.connection or now_s - stay.until_s < -_FLICKER_S:
            return True
        return before_s != stay.until_s and now_s - stay.until_s > max(_FLICKER_S, rule.dwell_s / 10)


class OnRules(Around):
    """A sink around a sink, which gets the events of rules and not every frame."""

    def __init__(self, sink: Sink, rules: Iterable[Rule]) -> None:
        super().__init__(sink)
        self._watch = Watch(rules)

    def select(self, output: Output) -> Output | None:
        """The result with the events that it completes, None for most; raises BadInput as `Compare.holds` does."""
        selected = super().select(output)
        happenings = self._watch.look(output) if selected is not None else ()
        return replace(output, happenings=happenings) if happenings else None


def things(output: Output, inside: tuple[Point, ...] | None = None) -> Iterator[dict[str, str | float]]:
    """What was found in a frame, one by one, by the names of NAMES; inside: only what lies in this polygon.

    Of a classification its labels that hold; of a detector its boxes (x, y: their middle); of a segmenter its classes.
    """
    source = output.frame.source
    result: Any = output.result  # by what it has, so that own models may give the same
    if hasattr(result, "xyxy"):
        for kind, score, box in zip(result.class_id, result.confidence, result.xyxy, strict=True):
            left, top, right, bottom = map(float, box)
            lowest = min(bottom, output.frame.image.shape[0] - 1)  # of one that is cut off by the picture's edge
            if inside is None or _contains(inside, ((left + right) / 2, lowest)):
                width, height = right - left, bottom - top
                yield {
                    **{"label": result.labels[int(kind)], "source": source, "score": float(score), "index": int(kind)},
                    **{"x": (left + right) / 2, "y": (top + bottom) / 2},
                    **{"width": width, "height": height, "area": width * height},
                }
    elif hasattr(result, "mask"):
        seen = result.mask if inside is None else result.mask[_filled(inside, result.mask.shape)]
        counts = np.bincount(seen.ravel(), minlength=len(result.labels))[: len(result.labels)]
        for index in np.flatnonzero(counts):
            area = int(counts[index])
            share = area / max(1, int(counts.sum()))
            yield {
                **{"label": result.labels[index], "source": source, "index": int(index)},
                **{"share": share, "area": area},
            }
    elif hasattr(result, "present"):
        if inside is not None:
            raise BadInput("a region is for boxes and masks; a label is of the whole frame")
        for guess in result.present:
            yield {"label": guess.label, "source": source, "score": guess.score, "index": guess.index}
    else:
        raise BadInput(f"rules are for labels, boxes and masks; this model gives {type(result).__name__}")


def _encloses(polygon: Sequence[Point]) -> bool:
    """Whether corners are places of pictures, and anything can lie between them."""
    if not all(abs(side) <= _FARTHEST for point in polygon for side in point):  # nor is NaN
        return False
    (x0, y0), *others = polygon
    x1, y1 = next((point for point in others if point != (x0, y0)), (x0, y0))
    return any((x1 - x0) * (y - y0) != (y1 - y0) * (x - x0) for x, y in others)


def _contains(polygon: Sequence[Point], point: Point) -> bool:
    """Whether a point lies in a polygon, by the even-odd rule, or on its edge."""
    x, y = point
    is_inside = False
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        on_line = (x - x0) * (y1 - y0) == (y - y0) * (x1 - x0)
        if on_line and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
            return True
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            is_inside = not is_inside
    return is_inside


@lru_cache(maxsize=64)
def _filled(polygon: tuple[Point, ...], shape: tuple[int, ...]) -> Any:
    """The pixels of a (H, W) mask in a polygon -> (H, W) bool."""
    import cv2

    drawn = np.zeros(shape, np.uint8)
    cv2.fillPoly(drawn, [np.rint(np.array(polygon)).astype(np.int32)], 1)
    return drawn.astype(bool)


class _Parser:
    """Recursive descent over the tokens of one rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []  # (kind, token, place)
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                at += len(text) - at - len(text[at:].lstrip())
                raise self._wrong("expected a name, a number or a text in quotes", at)
            self._tokens.append((str(found.lastgroup), found[str(found.lastgroup)], found.start(str(found.lastgroup))))
            at = found.end()
        self._at = 0

    def rule(self) -> Rule:
        """The whole text as a rule."""
        condition_end = self._end_of_condition()
        inside: tuple[Point, ...] | None = None
        times = {"for": 0.0, "cooldown": 0.0}
        seen: set[str] = set()
        while self._at < len(self._tokens):
            word = self._take("word", *times, "inside")
            if word in seen:
                raise self._wrong(f"'{word}' stands there twice", self._tokens[self._at - 1][2])
            seen.add(word)
            if word == "inside":
                inside = self._polygon()
            else:
                number = float(self._take("number"))
                times[word] = number * _UNITS[self._take("word", *_UNITS)]
        return Rule(self._text[:condition_end].strip(), inside, times["for"], times["cooldown"])

    def condition_only(self) -> Condition:
        """The whole text as a condition."""
        condition = self._either()
        if self._at < len(self._tokens):
            raise self._wrong("expected 'and', 'or' or the end", self._tokens[self._at][2])
        return condition

    def _end_of_condition(self) -> int:
        self._either()
        return self._tokens[self._at][2] if self._at < len(self._tokens) else len(self._text)

    def _either(self) -> Condition:
        return self._joined("or", self._both)

    def _both(self) -> Condition:
        return self._joined("and", self._not)

    def _joined(self, word: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self._skip(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Junction(word, tuple(parts))

    def _not(self) -> Condition:
        if self._skip("not"):
            return Junction("not", (self._not(),))
        if self._skip("("):
            inner = self._either()
            self._take("sign", ")")
            return inner
        name = self._take("word", *_ALL_NAMES)
        if self._skip("in"):
            self._take("sign", "[")
            values = [self._value(name)]
            while self._skip(","):
                values.append(self._value(name))
            self._take("sign", "]")
            return Compare(name, "in", tuple(values))
        sign = self._take("sign", *(("==", "!=") if name in _TEXTS else _OPERATORS))
        return Compare(name, sign, self._value(name))

    def _value(self, name: str) -> str | float:
        return self._take("text")[1:-1] if name in _TEXTS else float(self._take("number"))

    def _polygon(self) -> tuple[Point, ...]:
        self._take("sign", "[")
        corners = [self._corner()]
        while self._skip(","):
            corners.append(self._corner())
        self._take("sign", "]")
        return tuple(corners)

    def _corner(self) -> Point:
        self._take("sign", "(")
        x = float(self._take("number"))
        self._take("sign", ",")
        y = float(self._take("number"))
        self._take("sign", ")")
        return x, y

    def _skip(self, token: str) -> bool:
        is_there = self._at < len(self._tokens) and self._tokens[self._at][1] == token
        self._at += is_there
        return is_there

    def _take(self, kind: str, *choices: str) -> str:
        """The next token, which must be of a kind, and one of the choices where there are any."""
        got, token, place = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "", len(self._text))
        if got != kind or (choices and token not in choices):
            wanted = ", ".join(choices) or {"text": "a text in quotes", "number": "a number"}[kind]
            near = nearest(token, choices) if got == kind == "word" else f"; expected {wanted}"
            raise self._wrong(f"'{token}' cannot stand here{near}" if token else f"expected {wanted}", place)
        self._at += 1
        return token

    def _wrong(self, reason: str, at: int) -> BadInput:
        return BadInput(f"rule '{self._text}', character {at + 1}: {reason}")
