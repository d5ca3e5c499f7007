"""What a running stream tells: a page in a browser, health by recent frames, metrics by promtool, systemd's socket."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import psutil
import pytest
from stream_lab import Brightness, brightness, until

from edgecv_runtime import web
from edgecv_runtime.addresses import parse_address
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.stream import FakeCamera, open_sink, run
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.live import Board, BoardSink, Health, LivePage, systemd
from edgecv_runtime.stream.live.metrics import Metrics, temperatures
from edgecv_runtime.stream.live.systemd import Notifier, unit
from edgecv_runtime.stream.report import Percentiles, SourceReport, StreamReport
from edgecv_runtime.stream.sources.fake import Frames, Freeze
from edgecv_runtime.web import read_token
from edgecv_runtime.webconnection import Bounds

TOKEN = "c4nary-0123456789"


def source(name="yard", state="live", inferred=0, ended="running"):
    return SourceReport(
        name=name, live=True, when_late="drop-oldest", state=state, connections=2, attempts=3, read=inferred + 5,
        inferred=inferred, dropped={"late": 3, "rate": 1}, failed=1, in_flight=0, fps=None, age=None, inference=None,
        declared_frames=None, damaged=4, first_damaged=None, ended=ended, detail="", error_code=0,
    )  # fmt: skip


def report(*sources):
    return StreamReport(sources, (), 1.0, None, False)


def get(url, **headers):
    """(status, headers, body)"""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, dict(exc.headers), exc.read()


@contextlib.contextmanager
def streaming(cameras, **options):
    """A page beside a run in a thread; the run ends with it."""
    board = Board(model="digits float32")
    stop = threading.Event()
    sinks = [BoardSink(board)]
    with LivePage(board, "127.0.0.1", 0, **options) as page:
        running = threading.Thread(
            target=run, args=(brightness, cameras, sinks), kwargs={"stop": stop, "on_progress": board.look}
        )
        running.start()
        try:
            yield page
        finally:
            stop.set()
            running.join()


def test_the_page_of_a_running_stream():
    cameras = [
        FakeCamera([Frames(2000)], fps=50, name="<b>yard</b> & 'gate'"),
        FakeCamera([Frames(3), Freeze(60)], fps=50, name="still", timeout_s=100),
    ]
    with streaming(cameras) as page:

        def state():
            return json.loads(get(f"{page.url}state.json")[2])

        until(lambda: len(state()["sources"]) == 2 and state()["sources"][0]["rate"] > 10)
        yard, still = state()["sources"]
        assert yard["name"] == "<b>yard</b> & 'gate'"
        assert (yard["state"], yard["recent"]) == ("live", True)
        assert 0 <= yard["frame_age_s"] < 1
        assert 1 <= still["inferred"] <= still["read"] == 3
        status, headers, body = get(f"{page.url}picture/0")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape == (240, 320, 3)
        assert get(f"{page.url}picture/7")[0] == get(f"{page.url}video/7")[0] == 404
        status, headers, body = get(page.url)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"yard" not in body  # names come as JSON and are set as text
        assert get(f"{page.url}livez")[0] == 200
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)) as watching:
            watching.request("GET", "/video/0")
            pieces = watching.getresponse()
            assert pieces.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
            seen = b"".join(pieces.read(4096) for _ in range(12))
        assert len(set(re.findall(rb"\xff\xd8.*?\xff\xd9", seen, re.DOTALL))) >= 2  # it moves
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 5


def browse(url, folder, *more):
    """What headless Chromium does with a page -> (document after its scripts ran, what it complained of)."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", *more]
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_in_a_browser(tmp_path):
    """Names are hostile, one camera stands still; the browser runs the page's own script and nothing else."""
    cameras = [
        FakeCamera([Frames(20_000)], fps=50, name="<img src=x onerror=alert(1)> yard"),
        FakeCamera([Frames(3), Freeze(60)], fps=50, name="still", timeout_s=100),
    ]
    with streaming(cameras) as page:
        until(lambda: json.loads(get(f"{page.url}readyz")[2])["ready"])
        options = "--enable-logging=stderr", "--v=0", "--dump-dom", "--virtual-time-budget=4000"
        document, complaints = browse(page.url, tmp_path, *options)
    assert complaints == []
    assert document.count("<article>") == 3  # two sources, and the template
    assert "<h2>&lt;img src=x onerror=alert(1)&gt; yard</h2>" in document
    assert '<span class="state good">live</span>' in document
    assert re.search(r'<span class="age">frame \d+ ms old</span>', document)
    assert re.search(r"read \d+, inferred \d+, dropped \d+, failed 0, connections 1, age p99 \d+ ms", document)
    assert re.search(r'src="/picture/0\?index=\d+', document)
    assert '<p id="connection" role="status" class="good">running</p>' in document
    assert "<td>page</td><td>up</td>" in document


