"""Results, events and the state of every source to an MQTT broker."""

from __future__ import annotations

import contextlib
import ssl
import threading
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from edgecv_runtime import jsontext
from edgecv_runtime.addresses import peer
from edgecv_runtime.errors import BadInput, Closed, Unavailable, nearest
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.redact import redact, shown, split
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sinks.jsonlines import line_of, wall_clock
from edgecv_runtime.stream.sinks.segments import Slugs

SCHEMES = {"mqtt": 1883, "mqtts": 8883}
_TOPIC = "edgecv"
_OPTIONS = ("qos",)


class MqttSink(Sink):
    """Publishes to `TOPIC/SOURCE/result` (JSON as in JSON lines), `TOPIC/SOURCE/state` and `TOPIC/status`.

    States are retained, and sent anew after each connection, so that whoever comes later knows them. `status` is
    "online", or "offline": by the broker itself (a last will) when this process dies. A broker that goes away is called
    again, after 1 to 30 s; what is written meanwhile fails, and is counted.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """url: `mqtt://user:password@host:port/topic?qos=1`, `mqtts://` with TLS; timeout_s: for the answer to each.

        Raises BadInput, Unavailable without paho-mqtt.
        """
        self.name = shown(url)
        parts = split(url)
        path, _, query = parts.tail.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(set(options) - set(_OPTIONS))
        form = "mqtt://user:password@host:port/topic"
        if parts.scheme not in SCHEMES:
            raise BadInput(f"{self.name}: expected {form}")
        self._place = peer(parts.place, SCHEMES[parts.scheme], self.name, form)
        if unknown:
            raise BadInput(f"{self.name}: unknown option '{unknown[0]}'{nearest(unknown[0], _OPTIONS)}")
        if options.get("qos", "1") not in ("0", "1", "2"):
            raise BadInput(f"{self.name}: qos is 0, 1 or 2")
        self._topic = unquote(path.strip("/")) or _TOPIC
        if set("+#") & set(self._topic):
            raise BadInput(f"{self.name}: a topic that is published to has no + and no #")
        self._qos = int(options.get("qos", "1"))
        self._timeout_s = timeout_s
        self._slugs = Slugs()
        self._states: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._reason = "not connected yet"
        self._started = self._closed = False
        self._client = self._make(parts.scheme, parts.userinfo)

    def start(self, sources: Sequence[str]) -> None:
        """Name the topics of these sources."""
        self._slugs.expect(sources)

    def write(self, output: Output) -> None:
        """Publish one result and wait for the broker's answer; raises ConnectionError without."""
        if self._closed:
            raise Closed(f"{self.name}: is closed")
        self._start()
        if not self._connected.wait(0.0 if self._reason != "not connected yet" else self._timeout_s):
            raise ConnectionError(f"the broker is not there: {self._reason}")
        topic = f"{self._topic}/{self._slugs.of(output.frame.source)}/result"
        self._publish(topic, line_of(output).rstrip(b"\n"), retain=False)

    def event(self, event: Event) -> None:
        """Keep the state of a source with the broker; where there is none, it gets it when it is back."""
        if event.about != "source":
            return
        told = {"source": event.name, "state": event.state, "reason": event.reason, "attempt": event.attempt}
        payload = jsontext.encode({**told, "time": wall_clock(event.unix_s)})
        topic = f"{self._topic}/{self._slugs.of(event.name)}/state"
        with self._lock:
            self._states[topic] = payload
        self._start()
        if self._connected.is_set():
            self._client.publish(topic, payload, qos=1, retain=True)

    def close(self) -> None:
        """Say that we go, and go."""
        if self._closed:
            return
        self._closed = True
        if self._connected.is_set():
            with contextlib.suppress(ConnectionError):
                self._publish(f"{self._topic}/status", b"offline", retain=True)
        self._client.disconnect()
        if self._started:
            self._client.loop_stop()

    def _make(self, scheme: str, userinfo: str) -> Any:
        try:
            from paho.mqtt import client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as exc:
            raise Unavailable("publishing to an MQTT broker needs paho-mqtt", extra="mqtt") from exc
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"edgecv-{uuid.uuid4().hex[:12]}")
        if userinfo:
            user, _, password = userinfo.partition(":")
            client.username_pw_set(unquote(user), unquote(password))
        if scheme == "mqtts":
            client.tls_set_context(ssl.create_default_context())
        client.will_set(f"{self._topic}/status", b"offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        return client

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._client.connect_async(*self._place, keepalive=10)
            self._client.loop_start()

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        message = self._client.publish(topic, payload, qos=self._qos, retain=retain)
        try:
            message.wait_for_publish(self._timeout_s)
        except (RuntimeError, ValueError) as exc:  # the connection went meanwhile, or its queue is full
            raise ConnectionError(f"the broker is not there: {redact(str(exc))}") from exc
        if not message.is_published():
            raise ConnectionError(f"the broker did not answer within {self._timeout_s:g} s")

    def _on_connect(self, client: Any, _userdata: object, _flags: object, code: Any, _properties: object) -> None:
        if code.is_failure:
            self._reason = f"it refused: {redact(str(code))}"
            return
        with self._lock:
            states = dict(self._states)
        client.publish(f"{self._topic}/status", b"online", qos=1, retain=True)
        for topic, payload in states.items():
            client.publish(topic, payload, qos=1, retain=True)
        self._reason = ""
        self._connected.set()

    def _on_disconnect(
        self, _client: object, _userdata: object, _flags: object, code: Any, _properties: object
    ) -> None:
        self._connected.clear()
        self._reason = self._reason or f"disconnected: {redact(str(code))}"

    def _on_connect_fail(self, _client: object, _userdata: object) -> None:
        self._reason = f"nothing answers at {self._place[0]}:{self._place[1]}"
