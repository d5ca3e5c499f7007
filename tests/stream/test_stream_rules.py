"""Rules: what is an event, told by cases that a person can count."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import CallbackSink, FakeCamera, Frame, JsonLinesSink, Output, run
from edgecv_runtime.stream.rules import OnRules, Rule, Watch, _contains, things
from edgecv_runtime.stream.sources.fake import Frames
from edgecv_runtime.tasks.classification import Classification
from edgecv_runtime.tasks.detections import Detections
from edgecv_runtime.tasks.segmentation import Segmentation

LABELS = ("person", "car", "it's")


def output(result, at_s=0.0, *, live=True, source="cam"):
    image = np.zeros((100, 200, 3), np.uint8)
    return Output(Frame(image, round(at_s * 1e9), 0, at_s, source, None, 1, live), result, 1.0, at_s, "test")


def boxes(*rows):
    """Detections of (label, score, left, top, right, bottom)."""
    return Detections(
        np.array([row[2:] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([LABELS.index(row[0]) for row in rows], np.int64),
        LABELS,
    )


PERSON = ("person", 0.75, 10, 20, 30, 60)


def fired(text, *results, step_s=0.1, rule=None):
    """Numbers of the results that are events."""
    watch = Watch([rule or Rule.parse(text)])
    return [number for number, each in enumerate(results) if watch.look(output(each, number * step_s))]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("label == 'person' and score > 0.6", True),
        ("label == 'person' and score > 0.75", False),
        ("label == 'person' and score >= 0.75", True),
        ("label != 'person'", False),
        ("label in ['car', 'person']", True),
        ("not label in ['car'] and not score < .5", True),
        ("label == 'car' or score > 0.7 and width == 20", True),
        ("(label == 'car' or score > 0.7) and width == 21", False),
        ("height == 40 and area == 8e2 and x == 20 and y == 40", True),
        ("source == 'cam' and index == 0", True),
        ('source == "other" or label == "it\'s"', False),
        ("score > -1", True),
    ],
)
def test_conditions_on_a_box(condition, holds):
    assert fired(condition, boxes(PERSON)) == ([0] if holds else [])


def test_each_box_is_asked_for_itself():
    both = boxes(("person", 0.3, 0, 0, 9, 9), ("car", 0.9, 0, 0, 9, 9))
    assert fired("label == 'person' and score > 0.6", both) == []
    assert fired("label == 'person' or score > 0.6", both) == [0]
    assert fired("score > 0", boxes()) == []


def test_labels_and_masks():
    label = Classification(np.array([0.2, 0.7, 0.1], np.float32), LABELS)
    assert fired("label == 'car' and score > 0.6", label) == [0]
    assert fired("label == 'person'", label) == []  # it is among the scores, and does not hold
    several = Classification(np.array([0.6, 0.7, 0.1], np.float32), LABELS, (0.5, 0.5, 0.5))
    assert fired("label == 'person'", several) == [0]
    mask = np.zeros((100, 200), np.uint8)
    mask[:, 150:] = 1
    segmented = Segmentation(mask, LABELS)
    assert fired("label == 'car' and share > 0.24 and share < 0.26", segmented) == [0]
    assert fired("label == 'car' and area == 5000", segmented) == [0]
    assert fired("label == 'car' and share > 0.95 inside [(151, 0), (199, 0), (199, 99), (151, 99)]", segmented) == [0]
    assert fired("label == 'car' inside [(0, 0), (100, 0), (100, 99)]", segmented) == []
    with pytest.raises(BadInput, match="this model's results have no 'score'"):
        fired("score > 0.5", segmented)
    with pytest.raises(BadInput, match="a region is for boxes and masks"):
        fired("score > 0.1 inside [(0, 0), (9, 0), (9, 9)]", label)


def test_a_box_is_inside_where_it_stands():
    text = "label == 'person' inside [(0, 50), (40, 50), (40, 70), (0, 70)]"
    assert fired(text, boxes(PERSON)) == [0]  # the middle of its lower edge, (20, 60)
    assert fired(text, boxes(("person", 0.75, 10, 0, 30, 40))) == []


corner = st.tuples(st.integers(0, 40), st.integers(0, 40))


@given(st.lists(corner, min_size=3, max_size=7, unique=True), st.integers(0, 39), st.integers(0, 39))
def test_points_in_polygons_are_those_of_opencv(polygon, x, y):
    """Between the grid's points, so that none lies on an edge of it by rounding; simple polygons only."""
    hull = cv2.convexHull(np.array(polygon, np.float32))[:, 0]
    distance = cv2.pointPolygonTest(hull.reshape(-1, 1, 2), (x + 0.37, y + 0.41), True)
    if len(hull) >= 3 and abs(distance) > 1e-3:
        assert _contains([tuple(map(float, each)) for each in hull], (x + 0.37, y + 0.41)) == (distance > 0)