def test_readiness_is_a_recent_frame_of_each_source():
    health = Health(recent_s=10.0)
    assert not health.ready(0.0).ok
    health.look(report(source("a", "connecting"), source("b", "live", 4)), 0.0)
    assert health.ready(1.0).reasons == ("a: no result yet (connecting)",)
    assert health.ready(1.0, "b").ok
    health.look(report(source("a", "live", 1), source("b", "stalled", 4)), 5.0)
    assert health.ready(6.0).ok
    assert health.ready(11.0).reasons == ("b: no result for 11 s (stalled)",)
    assert health.age_s("a", 6.0) == 1.0
    assert health.ready(6.0, "c").reasons == ("c: no such source",)
    health.look(report(source("a", "live", 9), source("b", "ended", 4, ended="end of file")), 12.0)
    assert health.ready(13.0).ok  # what has ended is not waited for
    assert health.alive(14.0).ok
    assert health.alive(60.0).reasons == ("the loop has not reported for 48 s",)


def test_work_is_judged_where_frames_come():
    health = Health(recent_s=10.0)
    health.look(report(source("a", "live", 1), source("b", "backing off", 0)), 0.0)
    for second in range(1, 16):
        health.look(report(source("a", "live", second), source("b", "backing off", 0)), float(second))
    assert health.working(16.0).ok  # b's camera is away: a new process would not mend it
    for second in range(16, 30):
        health.look(report(source("a", "live", 15), source("b", "live", 0)), float(second))
    assert health.working(29.0).reasons == (
        "a: frames come, and no result for 14 s",
        "b: frames come, and no result for 13 s",
    )
    health.look(report(source("a", "stalled", 15), source("b", "live", 1)), 30.0)
    assert health.working(30.5).ok


def test_a_camera_that_is_asked_for_few_frames_has_time_for_them():
    health = Health(recent_s=10.0)
    for second in range(0, 181, 60):  # a frame a minute
        seldom = msgspec.structs.replace(source("a", "live", 1 + second // 60), max_fps=1 / 60)
        health.look(report(seldom), float(second))
        assert health.ready(second + 50.0).ok
        assert health.working(second + 4.0).ok
    for second in range(190, 400, 4):
        health.look(report(seldom), float(second))
    assert not health.working(397.0).ok


def test_the_token_is_asked_for_by_the_path_of_the_request_alone():
    """A URL is made with the Host header, which is the client's: starlette before 1.0 took `a/livez?` for a host."""
    from starlette.responses import PlainTextResponse

    passed = []

    async def app(scope, receive, send):
        passed.append(scope["path"])

    guarded = web.Guarded(
        app, TOKEN, ("/livez",), lambda text, status, headers: PlainTextResponse(text, status, headers)
    )

    def status_of(path, host):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", host)],
            "scheme": "http",
            "server": ("a", 80),
        }
        asyncio.run(guarded(scope, None, send))
        return sent[0]["status"] if sent else 200

    for host in (b"a", b"a/livez?", b"a/livez#", b"a/livez"):
        assert status_of("/state.json", host) == 401
        assert status_of("/livez", host) == 200
    assert passed == ["/livez"] * 4


def test_health_over_http_and_a_stream_that_stands_still():
    board = Board(health=Health(recent_s=1.5))
    with LivePage(board, "127.0.0.1", 0) as page:
        assert get(f"{page.url}readyz")[0] == 503
        board.look(report(source("yard", "live", 1)))
        assert get(f"{page.url}readyz")[0] == 200
        assert get(f"{page.url}readyz?source=gate")[0] == 503
        time.sleep(1.6)
        status, _, body = get(f"{page.url}readyz")
        assert status == 503
        assert json.loads(body)["reasons"] == ["yard: no result for 2 s (live)"]
        assert get(f"{page.url}livez")[0] == 200


def test_other_machines_need_a_token(tmp_path):
    board = Board()
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(BadInput, match="other machines would see the cameras; give a token"):
            LivePage(board, host, 0)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    token = read_token(tmp_path / "token")
    with LivePage(board, "0.0.0.0", 0, token=token) as page:
        base = f"http://127.0.0.1:{page.port}"
        assert get(f"{base}/livez")[0] == 200
        for path in ("/", "/state.json", "/metrics", "/readyz", "/picture/0", "/state.json?token=" + TOKEN):
            assert get(base + path)[0] == 401, path
        assert get(f"{base}/state.json", Authorization="Bearer wrong")[0] == 401
        assert get(f"{base}/state.json", Cookie="edgecv_token=wrong")[0] == 401
        assert get(f"{base}/state.json", Authorization=f"Bearer {TOKEN}")[0] == 200
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page.port)) as browser:
            browser.request("GET", f"/?token={TOKEN}")
            answer = browser.getresponse()
            answer.read()
            assert (answer.status, answer.headers["location"]) == (303, "/")
            cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert get(f"{base}/state.json", Cookie=cookie.partition(";")[0])[0] == 200


