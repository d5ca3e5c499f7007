"""Many cameras from one file: typos are named, and a reload touches only what changed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from stream_lab import brightness, until

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import CallbackSink, FakeCamera, Settings, Stream, run
from edgecv_runtime.stream.config import Followed, Setup, read
from edgecv_runtime.stream.rules import OnRules, Rule
from edgecv_runtime.stream.sinks.around import Only
from edgecv_runtime.stream.sources.fake import Frames

WHOLE = """
credentials: logins
segment: [10 min]
sinks:
  - all.jsonl
  - to: mqtt://broker/house
    rules:
      - label == 'person' and score > 0.6 for 2 s cooldown 1 min
cameras:
  - name: yard
    url: rtsp://10.0.0.2/cam
    rate: 5
    when_late: drop-newest
    sinks: ["yard-{time}.mp4"]
    rules:
      - when: label == 'car'
        inside: [[0, 0], [640, 0], [640, 360]]
        dwell_s: 1.5
        name: a car in the yard
  - url: rtsp://10.0.0.3/cam
    credentials: others
"""


def written(tmp_path, text):
    (tmp_path / "cameras.yaml").write_text(text)
    (tmp_path / "logins").write_text("* admin:c4nary's 7\nbroker admin:c4nary's 7\n")
    (tmp_path / "others").write_text("10.0.0.3 root:c4nary-8\n")
    return tmp_path / "cameras.yaml"


def test_a_whole_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read(written(tmp_path, WHOLE))
    setup = Setup(config, tmp_path)
    yard, other = config.cameras
    assert setup.url(yard) == "rtsp://admin:c4nary%27s%207@10.0.0.2/cam"
    assert setup.url(other) == "rtsp://root:c4nary-8@10.0.0.3/cam"
    assert setup.source(yard).name == "yard"
    assert setup.source(other).name == "rtsp://root:***@10.0.0.3/cam"
    lines, broker, video = setup.sinks()
    assert lines.name == "all.jsonl"
    assert isinstance(broker, OnRules)
    assert broker.name == "mqtt://admin:***@broker/house"
    assert isinstance(video, Only)
    assert [rule.when for rule in setup.rules()] == ["label == 'person' and score > 0.6", "label == 'car'"]
    assert setup.rules()[1] == Rule(
        "label == 'car'", ((0, 0), (640, 0), (640, 360)), dwell_s=1.5, name="a car in the yard"
    )
    broker.close()


def test_the_file_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    (tmp_path / "cameras.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    config = read(tmp_path / "cameras.yaml")
    assert [camera.name for camera in config.cameras] == ["yard", "gate"]
    for line in page.partition("```text\n")[2].partition("```")[0].splitlines():
        Rule.parse(line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cameras:", "camera:"), r"cameras.yaml: unknown key 'camera'; did you mean 'cameras'"),
        (("    rate: 5", "    ratee: 5"), r"unknown key 'cameras\[0\].ratee'; did you mean 'rate'"),
        (("drop-newest", "drop-new"), r"when_late.*expected auto, drop-oldest, drop-newest, wait"),
        (("rate: 5", "rate: 0"), r"rate must be positive, got 0"),
        (("dwell_s: 1.5", "dwel_s: 1.5"), r"did you mean 'dwell_s'"),
        (("label == 'car'", "lable == 'car'"), r"'lable' cannot stand here; did you mean 'label'"),
        (("for 2 s", "for 2 S"), r"rule 'label == 'person'.*expected|cannot stand here"),
        (("10 min", "10 mins"), r"'10 mins' is no limit"),
        (("  - url: rtsp://10.0.0.3", "  - name: yard\n    url: rtsp://10.0.0.3"), r"two cameras are called 'yard'"),
        (("cameras:", "cameras: ]"), r"cameras.yaml, line 9: not valid YAML"),
        ((WHOLE, "- a\n"), r"expected keys with values"),
        ((WHOLE, "cameras: []\n"), r"at least one is wanted"),
        (("sinks: [\"yard-{time}.mp4\"]", "sinks: []"), r"its rules are for sinks of its own, and it has none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, message):
    path = written(tmp_path, WHOLE.replace(*change))
    with pytest.raises(BadInput, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_errors_show_no_password(tmp_path):
    for text in (
        "cameras: [{url: 'rtsp://u:c4nary 7@h/x', rate: 0}]",
        "cameras: [{url: 'rtsp://u:c4nary 7@h/x'}, {url: 'rtsp://u:c4nary 7@h/x'}]",
        "cameras:\n  - url: rtsp://u:c4nary7@h/x\n  c4nary: : :\n",
    ):
        with pytest.raises(BadInput) as caught:
            read(written(tmp_path, text))
        assert "c4nary" not in str(caught.value)
    with pytest.raises(BadInput, match="missing: credentials cannot be read"):
        Setup(read(written(tmp_path, "credentials: missing\ncameras: [{url: 'rtsp://h/x'}]")), tmp_path)


def test_a_reload_touches_only_what_changed(tmp_path, caplog):
    caplog.set_level("INFO", "edgecv")
    first = """