def test_one_stay_is_one_event():
    there, gone = boxes(PERSON), boxes()
    assert fired("label == 'person'", *[there] * 20) == [0]
    assert fired("label == 'person'", *[there] * 3, *[gone] * 10, *[there] * 3) == [0, 13]
    assert fired("label == 'person'", *[there] * 3, *[gone] * 4, *[there] * 3) == [0]  # 0.5 s: a detector's gap


def test_dwell_and_cool_down():
    there, gone = boxes(PERSON), boxes()
    assert fired("label == 'person' for 1 s", *[there] * 30) == [10]
    assert fired("label == 'person' for 1 s", *[there] * 8, *[gone] * 8, *[there] * 12) == [26]
    assert fired("label == 'person' for 1 s", *[there, gone] * 15) == [10]  # found in every second frame
    visits = [there, *[gone] * 9] * 6  # one each second
    assert fired("label == 'person'", *visits) == [0, 10, 20, 30, 40, 50]
    assert fired("label == 'person' cooldown 2.5 s", *visits) == [0, 30]
    assert fired("label == 'person' cooldown 1 min for 0.5 s", *[there] * 20, *[gone] * 10, *[there] * 20) == [5]


def test_sources_do_not_disturb_each_other():
    watch = Watch([Rule.parse("label == 'person' for 0.2 s"), Rule.parse("score > 0.9")])
    seen = [
        (name, number)
        for number in range(5)
        for name in "ab"
        for _ in watch.look(output(boxes(PERSON) if name == "a" or number > 1 else boxes(), number / 10, source=name))
    ]
    assert seen == [("a", 2), ("b", 4)]


def test_a_recording_has_its_own_time():
    """A file is read faster than it plays: seconds are those of its frames."""
    watch = Watch([Rule("label == 'person'", dwell_s=1.0)])
    frames = [output(boxes(PERSON), number / 10, live=False) for number in range(30)]
    for frame in frames:
        object.__setattr__(frame.frame, "captured_ns", 0)
    assert [number for number, frame in enumerate(frames) if watch.look(frame)] == [10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lable == 'person'", r"character 1: 'lable' cannot stand here; did you mean 'label'"),
        ("label = 'person'", r"character 7: '=' cannot stand here; expected ==, !="),
        ("label == person", r"character 10: 'person' cannot stand here; expected a text in quotes"),
        ("label > 'person'", r"'>' cannot stand here; expected ==, !="),
        ("score > 'high'", r"expected a number"),
        ("score > 0.5 and", r"character 16: expected label"),
        ("(score > 0.5", r"expected \)"),
        ("score > 0.5 score", r"'score' cannot stand here; known: for, cooldown, inside"),
        ("score > 0.5 for 2", r"expected ms, s, min, h"),
        ("score > 0.5 for 2 s for 3 s", r"'for' stands there twice"),
        ("score > 0.5 inside [(0, 0), (1, 1)]", r"three corners at least, got 2"),
        ("score > 0.5 inside [(0, 0), (1, 1), (3, 3)]", r"pixels, and not all on one line"),
        ("score > 0.5 inside [(4, 2), (4, 2), (4, 2)]", r"pixels, and not all on one line"),
        ("score > 0.5 inside [(0, 0), (1e999, 0), (9, 9)]", r"pixels, and not all on one line"),
        ("score > 0.5 inside [(0, 0), (1e10, 0), (9, 9)]", r"pixels, and not all on one line"),
        ("__import__('os')", r"'__import__' cannot stand here"),
        ("score.__class__ == 1", r"expected a name"),
        ("", r"character 1: expected label"),
        ("score > 1e999 for 1e999 s", r"seconds from 0 on"),
    ],
)
def test_what_is_no_rule_is_told_with_its_place(text, message):
    with pytest.raises(BadInput, match=message):
        Rule.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_bad_input(text):
    try:
        Rule.parse(text)
    except BadInput as exc:
        assert "rule '" in str(exc)