def test_web_sites_do_not_read_it_through_their_visitors():
    """A site whose name resolves to 127.0.0.1 (DNS rebinding) comes with its own name."""
    with LivePage(Board(), "127.0.0.1", 0) as page:
        assert get(f"{page.url}state.json", Host=f"evil.example:{page.port}")[0] == 421
        assert get(f"{page.url}state.json", Host=f"localhost:{page.port}")[0] == 200


def test_tokens_and_addresses_that_are_none(tmp_path):
    assert read_token(None, {}) is None
    assert read_token(None, {"EDGECV_TOKEN": TOKEN}) == TOKEN
    for text in ("short-c4nary", "c4nary with blanks in it", "c4nary-äöü-0123456789", ""):
        (tmp_path / "token").write_text(text)
        with pytest.raises(BadInput, match="a token has 16 printable ASCII characters") as caught:
            read_token(tmp_path / "token")
        assert "c4nary" not in str(caught.value)
    with pytest.raises(BadInput, match="the token cannot be read: No such file"):
        read_token(tmp_path / "missing")
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("[::1]:80") == ("::1", 80)
    for text in ("localhost", "127.0.0.1:99999", "", "a:b"):
        with pytest.raises(BadInput, match="is no address to listen at"):
            parse_address(text)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadInput, match="cannot listen there: Address"):
        LivePage(Board(), "127.0.0.1", taken.getsockname()[1])


def test_metrics_are_judged_by_promtool(tmp_path):
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("48312\n")
    times = {name: (Percentiles(), Percentiles()) for name in ("yard", 'ga"te\n')}
    for age_ms in (4.0, 40.0, 400.0, 60_000.0):
        times["yard"][0].add(age_ms)
        times["yard"][1].add(age_ms / 10)
    board = Board(model="digits float32")
    board.look(report(source("yard", "live", 7), source('ga"te\n', "stalled", 0)))
    for state in ("stalled", "live", "stalled"):
        board.note(Event("source", "yard", state, "", 1, 0, 0.0))
    measured = SimpleNamespace(times=lambda: times, processes=lambda: {"yard": os.getpid(), "gone": 1 << 30})
    text = Metrics(board, measured, sysfs=tmp_path).text()
    judged = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    lines = text.decode().splitlines()
    for line in (
        'edgecv_frames_total{outcome="dropped",reason="late",source="yard"} 3.0',
        'edgecv_frames_total{outcome="inferred",reason="",source="yard"} 7.0',
        'edgecv_source_state{source="ga\\"te\\n",state="stalled"} 1.0',
        'edgecv_source_state{source="yard",state="stalled"} 0.0',
        'edgecv_source_attempts_total{source="yard"} 3.0',
        'edgecv_source_transitions_total{source="yard",state="stalled"} 2.0',
        'edgecv_frame_age_seconds_bucket{le="0.005",source="yard"} 1.0',
        'edgecv_frame_age_seconds_bucket{le="0.05",source="yard"} 2.0',
        'edgecv_frame_age_seconds_bucket{le="10",source="yard"} 3.0',
        'edgecv_frame_age_seconds_bucket{le="+Inf",source="yard"} 4.0',
        'edgecv_frame_age_seconds_sum{source="yard"} 60.444',
        'edgecv_temperature_celsius{zone="cpu-thermal"} 48.312',
    ):
        assert line in lines, line
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    (rss,) = [
        line.split()[1] for line in lines if line.startswith('edgecv_source_resident_memory_bytes{source="yard"}')
    ]
    assert float(rss) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_a_zone_without_a_reading_is_left_out(tmp_path):
    for number, (kind, temp) in enumerate([("cpu", "40000"), ("cpu", "41000"), ("gpu", "?"), (None, None)]):
        zone = tmp_path / f"class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        if kind:
            (zone / "type").write_text(kind)
            (zone / "temp").write_text(temp)
    assert list(temperatures(tmp_path)) == [("cpu", 40.0), ("cpu 1", 41.0)]


