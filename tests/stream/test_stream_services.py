"""Sinks that send: to a real broker, a real HTTP server and a real RTSP receiver, which come and go."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from paho.mqtt import client as mqtt
from stream_lab import Brightness, brightness, refused_port, tcp_server, until

from edgecv_runtime import spawned
from edgecv_runtime.errors import BadInput, Closed
from edgecv_runtime.machine import peak_rss_mb
from edgecv_runtime.stream import FakeCamera, Frame, MqttSink, Output, PublishSink, WebhookSink, open_sink, run
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.sources.fake import Frames


def output(index=0, mean=100.0, size=(48, 64)):
    frame = Frame(np.full((*size, 3), 90, np.uint8), index * 40_000_000, index, None, "rtsp://h/yard", None, 1, True)
    return Output(frame, Brightness(mean), 1.25, 0.0, "test")


class Broker:
    """Debian's mosquitto on the loopback, and a client that is not ours, which hears everything."""

    def __init__(self, folder):
        self._folder = folder
        self.port = refused_port()
        subprocess.run(["mosquitto_passwd", "-b", "-c", folder / "users", "edge", "c4nary-7 @'x"], check=True)
        (folder / "users").chmod(0o644)
        folder.chmod(0o755)
        (folder / "conf").write_text(
            f"listener {self.port} 127.0.0.1\npassword_file {folder / 'users'}\nallow_anonymous false\n"
            f"user root\npersistence false\n"
        )
        self.url = f"mqtt://edge:c4nary-7 @'x@127.0.0.1:{self.port}/house"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(["mosquitto", "-c", self._folder / "conf"], stderr=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto did not start; run tests/install-debian.sh")

    def stop(self):
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def listening(self):
        """{topic: [(payload, retained), ...]} as it grows."""
        heard = {}
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.username_pw_set("edge", "c4nary-7 @'x")
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _, __, message: heard.setdefault(message.topic, []).append(
            (message.payload.decode(), message.retain)
        )
        client.connect("127.0.0.1", self.port)
        client.subscribe("#", qos=1)
        client.loop_start()
        assert subscribed.wait(5)
        try:
            yield heard
        finally:
            client.disconnect()
            client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    found = Broker(tmp_path)
    found.start()
    yield found
    found.stop()


def test_mqtt_results_states_and_goodbye(broker):
    with broker.listening() as heard:
        report = run(brightness, FakeCamera([Frames(5)], name="rtsp://h/yard"), [open_sink(broker.url)])
        until(lambda: heard.get("house/status", [])[-1:] == [("offline", False)])
    assert report.sinks[0].delivered == 5
    documents = [json.loads(payload) for payload, _ in heard["house/rtsp-h-yard/result"]]
    assert [document["index"] for document in documents] == [0, 1, 2, 3, 4]
    assert not any(retained for _, retained in heard["house/rtsp-h-yard/result"])
    assert heard["house/status"][0] == ("online", False)
    with broker.listening() as later:  # whoever comes later is told how it stands
        until(lambda: len(later) == 2)
    (payload, retained), *_ = later["house/rtsp-h-yard/state"]
    assert retained
    assert json.loads(payload)["state"] == "ended"
    assert later["house/status"] == [("offline", True)]


def test_mqtt_a_broker_that_goes_and_comes_back(broker):
    sink = MqttSink(broker.url, timeout_s=2.0)
    sink.event(Event("source", "rtsp://h/yard", "live", "h264", 1, 0, 0.0))
    sink.write(output(0))
    broker.stop()
    until(lambda: not sink._connected.is_set())
    start_s = time.monotonic()
    with pytest.raises(ConnectionError, match="the broker is not there"):
        sink.write(output(1))
    assert time.monotonic() - start_s < 0.5  # a dead broker holds up nobody
    sink.event(Event("source", "rtsp://h/yard", "stalled", "", 1, 0, 0.0))
    broker.start()

    def again():
        with contextlib.suppress(ConnectionError):
            sink.write(output(2))
            return True

    until(again, 15)
    with broker.listening() as heard:
        until(lambda: "house/rtsp-h-yard/state" in heard)
        assert json.loads(heard["house/rtsp-h-yard/state"][0][0])["state"] == "stalled"
        assert until(lambda: heard.get("house/status"))[0] == ("online", True)
    sink.close()


def test_mqtt_the_broker_tells_when_a_process_dies(broker):
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_stream_services import MqttSink, output
sink = MqttSink(sys.stdin.readline().strip())
sink.write(output())
print("sent", flush=True)
time.sleep(60)
"""
    with broker.listening() as heard:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        process.stdin.write(f"{broker.url}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "sent\n"
        process.kill()
        process.communicate()
        until(lambda: [payload for payload, _ in heard.get("house/status", [])] == ["online", "offline"])


def test_mqtt_a_wrong_password_is_told_without_it(broker):
    sink = MqttSink(broker.url.replace("c4nary-7", "wr0ng-7"), timeout_s=1.0)
    with pytest.raises(ConnectionError) as caught:
        sink.write(output())
    until(lambda: "refused" in sink._reason)
    with pytest.raises(ConnectionError, match="it refused: Not authorized") as caught:
        sink.write(output())
    assert "wr0ng" not in f"{caught.value} {sink.name}"
    sink.close()
    with pytest.raises(Closed):
        sink.write(output())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mqtt://", "expected mqtt://user:password@host:port/topic"),
        ("mqtt://h:x/topic", "expected mqtt://"),
        ("mqtt://h/a/+/b", "no \\+ and no #"),
        ("mqtt://h/a?qos=3", "qos is 0, 1 or 2"),
        ("mqtt://h/a?quos=1", "unknown option 'quos'; did you mean 'qos'"),
        ("http://", "expected https://"),
        ("rtsp://", "expected rtsp://"),
        *((f"{scheme}://h:{port}/a", "expected ") for scheme in ("mqtt", "https", "rtsp") for port in (0, 65536)),
        ("ftp://u:c4nary@h/x.mp4", "ftp://u:\\*\\*\\*@h/x.mp4: not a sink; expected -, window, a file .jsonl"),
    ],
)
def test_addresses_that_are_none(url, message):
    with pytest.raises(BadInput, match=message):
        open_sink(url)


def test_an_ipv6_address_without_a_port_is_whole():
    """`http.client` takes what stands behind the last colon of a host for its port."""
    sink = open_sink("http://[fe80::1]/a")
    assert (sink._connection.host, sink._connection.port) == ("fe80::1", 80)
    sink.close()


class Receiver(BaseHTTPRequestHandler):
    """Answers with the next of the statuses, then with 204; keeps what it got."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def receiver(*statuses):
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.daemon_threads = True
        server.got, server.statuses = [], list(statuses)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url = f"http://edge:c4nary pw@127.0.0.1:{server.server_port}/hook?from=yard"
        yield server
        server.shutdown()


def test_webhook_posts_documents_with_a_login():
    with receiver() as server:
        report = run(brightness, FakeCamera([Frames(3)], name="yard"), [open_sink(server.url)])
    assert report.sinks[0].delivered == 3
    assert [document["index"] for _, _, document in server.got] == [0, 1, 2]
    path, headers, _ = server.got[0]
    assert path == "/hook?from=yard"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic ZWRnZTpjNG5hcnkgcHc="  # edge:c4nary pw
    assert "c4nary" not in report.sinks[0].name


@pytest.mark.parametrize(
    ("statuses", "posts", "trouble"),
    [
        ([503], 2, None),
        ([500, 429], 3, None),
        ([503, 503, 503], 3, "after 3 tries: the server answered 503"),
        ([404], 1, "after 1 tries: the server answered 404"),
        ([302], 1, "after 1 tries: the server answered 302"),
    ],
)
def test_webhook_tries_are_bounded(monkeypatch, statuses, posts, trouble):
    from edgecv_runtime.stream.sinks import webhook

    monkeypatch.setattr(webhook, "_PAUSE_S", 0.01)
    with receiver(*statuses) as server, WebhookSink(server.url) as sink:
        if trouble is None:
            sink.write(output())
        else:
            with pytest.raises(ConnectionError, match=trouble):
                sink.write(output())
        assert len(server.got) == posts
        assert len({headers["Idempotency-Key"] for _, headers, _ in server.got}) == 1
        sink.write(output(1))  # the next one is another matter
        assert len(server.got) == posts + 1
        assert len({headers["Idempotency-Key"] for _, headers, _ in server.got}) == 2


class Endless(BaseHTTPRequestHandler):
    """Answers without end: at once, or a byte at a time."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * (1 if self.path == "/slow" else 65536))
                time.sleep(0.1 if self.path == "/slow" else 0)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("path", ["/slow", "/much"])
def test_webhook_an_answer_without_end_is_not_waited_for(path, monkeypatch):
    from edgecv_runtime.stream.sinks import webhook

    monkeypatch.setattr(webhook, "_PAUSE_S", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        before_mb = peak_rss_mb()
        with WebhookSink(f"http://127.0.0.1:{server.server_port}{path}", timeout_s=0.3) as sink:
            start_s = time.monotonic()
            with contextlib.suppress(ConnectionError):  # it was told; what becomes of the answer is another matter
                sink.write(output())
            assert time.monotonic() - start_s < 3
        assert peak_rss_mb() - before_mb < 50
        server.shutdown()


def test_webhook_two_documents_of_one_frame_have_two_keys():
    with receiver() as server, WebhookSink(server.url) as sink:
        sink.write(output())
        sink.write(output(mean=1.0))
        assert len({headers["Idempotency-Key"] for _, headers, _ in server.got}) == 2


@pytest.mark.parametrize("path", ["a b", "\u00e4", "a\tb"])
def test_webhook_what_is_no_path_is_said_at_once(path):
    with pytest.raises(BadInput, match="write blanks as %20"):
        WebhookSink(f"http://host/{path}")


def test_webhook_a_silent_server_costs_its_timeout_and_a_dead_one_nothing(monkeypatch):
    from edgecv_runtime.stream.sinks import webhook

    monkeypatch.setattr(webhook, "_PAUSE_S", 0.01)
    with tcp_server() as port, WebhookSink(f"http://127.0.0.1:{port}/", timeout_s=0.2) as sink:
        start_s = time.monotonic()
        with pytest.raises(ConnectionError, match="after 3 tries: TimeoutError"):
            sink.write(output())
        assert 0.5 < time.monotonic() - start_s < 1.5
    with WebhookSink(f"http://127.0.0.1:{refused_port()}/") as sink, pytest.raises(ConnectionError, match="refused"):
        sink.write(output())


class RtspReceiver:
    """FFmpeg as an RTSP server that takes one stream and counts its frames."""

    def __init__(self):
        self.port = refused_port()
        self.url = f"rtsp://edge:c4nary-7@127.0.0.1:{self.port}/live"
        address = f"rtsp://127.0.0.1:{self.port}/live"
        command = ["ffmpeg", "-v", "error", "-nostdin", "-rtsp_flags", "listen", "-i", address]
        self.process = subprocess.Popen(
            [*command, "-f", "null", "-progress", "-", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(self._listens)  # it takes one connection, so nobody may try

    def _listens(self):
        sockets = psutil.Process(self.process.pid).net_connections()
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in sockets)

    def frames(self):
        said, _ = self.process.communicate(timeout=20)
        return max(int(line.partition("=")[2]) for line in said.splitlines() if line.startswith("frame="))


def test_publishing_to_an_rtsp_receiver_and_again_after_it_was_gone(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the present folder is no module')")
    monkeypatch.chdir(tmp_path)
    first = RtspReceiver()
    sink = PublishSink(first.url, timeout_s=5.0)
    for index in range(30):
        sink.write(output(index))
        time.sleep(0.02)
    commands = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "edgecv_runtime.stream.sinks.publish" in commands
    assert "c4nary" not in commands
    sink.close()
    assert first.frames() >= 28
    sink = PublishSink(f"rtsp://edge:c4nary-7@127.0.0.1:{refused_port()}/live", timeout_s=5.0)
    with pytest.raises(ConnectionError, match="refused") as caught:
        for index in range(200):
            sink.write(output(index))
            time.sleep(0.05)
    assert "c4nary" not in str(caught.value)
    sink.close()


def test_publishing_goes_on_whatever_libraries_print(monkeypatch):
    """Each picture with more than a pipe holds: encoders and FFmpeg warn, for months."""
    talking = """
import os, cv2
real = cv2.cvtColor
def convert(*given):
    os.write(2, b"a warning " * 10_000)
    return real(*given)
cv2.cvtColor = convert
"""
    command = spawned.command
    monkeypatch.setattr(spawned, "command", lambda code, *rest: command(f"exec({talking!r}); {code}", *rest))
    receiver = RtspReceiver()
    sink = PublishSink(receiver.url, timeout_s=5.0)
    for index in range(30):
        sink.write(output(index))
        time.sleep(0.02)
    sink.close()
    assert receiver.frames() >= 28


def test_publishing_to_a_server_that_hangs_fails_in_time():
    with tcp_server() as port:
        sink = PublishSink(f"rtsp://127.0.0.1:{port}/live", timeout_s=0.3)
        start_s = time.monotonic()
        with pytest.raises(ConnectionError):
            for index in range(50):
                sink.write(output(index, size=(480, 640)))
        assert time.monotonic() - start_s < 3
        sink.close()
    with pytest.raises(BadInput, match="one stream shows one source, and there are 2"):
        sink.start(["a", "b"])
