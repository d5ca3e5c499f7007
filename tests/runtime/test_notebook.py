"""What a notebook shows: small tables, well-formed, every text escaped, and nothing fetched from elsewhere."""

from html.parser import HTMLParser

import numpy as np
import pytest

import edgecv_runtime as rt
from edgecv import xray
from edgecv_runtime import stream
from edgecv_runtime.notebook import Explanation

HOSTILE = "<script>alert('x')</script>&\"'"


class Shown(HTMLParser):
    """The text of a fragment, and its tags; every tag that opens closes in order."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.open = [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(tag)
        assert not {"src", "href"} & {name for name, _ in attributes}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_classification_shows_its_labels_and_shares():
    result = rt.Classification(np.array([0.1, 0.7, 0.2], np.float32), ("cat", HOSTILE, "dog"))
    shown = Shown(result._repr_html_())
    assert shown.words == [HOSTILE, "70.0%", "dog", "20.0%", "cat", "10.0%"]
    assert "script" not in shown.tags


def test_what_a_model_and_a_stream_are_is_shown(exported):
    with rt.load(exported, backend="onnxruntime") as model:
        shown = Shown(model.info._repr_html_()).words
        assert shown[shown.index("backend") + 1] == "onnxruntime"
        assert shown[shown.index("precision") + 1] == "float32"
        explained = model.explain()
        assert explained.splitlines() == Shown(explained._repr_html_()).words
        report = stream.run(model, "fake:size=64x64,5", [stream.CallbackSink(lambda frame, result: None)])
    shown = Shown(report._repr_html_()).words
    assert shown[shown.index("ended") + 2 : shown.index("ended") + 6] == ["5", "5", "0", "0"]


def test_the_layer_table_is_shown_with_its_sums():
    table = xray.table(xray.read("lenet5"))
    shown = Shown(table._repr_html_()).words
    assert f"{table.total.macs:,}" in shown
    assert f"{table.total.parameters:,}" in shown


@pytest.mark.parametrize("text", ["", HOSTILE, f"one\n{HOSTILE}\nthree"])
def test_an_explanation_is_text_and_a_list(text):
    explanation = Explanation(text)
    assert explanation == text
    assert Shown(explanation._repr_html_()).words == text.splitlines()