@contextlib.contextmanager
def systemd_socket(tmp_path, **more):
    """A datagram socket as systemd's, and the environment that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(2)
        yield listener, {"NOTIFY_SOCKET": str(tmp_path / "notify"), **more}


def test_systemd_is_told(tmp_path):
    with systemd_socket(tmp_path, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())) as (listener, environment):
        notifier, health = Notifier(environment), Health(recent_s=15.0)
        assert environment == {}  # no child speaks for us
        assert notifier.watchdog_s == 30.0

        def look(now_s, *sources):
            health.look(report(*sources), now_s)
            notifier.look(report(*sources), health, now_s)

        away = source("b", "stalled", 0)
        look(0.0, source("a", "live", 1), away)
        assert [listener.recv(200) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1\nSTATUS=1 of 2 sources live"]
        look(9.0, source("a", "live", 2), away)  # too soon for another
        look(11.0, source("a", "live", 3), away)
        assert listener.recv(200) == b"WATCHDOG=1\nSTATUS=1 of 2 sources live"
        look(30.0, source("a", "live", 3), away)  # frames come and no results: it is let run out
        assert listener.recv(200) == b"STATUS=a: frames come, and no result for 19 s"
        look(30.0, source("a\nWATCHDOG=1\udce9", "live", 3))  # what a file is called feeds no watchdog
        assert listener.recv(200) == b"WATCHDOG=1\nSTATUS=1 of 1 sources live"
        look(50.0, source("a\nWATCHDOG=1\udce9", "live", 3))
        assert listener.recv(200) == rb"STATUS=a\nWATCHDOG=1\udce9: frames come, and no result for 20 s"
        notifier.stopping()
        assert listener.recv(200) == b"STOPPING=1"
    silent = Notifier({"WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
    assert silent.watchdog_s is None
    silent.look(report(source()), Health(), 0.0)


def test_who_holds_connections_to_the_page_takes_nothing_from_the_stream():
    """Cameras that come back need descriptors, of which a process has some hundreds; and viewers may have gone."""
    process, bounds = psutil.Process(), Bounds(connections=30, head_s=1.0, send_s=1.0)
    noise = np.random.default_rng(0).integers(0, 256, (2, 480, 640, 3), np.uint8)  # whose JPEG is large
    camera = FakeCamera([Frames(3, image=image) for image in noise] * 1000, fps=30)
    with streaming([camera], bounds=bounds) as page, contextlib.ExitStack() as open_:

        def connected(sent):
            client = open_.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", page.port))
            client.sendall(sent)
            return client

        until(lambda: get(page.url + "picture/0")[0] == 200)
        before = process.num_fds()
        silent = [connected(b"") for _ in range(200)]
        until(lambda: process.num_fds() - before >= 200 + 30)
        assert process.num_fds() - before < 200 + 110
        for client in silent:  # are ended, and told so
            client.settimeout(5)
            with contextlib.suppress(ConnectionError):
                while client.recv(4096):
                    pass
        for _ in range(16):
            connected(b"GET /video/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: get_head(page.url + "video/0") == 503)
        assert until(lambda: get_head(page.url + "video/0") == 200, 60)  # they have taken nothing for a second


def get_head(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as exc:
        return exc.code


def test_what_is_not_installed_is_told_with_its_cure(monkeypatch):
    for module, make, cure in (
        ("uvicorn", lambda: LivePage(Board(), "127.0.0.1", 0), "page"),
        ("starlette", lambda: LivePage(Board(), "127.0.0.1", 0), "page"),
        ("prometheus_client", lambda: Metrics(Board()), "page"),
        ("paho.mqtt", lambda: open_sink("mqtt://127.0.0.1/x"), "mqtt"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            patch.delitem(sys.modules, "edgecv_runtime.webconnection", raising=False)
            with pytest.raises(Unavailable, match=rf"need.*pip install .*\[{cure}\]"):
                make()


def analyzed(*arguments):
    asking = {**os.environ, "XDG_RUNTIME_DIR": "/tmp"}  # without one, a user has no systemd to ask about
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, env=asking)


@pytest.mark.parametrize("verb", ["stream", "serve"])
@pytest.mark.parametrize(("owner", "exposed"), [("system", 25), ("user", 80)])
def test_units_of_both_verbs_for_the_system_and_for_a_user(verb, owner, exposed, tmp_path):
    """A user's systemd may not take devices or files away: what is left is system calls, namespaces and addresses."""
    path = tmp_path / f"edgecv-{verb}.service"
    text = systemd.text(verb, [sys.executable, "-m", "edgecv.cli", verb, "a b"], of_system=owner == "system")
    path.write_text(text)
    assert "@" not in text.replace("@system-service", "").replace("@privileged", "")
    assert ("ExecReload=" in text) == (verb == "stream")
    assert f"StateDirectory=edgecv-{verb}\n" in text
    verified = analyzed("verify", f"--{owner}", "--man=no", "--recursive-errors=yes", path)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = analyzed("security", f"--{owner}", "--offline=true", f"--threshold={exposed}", path)
    assert judged.returncode == 0, judged.stdout[-500:]