cameras:
  - {name: stays, url: "fake:fps=50,size=64x48,100000"}
  - {name: goes, url: "fake:fps=50,size=64x48,100000"}
  - {name: changes, url: "fake:fps=50,size=64x48,100000"}
"""
    seen = {}
    sink = CallbackSink(lambda frame, _: seen.setdefault(frame.source, []).append((frame.index, frame.image.shape[0])))
    stream = Stream(brightness, [], [sink], Settings())
    path = written(tmp_path, first)
    followed = Followed(stream, path)
    followed.begin(Setup(read(path), tmp_path))
    stop, reports = threading.Event(), []

    def look(_):
        followed.look()

    running = threading.Thread(target=lambda: reports.append(stream.run(stop, look)))
    running.start()
    try:
        until(lambda: len(seen) == 3)
        path.write_text("cameras: [{url: 'fake:50', rat: 1}]")
        followed.ask()
        until(lambda: "not reloaded, all stays as it is" in caplog.text)
        assert "did you mean 'rate'" in caplog.text
        path.write_text("sinks: [other.jsonl]\n" + first)
        followed.ask()
        until(lambda: "sinks, their rules and the page change with a restart" in caplog.text)
        path.write_text(
            first.replace("  - {name: goes,", "  - {name: new,").replace(
                '{name: changes, url: "fake:fps=50,size=64x48', '{name: changes, url: "fake:fps=50,size=64x40'
            )
        )
        followed.ask()
        until(lambda: "new" in seen and seen["changes"][-1][1] == 40)
        assert "reloaded: 1 cameras stay, 2 end, 2 begin" in caplog.text
        time.sleep(0.3)
    finally:
        stop.set()
        running.join()
    (report,) = reports  # the ledger was checked
    connections = {source.name: source.connections for source in report.sources}
    assert connections == {"stays": 1, "goes": 1, "changes": 2, "new": 1}  # one in each of its lives
    stays = [index for index, _ in seen["stays"]]
    assert stays == sorted(stays)
    assert len(stays) > len(seen["goes"])
    indexes = [index for index, _ in seen["changes"]]
    assert indexes == sorted(set(indexes))  # it goes on, and nothing is counted twice


def test_a_rate_is_kept_and_what_is_too_much_is_counted():
    seen = []
    stream = Stream(brightness, [], [CallbackSink(lambda frame, _: seen.append(frame.captured_ns))], Settings())
    stream.add(FakeCamera([Frames(100)], fps=100, name="fast"), max_fps=10.0)
    stream.add(FakeCamera([Frames(10)], fps=10, name="slow"), max_fps=100.0)
    report = stream.run()
    fast, slow = report.sources
    assert 9 <= fast.inferred <= 12
    assert fast.read == 100
    assert fast.dropped["rate"] >= 88
    assert slow.inferred == 10
    assert report.exit_code == 0
    with pytest.raises(BadInput, match="max_fps must be positive"):
        stream.add(FakeCamera([Frames(1)]), max_fps=0.0)


def test_a_sink_of_one_camera_gets_nothing_of_others():
    got = []
    sink = Only(CallbackSink(lambda frame, _: got.append(frame.source)), "b")
    report = run(brightness, [FakeCamera([Frames(20)], name="a"), FakeCamera([Frames(5)], name="b")], [sink])
    assert got == ["b"] * 5
    assert report.sinks[0].delivered == 25  # looked at


def test_a_login_for_any_camera_goes_to_no_sink(tmp_path):
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "credentials: logins\nsinks: ['http://hooks.example.com/x']\ncameras: [{url: 'rtsp://10.0.0.2/cam'}]\n"
    )
    (tmp_path / "logins").write_text("\ufeff* admin:c4nary-9\n", encoding="utf-8")  # as Windows' editor writes it
    setup = Setup(read(path), tmp_path)
    assert "c4nary-9" in setup.url(setup.config.cameras[0])
    (sink,) = setup.sinks()
    assert "Authorization" not in sink._headers
    (tmp_path / "logins").write_text("hooks.example.com robot:c4nary-10\n")
    (sink,) = Setup(read(path), tmp_path).sinks()
    assert sink._headers["Authorization"].startswith("Basic ")


def test_cameras_that_differ_in_what_is_hidden_want_names(tmp_path):
    """A sink of one of them would get the results of both, and the other's none."""
    cameras = (
        "{url: 'http://10.0.0.2/video?main', sinks: [a.jsonl]}, {url: 'http://10.0.0.2/video?side', sinks: [b.jsonl]}"
    )
    with pytest.raises(BadInput, match="two cameras are called .*give each a name"):
        read(written(tmp_path, f"cameras: [{cameras}]"))


@pytest.mark.parametrize(
    "text",
    ["sinks: [a.jsonl]\ncameras: [{url: 'fake:5'}]\nsinks: [b.jsonl]", "cameras: [{url: 'fake:5', rate: 1, rate: 2}]"],
)
def test_a_key_stands_once(tmp_path, text):
    with pytest.raises(BadInput, match="the key '(sinks|rate)' stands there twice"):
        read(written(tmp_path, text))
