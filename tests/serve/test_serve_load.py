"""Many clients, slow, hostile and gone ones: bounded, told in time, and nothing for the others to notice."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from serve_lab import RAW, Puppet, ask, digits, named, numbers, picture, posted, raw, serving, until
from test_serve_protocol import encoded

from edgecv_runtime import images
from edgecv_runtime.errors import BadInput, ComputationError, Unavailable
from edgecv_runtime.model import Model
from edgecv_runtime.serve import Always, Offer, Server, desk, threads
from edgecv_runtime.serve import app as serve_app
from edgecv_runtime.serve.app import App, Body
from edgecv_runtime.serve.line import Line, Rows
from edgecv_runtime.stream import Latest

TOKEN = "c4nary-0123456789"
INFER = "/v2/models/puppet.network/infer"
HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\n" % INFER.encode()


def test_a_full_line_refuses_and_says_when_to_come_again():
    puppet = Puppet()
    with serving(puppet, waiting=3) as server:
        puppet.go.clear()
        waiting = posted(server, numbers(1), numbers(2), numbers(3))
        until(lambda: "edgecv_serve_inside{" in (text := metrics(server)) and " 3.0" in text)
        for _ in range(20):
            status, headers, answer = ask(server, INFER, numbers(4))
            assert status == 429
            assert int(headers["retry-after"]) >= 1
            assert answer == {"error": "3 requests wait already; try again later"}
        assert ask(server, "/v2/health/live")[0] == 200
        puppet.go.set()
        answers = [future.result(10) for future in waiting]
        assert [status for status, _, _ in answers] == [200] * 3
        assert [answer["outputs"][0]["data"][0] for _, _, answer in answers] == [2.0, 4.0, 6.0]
        assert len(puppet.rows) == 3
        assert ask(server, INFER, numbers(4))[0] == 200


def metrics(server):
    return ask(server, "/metrics")[2].decode()


def test_bodies_have_a_limit_each_and_all_together():
    puppet = Puppet()
    with serving(puppet, body_mb=1, memory_mb=1.5) as server:
        body = json.dumps(numbers(1)).encode()
        large = body + b" " * 2**20
        for sent in (large, iter([large[:700_000], large[700_000:]])):  # with its length, and in chunks without
            status, _, answer = ask(server, INFER, sent)
            assert (status, answer) == (413, {"error": "a request has at most 1 MB; send fewer or smaller pictures"})
        puppet.go.clear()
        (first,) = posted(server, body + b" " * 900_000)
        until(lambda: puppet.rows)
        status, headers, answer = ask(server, INFER, body + b" " * 900_000)
        assert (status, headers["retry-after"]) == (429, "1")
        assert answer == {"error": "too much is sent at once; try again later"}
        puppet.go.set()
        assert first.result(10)[0] == 200
        until(lambda: "edgecv_serve_body_bytes 0.0" in metrics(server))
        assert ask(server, INFER, body, Content_Encoding="gzip")[0] == 415
        assert ask(server, "/v2/models/nope/infer", large * 8)[0] == 404


def test_requests_join_a_batch_where_batches_are_faster_and_one_that_fails_spoils_none():
    puppet = Puppet(batch=4)
    with serving(puppet, delay_ms=5000) as server:
        puppet.go.clear()
        first = posted(server, numbers(1))
        until(lambda: puppet.rows == [1])  # alone, it did not wait
        rest = posted(server, numbers(2, 3), numbers(-1), numbers(5), numbers(6))
        until(lambda: " 5.0" in metrics(server))
        time.sleep(0.2)  # they have been read
        puppet.go.set()
        answers = [future.result(10) for future in first + rest]
        assert [status for status, _, _ in answers] == [200, 200, 500, 200, 200]
        assert [each["outputs"][0]["data"][::4] for status, _, each in answers if status == 200] == [
            [2.0], [4.0, 6.0], [10.0], [12.0],
        ]  # fmt: skip
        assert max(puppet.rows) > 2
        assert max(puppet.rows) <= 4


def test_a_thread_decodes_computes_and_answers_and_none_waits_longer_than_it_may():
    """What is ready goes when its time is over, though another that could join it is still being read."""
    go, where = threading.Event(), []
    puppet = Puppet(batch=4)
    turns = threading.BoundedSemaphore(2)
    line = Line(Always(puppet), most=8, calls=1, readers=2, turns=turns, delay_s=0.2, ran=lambda *_: None)

    def asked(number, wait=False):
        def prepare():
            where.append(threading.get_ident())
            assert not wait or go.wait(20)
            return Rows(
                puppet, np.full((1, 4), number, np.float32), lambda out: (threading.get_ident(), out["y"][0, 0])
            )

        return line.submit(prepare)

    try:
        thread, number = asked(1).result(10)
        assert ([thread], number) == (where, 2)
        slow = asked(2, wait=True)
        began_s = time.monotonic()
        assert asked(3).result(10)[1] == 6
        assert 0.15 < time.monotonic() - began_s < 5
        go.set()
        assert slow.result(10)[1] == 4
        assert puppet.rows == [1, 1, 1]
    finally:
        go.set()
        assert line.close(5)


def test_who_may_wait_computes_itself_where_there_is_room_and_else_others_do():
    go, puppet = threading.Event(), Puppet()
    turns = threading.BoundedSemaphore(2)
    line = Line(Always(puppet), most=8, calls=1, readers=1, turns=turns, delay_s=0.2, ran=lambda *_: None)

    def asked(number, wait=False, is_patient=True):
        def prepare():
            assert not wait or go.wait(20)
            x = np.full((1, 4), number, np.float32)
            return Rows(puppet, x, lambda out: (threading.get_ident(), out["y"][0, 0]), is_patient)

        return line.submit(prepare, here=True)

    me = threading.get_ident()
    assert asked(1).result(0) == (me, 2)
    thread, number = asked(2, is_patient=False).result(10)  # it may have to leave before the call ends
    assert thread != me
    assert number == 4
    with pytest.raises(ComputationError, match="a number is negative"):
        asked(-1).result(0)
    puppet.go.clear()
    first = ThreadPoolExecutor(1).submit(asked, 3)
    until(lambda: puppet.rows[-4:] == [1] * 4)
    others = asked(4)  # the one call is busy: it does not wait for that here
    assert not others.done()
    slow = ThreadPoolExecutor(1).submit(asked, 5, wait=True)
    until(lambda: line._preparing)
    closing = ThreadPoolExecutor(1).submit(line.close, 10)
    time.sleep(0.05)
    assert not puppet.closed
    puppet.go.set()
    go.set()
    assert [each.result(10)[1] for each in (first.result(10), others, slow.result(10))] == [6, 8, 10]
    assert closing.result(10)
    assert puppet.closed


def test_a_quick_network_s_only_client_is_answered_by_the_thread_that_reads_its_request(monkeypatch):
    where, decode = [], images.decode

    def noted(*args):
        where.append(threading.current_thread().name)
        return decode(*args)

    monkeypatch.setattr(images, "decode", noted)
    monkeypatch.setattr(desk, "_QUICK_S", 5.0)  # however busy this machine is
    with digits() as (server, model), contextlib.closing(client(server)) as first:
        sent, expected = encoded(picture()), model(picture()).label

        def asked():
            first.request("POST", "/v2/models/digits/infer", sent, RAW)
            answer = json.loads(first.getresponse().read())
            assert next(each["data"] for each in answer["outputs"] if each["name"] == "label") == [expected]
            return where.pop()

        assert asked() != "edgecv-serve"  # nobody knows yet how long it takes
        assert {asked() for _ in range(8)} == {"edgecv-serve"}
        with contextlib.closing(client(server)) as second:
            second.request("GET", "/v2/health/live")
            second.getresponse().read()
            assert "edgecv-serve" not in {asked() for _ in range(4)}  # the other one would have to wait
        until(lambda: asked() == "edgecv-serve")
        monkeypatch.setattr(desk, "_SMALL", len(sent) - 1)
        assert asked() != "edgecv-serve"
        monkeypatch.setattr(desk, "_SMALL", len(sent))
        assert asked() == "edgecv-serve"
        line = server._lines[0]
        with contextlib.suppress(ZeroDivisionError):  # one that takes long, even if it is refused then
            line.submit(lambda: time.sleep(1.0) or 1 // 0).result(5)
        assert line.request_s > 1.0 / 8
        monkeypatch.setattr(desk, "_QUICK_S", 1.0 / 9)
        assert asked() != "edgecv-serve"
        until(lambda: asked() == "edgecv-serve")


def test_what_only_looks_small_is_not_computed_by_the_thread_that_reads_it(monkeypatch):
    """A large picture of one grey is few bytes; many rows are as many calls."""
    where, calls, decode, run = [], [], images.decode, Model.run

    def noted(*args):
        where.append(threading.current_thread().name)
        return decode(*args)

    def called(*args):
        calls.append(threading.current_thread().name)
        return run(*args)

    monkeypatch.setattr(images, "decode", noted)
    monkeypatch.setattr(Model, "run", called)
    monkeypatch.setattr(desk, "_QUICK_S", 5.0)
    with digits() as (server, model), contextlib.closing(client(server)) as only:
        tensor = model.tensor([picture()]).tobytes()

        def asked(name, sent, rows=1):
            only.request("POST", f"/v2/models/{name}/infer", sent, RAW)
            answer = json.loads(only.getresponse().read())
            assert answer["outputs"][0]["shape"][0] == rows

        until(lambda: asked("digits", encoded(picture())) or where[-1] == "edgecv-serve")
        grey = encoded(np.zeros((1200, 1200, 3), np.uint8))
        assert len(grey) < 1 << 15
        asked("digits", grey)
        assert where[-1] != "edgecv-serve"
        until(lambda: asked("digits.network", tensor) or calls[-1] == "edgecv-serve")
        asked("digits.network", 8 * tensor, rows=8)
        assert "edgecv-serve" not in calls[-8:]
        until(lambda: server._desk.memory.held == 0)


def test_who_computes_itself_does_not_wait_for_pictures_of_another_model():
    """Those who left may be decoded yet: the thread that answers all of HTTP would wait for them."""
    puppet, turns = Puppet(), threading.BoundedSemaphore(1)
    line = Line(Always(puppet), most=8, calls=1, readers=1, turns=turns, delay_s=0.0, ran=lambda *_: None)

    def prepare():
        return Rows(puppet, np.ones((1, 4), np.float32), lambda out: out["y"][0, 0])

    turns.acquire()  # by another line
    waiting = ThreadPoolExecutor(1).submit(line.submit, prepare, here=True)
    try:
        done = waiting.result(5)
        assert not done.done()
    finally:
        turns.release()
    assert done.result(5) == 2
    assert line.submit(prepare, here=True).result(0) == 2
    assert line.close(5)


def test_no_clock_is_left_behind_where_the_answer_is_there_at_once(monkeypatch):
    submit = Line.submit

    def at_once(*args, **named):
        wait([done := submit(*args, **named)])
        return done

    monkeypatch.setattr(Line, "submit", at_once)

    async def asked(server):
        own, sent = server._desk, json.dumps({**numbers(1), "parameters": {"timeout": 10**9}}).encode()
        served = own.find("puppet.network", None)
        await own.answer(served, Body(bytearray(sent), None), lambda _: None, here=True)
        await asyncio.sleep(0.01)
        return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]

    with serving(Puppet()) as server:
        assert asyncio.run(asked(server)) == []


def test_an_answer_that_is_cut_off_is_counted():
    async def receive():
        return {"type": "http.request", "body": json.dumps(numbers(1)).encode()}

    async def send(_):
        raise asyncio.CancelledError

    async def asked(server):
        state = {"connections": {1, 2}, "gone": asyncio.get_running_loop().create_future(), "abort": None}
        scope = {"type": "http", "method": "POST", "path": INFER, "headers": [], "query_string": b"", "state": state}
        await App(server._desk).asgi({**scope, "root_path": "", "http_version": "1.1", "scheme": "http"}, receive, send)

    with serving(Puppet()) as server:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(asked(server))
        assert [(each["status"], each["requests"]) for each in server.counts()] == [("200", 1)]


def client(server):
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)


def test_threads_are_as_many_as_are_needed_and_one_that_hangs_keeps_no_process_alive(monkeypatch):
    monkeypatch.setattr(threads, "_IDLE_S", 0.05)
    pool, go = threads.Threads(2, "test-pool"), threading.Event()
    held = [pool.submit(go.wait, 20) for _ in range(3)]
    with pytest.raises(ZeroDivisionError):
        go.set() or pool.submit(lambda: 1 // 0).result(10)
    assert [each.result(10) for each in held] == [True] * 3
    assert len({pool.submit(threading.get_ident).result(10) for _ in range(20)}) == 1
    until(lambda: not [each for each in threading.enumerate() if each.name == "test-pool"])
    assert pool.submit(int).result(10) == 0
    code = "import time; from edgecv_runtime.serve.threads import Threads; Threads(1, 'x').submit(time.sleep, 60)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_headers_and_answer_come_together():
    with serving(Puppet()) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        for _ in range(20):
            client.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b'{"name":"edgecv"' in client.recv(65536)


def test_no_batches_where_they_were_not_measured_to_be_faster():
    puppet = Puppet(batch=1)
    with serving(puppet) as server:
        assert ask(server, INFER, numbers(1, 2, 3))[2]["outputs"][0]["data"][::4] == [2.0, 4.0, 6.0]
        assert puppet.rows == [1, 1, 1]


def test_who_goes_away_is_not_computed_and_who_has_no_time_is_told():
    puppet = Puppet()
    with serving(puppet) as server:
        puppet.go.clear()
        (first,) = posted(server, numbers(1))
        until(lambda: puppet.rows)
        body = json.dumps(numbers(2)).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(
                b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(body))
            )
            client.sendall(body)
            until(lambda: " 2.0" in metrics(server))
        until(lambda: 'status="499"' in metrics(server))
        status, _, answer = ask(server, INFER, {**numbers(3), "parameters": {"timeout": 50_000}})
        assert (status, answer["error"]) == (504, "not computed after the 0.05 s of parameters.timeout")
        puppet.go.set()
        assert first.result(10)[0] == 200
        assert ask(server, INFER, numbers(4))[0] == 200
        assert len(puppet.rows) == 2


def test_garbage_and_slow_clients_cost_the_others_nothing():
    puppet = Puppet()
    with contextlib.ExitStack() as open_, serving(puppet, head_s=0.6, body_s=0.6, connections=60) as server:
        slow = [open_.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(40)]
        for number, client in enumerate(slow):
            client.settimeout(5)
            client.sendall(HEAD if number % 2 else HEAD + b"Content-Length: 100\r\n\r\n{")
        times = []
        for _ in range(20):
            began_s = time.monotonic()
            assert ask(server, INFER, numbers(1))[0] == 200
            times.append(time.monotonic() - began_s)
        assert np.median(times) < 0.5
        for number, client in enumerate(slow):
            said = b""
            while piece := client.recv(4096):
                said += piece
            assert b" 408 " in said.partition(b"\r\n")[0]
            assert (b"the headers were not there" if number % 2 else b"the body was not there") in said
        many = HEAD + b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(10_000)) + b"\r\n"
        long = b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n"
        for garbage in (
            many,
            long,
            b"\x16\x03\x01\x02\x00" + bytes(300) + b"\r\n\r\n",
            HEAD + b"Content-Length: x\r\n\r\n",
        ):
            said = raw(server, garbage)
            assert not said or (said.startswith(b"HTTP/1.1 400 ") and b'{"error":"Invalid HTTP request' in said)
        assert ask(server, INFER, numbers(1))[0] == 200


def test_connections_have_a_limit_and_a_body_that_nobody_reads_an_end():
    with contextlib.ExitStack() as open_, serving(Puppet(), head_s=0.4, connections=8) as server:

        def connected(sent):
            client = open_.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            client.sendall(sent)
            return client

        slow = connected(b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionError):  # a byte now and then keeps it no longer
            for _ in range(60):
                slow.sendall(b" ")
                time.sleep(0.05)
        for client in [connected(b"") for _ in range(20)][8:]:
            said = b""
            while piece := client.recv(65536):
                said += piece
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b'{"error":"8 connections are open already; try again later"}' in said
        until(lambda: connected(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n").recv(65536).startswith(b"HTTP/1.1 200"))


def test_an_answer_that_nobody_takes_is_given_up():
    puppet = Puppet()
    puppet.outputs = ()
    puppet.run = lambda feeds: {"y": np.zeros((1, 4_000_000), np.float32)}
    with serving(puppet, send_s=0.5) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        body = json.dumps({**numbers(1), "parameters": {"binary_data_output": True}}).encode()
        client.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(body))
        )
        client.sendall(body)
        time.sleep(1.5)
        client.settimeout(5)
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(1 << 20):
                taken += len(piece)
        assert 0 < taken < 16_000_000
        assert ask(server, "/v2/health/ready")[0] == 200


@pytest.mark.parametrize("way", ["close", "again"])
def test_nor_is_the_end_of_one(way, monkeypatch):
    """Its last piece waits in the server, and the answer to another request would wait for that."""
    monkeypatch.setattr(serve_app, "_PIECE", 1 << 30)
    puppet = Puppet()
    puppet.outputs = ()
    puppet.run = lambda feeds: {"y": np.zeros((1, 2_000_000), np.float32)}
    body = json.dumps({**numbers(1), "parameters": {"binary_data_output": True}}).encode()
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % (INFER.encode(), len(body))
    last = b"Connection: close\r\n" if way == "close" else b""

    def is_open():
        with contextlib.suppress(ConnectionError):
            return ask(server, "/v2/health/live")[0] == 200

    with serving(puppet, send_s=1.0, connections=4) as server, contextlib.ExitStack() as open_:
        for _ in range(4):
            client = open_.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", server.port))
            client.sendall((head + last + b"\r\n" + body) * (1 if way == "close" else 2))
        until(lambda: not is_open())
        until(is_open)


def test_a_call_that_hangs_is_no_ready_server(monkeypatch):
    puppet = Puppet()
    with serving(puppet) as server:
        puppet.go.clear()
        (first,) = posted(server, numbers(1))
        until(lambda: puppet.rows)
        monkeypatch.setattr(desk, "_SLOW_S", 0.1)
        time.sleep(0.15)
        assert ask(server, "/v2/health/ready")[0] == ask(server, "/v2/models/puppet/ready")[0] == 503
        assert ask(server, "/v2/health/live")[0] == 200
        monkeypatch.setattr(desk, "_HANGS_S", 0.1)
        assert ask(server, "/v2/health/live")[0] == 503
        puppet.go.set()
        assert first.result(10)[0] == 200
        until(lambda: ask(server, "/v2/health/ready")[0] == 200)


def test_a_bundle_is_exchanged_under_load_and_no_request_fails(tmp_path):
    link = tmp_path / "now"
    link.symlink_to(named("one", tmp_path))
    stop, seen = threading.Event(), []
    with Latest(link, check_s=0.05) as latest, serving(Offer("tiny", "1", latest)) as server:
        data = encoded(picture(0))

        def busy():
            while not stop.is_set():
                status, _, answer = ask(server, "/v2/models/tiny/infer", data, **RAW)
                seen.append((status, answer.get("parameters", {}).get("content", "").split()[0]))

        clients = [threading.Thread(target=busy) for _ in range(3)]
        for client in clients:
            client.start()
        until(lambda: len(seen) > 10)
        (tmp_path / "next").symlink_to(named("two", tmp_path))
        (tmp_path / "next").rename(link)
        until(lambda: [name for _, name in seen].count("two") > 60, 20)
        stop.set()
        for client in clients:
            client.join()
    assert {status for status, _ in seen} == {200}
    assert {name for _, name in seen} == {"one", "two"}


def test_a_new_model_that_fails_is_taken_back(tmp_path):
    (tmp_path / "bundle").mkdir()
    manifest = tmp_path / "bundle" / "bundle.json"
    manifest.write_text("1")
    old, new = Puppet(), Puppet()

    def fails(feeds):
        raise RuntimeError("no such operator")

    new.run = fails
    for puppet in (old, new):
        puppet.info = type("Info", (), {"name": "puppet", "variant": "float32", "backend": "mine"})()
    rest = iter([old, new])
    with (
        Latest(tmp_path / "bundle", lambda: next(rest), check_s=0.05) as latest,
        serving(Offer("puppet", "1", latest)) as server,
    ):
        assert ask(server, INFER, numbers(1))[0] == 200
        manifest.write_text("2")
        end_s = time.monotonic() + 10
        while not new.closed:
            assert ask(server, INFER, numbers(2))[0] == 200
            assert time.monotonic() < end_s
        assert ask(server, INFER, numbers(3))[2]["outputs"][0]["data"] == [6.0] * 4


def test_other_machines_need_a_token():
    for host in ("0.0.0.0", "::"):
        with pytest.raises(BadInput, match=r"other machines would use the models; give a token \(--token FILE"):
            Server([Offer("puppet", "1", Always(Puppet()))], host, 0)
    with serving(Puppet(), token=TOKEN, host="0.0.0.0") as server:
        assert ask(server, "/v2/health/live")[0] == ask(server, "/v2/health/ready")[0] == 200
        for path, body in (("/v2", None), ("/metrics", None), (INFER, numbers(1)), ("/v2/models/puppet", None)):
            status, headers, answer = ask(server, path, body)
            assert (status, headers["www-authenticate"], answer) == (401, "Bearer", {"error": "a token is needed"})
            assert ask(server, path, body, Authorization=f"Bearer {TOKEN}x")[0] == 401
            assert ask(server, path, body, Authorization=f"Bearer {TOKEN}")[0] == 200
    with serving(Puppet()) as server:
        assert ask(server, "/v2", Host="evil.example")[0] == 421


def test_names_that_cannot_be_told_apart():
    def offered(*names):
        return [Offer(name, version, Always(Puppet())) for name, version in names]

    for names, told in (
        ([("a", "1"), ("a", "1")], "two bundles are 'a', version 1: tell them apart"),
        ([("a", "1"), ("a.network", "1")], "'a.network' is the name of another bundle's network"),
        ([("a/b", "1")], "cannot be asked for in a URL"),
    ):
        with pytest.raises(BadInput, match=told):
            Server(offered(*names), port=0)


def test_metrics_are_judged_by_promtool():
    with digits() as (server, _):
        ask(server, "/v2/models/digits/infer", encoded(picture(0)), **RAW)
        ask(server, "/v2/models/digits/infer", b"", **RAW)
        ask(server, "/v2/models/nope/infer", b"", **RAW)
        text = metrics(server)
    judged = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    lines = text.splitlines()
    for line in (
        'edgecv_serve_requests_total{model="digits",status="200",version="1"} 1.0',
        'edgecv_serve_requests_total{model="digits",status="400",version="1"} 1.0',
        'edgecv_serve_requests_total{model="",status="404",version=""} 1.0',
        'edgecv_serve_inference_rows_sum{model="digits",version="1"} 1.0',
        'edgecv_serve_request_seconds_count{model="digits",version="1"} 1.0',
    ):
        assert line in lines, line


def test_what_is_not_installed_is_told_with_its_cure(monkeypatch):
    for module in ("starlette.applications", "uvicorn.protocols.http.h11_impl", "prometheus_client"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            fresh = ("edgecv_runtime.serve.", "edgecv_runtime.webconnection")
            for name in [name for name in sys.modules if name.startswith(fresh)]:
                patch.delitem(sys.modules, name)
            from edgecv_runtime.serve.server import Server as Fresh

            with pytest.raises(Unavailable, match=r"need.*pip install .*\[serve\]"):
                Fresh([], port=0)


def test_nothing_of_it_is_imported_by_those_who_do_not_serve():
    code = "import sys, edgecv_runtime, edgecv.cli.app; print({'starlette', 'uvicorn', 'h11'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