def test_the_unit_is_accepted_by_systemd(tmp_path):
    (tmp_path / "cam eras.yaml").write_text("")
    names = ["a\nExecStartPre=/bin/false", "caf\udce9 1.mp4", "@NAME@"]
    text = unit(
        ["bundle", "--config", str(tmp_path / "cam eras.yaml"), "--on", "label == '100%' and score > 0.5", *names]
    )
    assert r'"a\x0aExecStartPre=/bin/false" "caf\xe9 1.mp4" @NAME@' in text
    assert f'"{tmp_path}/cam eras.yaml"' in text
    assert "\"label == '100%%' and score > 0.5\"" in text
    path = tmp_path / "edgecv-stream.service"
    path.write_text(text)
    verified = analyzed("verify", "--man=no", "--recursive-errors=yes", path)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = analyzed(
        "security", "--offline=true", "--threshold=25", path
    )  # tenths of 10, at which anything is exposed
    assert judged.returncode == 0, judged.stdout[-500:]
    with pytest.raises(BadInput, match=r"rtsp://u:\*\*\*@h/x: a unit is read by everybody"):
        unit(["bundle", "rtsp://u:c4nary@h/x"])


def test_histograms_count_below_each_bound():
    spread = Percentiles()
    for value in (1.0, 2.0, 2.0, 50.0):
        spread.add(value)
    assert spread.below([0.5, 1.5, 3.0, 100.0]) == [(0.5, 0), (1.5, 1), (3.0, 3), (100.0, 4)]
    assert (spread.runs, spread.total_ms) == (4, 55.0)


def test_pictures_are_made_for_those_who_look(monkeypatch):
    drawn = []

    class Counting(Brightness):
        def draw(self, image):
            drawn.append(self.mean)
            return super().draw(image)

    board = Board()
    run(lambda image: Counting(1.0), FakeCamera([Frames(20)]), [BoardSink(board)], on_progress=board.look)
    assert drawn == []
    board.look(report(source("fake")))
    assert board.picture(0) == board.picture(0)
    assert len(drawn) == 1