def test_a_rule_is_checked_against_the_model():
    Rule.parse("label in ['car', \"it's\"] and score > 0.5").check("detection", LABELS)
    with pytest.raises(BadInput, match="the model has no label 'persn'; did you mean 'person'"):
        Rule("label == 'persn'").check("detection", LABELS)
    with pytest.raises(BadInput, match="segmentation has no 'score'"):
        Rule("score > 0.5").check("segmentation", LABELS)


def test_a_sink_gets_events_and_not_every_frame(tmp_path):
    seen = []
    results = iter([*[boxes(PERSON)] * 3, *[boxes()] * 17])
    sinks = [
        OnRules(JsonLinesSink(tmp_path / "o.jsonl"), [Rule("label == 'person'", name="somebody")]),
        CallbackSink(lambda frame, _: seen.append(frame.index)),
    ]
    report = run(lambda _: next(results), FakeCamera([Frames(20)]), sinks)
    assert [sink.delivered for sink in report.sinks] == [20, 20]
    assert len(seen) == 20
    (line,) = (tmp_path / "o.jsonl").read_text().splitlines()
    (event,) = json.loads(line)["events"]
    found = event["found"]
    assert event == {"rule": "somebody", "held_s": 0, "found": found}
    assert found == list(things(output(boxes(PERSON), source="fake")))


def test_a_sink_that_hangs_misses_no_event_for_the_frames_between():
    """Rules look at every result before the queue of eight, which frames that are no events do not fill."""
    free, got = threading.Event(), []

    def write(frame, _):
        got.append(frame.index)
        assert free.wait(10)

    results = iter([*[boxes(PERSON)] * 2, *[boxes()] * 150, boxes(PERSON), *[boxes()] * 50])

    def model(_):
        result = next(results)
        if next(count) == 160:
            free.set()
        return result

    count = itertools.count()
    report = run(model, FakeCamera([Frames(203)], fps=200), [OnRules(CallbackSink(write), [Rule("score > 0")])])
    if report.sources[0].dropped:  # a machine that is too slow for the camera proves nothing of the sink
        assert report.sinks[0].delivered == report.sources[0].inferred
    else:
        assert (report.sinks[0].dropped, got) == ({}, [0, 152])


def test_a_rule_that_the_results_cannot_answer_is_an_error_of_the_sink(tmp_path):
    sink = OnRules(JsonLinesSink(tmp_path / "o.jsonl"), [Rule("share > 0.5")])
    report = run(lambda _: boxes(PERSON), FakeCamera([Frames(3)]), [sink])
    assert report.sinks[0].failed == 3
    assert "this model's results have no 'share'" in report.sinks[0].error
    assert report.exit_code == 4


@pytest.mark.parametrize("fps", [10, 2, 1.9, 1, 0.5, 0.1])
def test_somebody_who_stays_is_one_event_at_any_rate(fps):
    seen = [boxes(PERSON)] * round(60 * fps)
    assert len(fired("score > 0.5", *seen, step_s=1 / fps)) == 1
    assert len(fired("score > 0.5 for 2 s", *seen, step_s=1 / fps)) == 1
    gone = [*seen, boxes(), *seen]
    assert len(fired("score > 0.5", *gone, step_s=1 / fps)) == (1 if fps == 10 else 2)  # at 10 it is a flicker


def test_another_connection_is_another_stay():
    watch = Watch([Rule.parse("score > 0.5")])
    first = output(boxes(PERSON), 0.0)
    again = replace(first, frame=replace(output(boxes(PERSON), 0.1).frame, connection=2))
    assert [len(watch.look(each)) for each in (first, output(boxes(PERSON), 0.1), again)] == [1, 0, 1]


@pytest.mark.parametrize("bottom", [99, 100])
def test_a_box_that_the_picture_s_edge_cuts_off_is_in_the_region_that_reaches_there(bottom):
    near = ("person", 0.9, 10, 20, 30, bottom)
    for corners in ([[0, 0], [200, 0], [200, 100], [0, 100]], [[0, 0], [199, 0], [199, 99], [0, 99]]):
        assert fired("", boxes(near), rule=Rule("score > 0.5", tuple(map(tuple, corners)))) == [0]


def test_a_region_is_none_of_a_classifier_s():
    rule = Rule("label == 'person'", ((0, 0), (9, 0), (9, 9)))
    rule.check("detection", LABELS)
    with pytest.raises(BadInput, match="a region is for boxes and masks"):
        rule.check("classification", LABELS)
