"""The protocol over gRPC: Triton's own client and messages are the referee, and every answer is the model's."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton
from serve_lab import BUNDLE, Puppet, picture, serving, until
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import edgecv_runtime as rt
from edgecv_runtime.errors import BadInput
from edgecv_runtime.serve import Server
from edgecv_runtime.serve.grpcmessages import CONTENTS, MESSAGES, classes


@contextlib.contextmanager
def calling(*models, **given):
    with (
        serving(*models, grpc_port=0, **given) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        yield server, client


@pytest.fixture(scope="module")
def served():
    with rt.load(BUNDLE) as model, calling(model) as (server, client):
        yield server, client, model


def given(name, array, datatype):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def typed(datatype, shape, **contents):
    """A request of the puppet or of the digits whose values stand in the message itself."""
    tensor = {"name": contents.pop("name", "x"), "datatype": datatype, "shape": shape, "contents": contents}
    return service_pb2.ModelInferRequest(model_name="puppet.network", inputs=[tensor])


def field(descriptor, name):
    of = descriptor.fields_by_name[name]
    return of.number, of.type, of.is_repeated, of.message_type.full_name if of.message_type else ""


def test_the_messages_are_those_of_triton():
    for name, ours in classes().items():
        theirs = getattr(service_pb2, name).DESCRIPTOR
        assert ours.DESCRIPTOR.full_name == theirs.full_name
        todo = [(ours.DESCRIPTOR, theirs)]
        while todo:
            mine, other = todo.pop()
            for each in mine.fields_by_name:
                assert field(mine, each) == field(other, each), (mine.full_name, each)
            for each in mine.nested_types_by_name:
                todo.append((mine.nested_types_by_name[each], other.nested_types_by_name[each]))
        if name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents"):
            assert set(ours.DESCRIPTOR.fields_by_name) == set(theirs.fields_by_name)
    assert set(CONTENTS.values()) == set(MESSAGES["InferTensorContents"])


def test_a_client_of_triton_finds_its_way(served):
    _, client, _ = served
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits.network", "1")
    assert client.get_server_metadata().name == "edgecv"
    found = client.get_model_metadata("digits.network")
    assert (found.platform, list(found.versions)) == ("edgecv_onnx", ["1"])
    assert [(each.name, each.datatype, list(each.shape)) for each in found.inputs] == [
        ("image", "UINT8", [-1, 32, 32, 3])
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in found.outputs] == [("logits", "FP32", [-1, 10])]
    for name, version, why in [("digit", "", "did you mean 'digits'"), ("digits", "7", "has the versions 1, not '7'")]:
        with pytest.raises(InferenceServerException, match=why) as caught:
            client.get_model_metadata(name, version)
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_tensors_and_pictures_are_answered_as_by_the_model(served):
    server, client, model = served
    frames = [picture(seed, (40 + 8 * seed, 48)) for seed in range(3)]
    rows = model.tensor(frames)
    answer = client.infer("digits.network", [given("image", rows, "UINT8")], request_id="mine")
    expected = np.concatenate([model.run({"image": row[None]})["logits"] for row in rows])
    assert np.array_equal(answer.as_numpy("logits"), expected)
    response = answer.get_response()
    digest = model.bundle.sha256(model.info.variant)[:8]
    assert (response.id, response.parameters["content"].string_param) == ("mine", f"digits float32 {digest}")
    files = np.array([bytes(cv2.imencode(".png", frame)[1]) for frame in frames], object)
    answer = client.infer("digits", [given("image", files, "BYTES")])
    results = [model(frame) for frame in frames]
    assert [json.loads(each) for each in answer.as_numpy("result")] == [each.as_dict() for each in results]
    assert np.array_equal(answer.as_numpy("scores"), np.stack([each.scores for each in results]))
    wished = client.infer("digits", [given("image", files, "BYTES")], outputs=[triton.InferRequestedOutput("label")])
    assert [each.name for each in wished.get_response().outputs] == ["label"]
    counts = {(each["model"], each["status"]): each["requests"] for each in server.counts()}
    assert counts[("digits", "200")] >= 2


def test_values_may_stand_in_the_message(served):
    _, client, model = served
    row = model.tensor([picture(4)])
    request = typed("UINT8", row.shape, name="image", uint_contents=row.ravel().tolist())
    request.model_name = "digits.network"
    answer = client._client_stub.ModelInfer(request)
    assert np.array_equal(
        np.frombuffer(answer.raw_output_contents[0], np.float32), model.run({"image": row})["logits"][0]
    )
    request = typed("BYTES", [1], name="image", bytes_contents=[bytes(cv2.imencode(".png", picture(5))[1])])
    request.model_name = "digits"
    assert client._client_stub.ModelInfer(request).outputs[0].name == "result"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (typed("FP32", [1, 4], fp32_contents=[1, 2, 3]), r"\[1, 4\] FP32 are 16 bytes, got 12"),
        (typed("FP32", [1, 4], fp64_contents=[1, 2, 3, 4]), "FP32 stands in fp32_contents, got fp64_contents"),
        (typed("FP32", [1, 4]), r"are 16 bytes, got 0"),
        (typed("FP16", [1, 4]), "FP16 has no contents"),
        (typed("FP99", [1, 4], fp32_contents=[1]), "FP99 stands in no contents"),
        (typed("INT8", [1, 1], int_contents=[200]), r"INT8 values lie in -128..127, got 200..200"),
        (typed("FP64", [1, 4], fp64_contents=[1, 2, 3, 4]), "its datatype is FP32, got FP64"),
        (typed("FP32", [1, 4], name="z", fp32_contents=[1, 2, 3, 4]), "expected 'x' and no other, got 'z'"),
        (typed("FP32", [1, 4], name="z\n", fp32_contents=[1, 2, 3, 4]), r"got 'z\\n'"),
        (typed("FP32", [1, -4], fp32_contents=[1, 2, 3, 4]), "each from 0 to"),
        (service_pb2.ModelInferRequest(model_name="puppet.network"), "expected 'x' and no other, got none"),
        (
            service_pb2.ModelInferRequest(model_name="puppet.network", raw_input_contents=[b"x"]),
            "raw_input_contents has 1",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(request_, why):
    with calling(Puppet()) as (_, client):
        with pytest.raises(triton._client.grpc.RpcError, match=why) as caught:
            client._client_stub.ModelInfer(request_)
        assert caught.value.code().name == "INVALID_ARGUMENT"
        assert "\n" not in caught.value.details()


def test_both_kinds_of_data_are_refused_and_so_are_sequences():
    request = typed("FP32", [1, 4], fp32_contents=[1, 2, 3, 4])
    request.raw_input_contents.append(b"\0" * 16)
    with calling(Puppet()) as (_, client):
        with pytest.raises(triton._client.grpc.RpcError, match="both contents and raw_input_contents"):
            client._client_stub.ModelInfer(request)
        with pytest.raises(InferenceServerException, match="this server has no sequences"):
            client.infer("puppet.network", [given("x", np.ones((1, 4), np.float32), "FP32")], sequence_id=3)


def test_limits_are_those_of_http():
    puppet = Puppet()
    x = [given("x", np.ones((1, 4), np.float32), "FP32")]
    with calling(puppet, waiting=1, body_mb=1) as (server, client):
        puppet.go.clear()
        held = []
        first = client.async_infer("puppet.network", x, lambda result, error: held.append((result, error)))
        until(lambda: puppet.rows)
        with pytest.raises(InferenceServerException, match="1 requests wait already") as caught:
            client.infer("puppet.network", x)
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        puppet.go.set()
        until(lambda: held)
        assert held[0][1] is None
        del first
        with pytest.raises(InferenceServerException, match="a computation|a number is negative"):
            client.infer("puppet.network", [given("x", -np.ones((1, 4), np.float32), "FP32")])
        with pytest.raises(InferenceServerException, match="(?i)larger than max|message larger") as caught:
            client.infer("puppet.network", [given("x", np.ones((1 << 17, 4), np.float32), "FP32")])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert {each["status"]: each["requests"] for each in server.counts()} == {"200": 1, "429": 1, "500": 1}


def test_who_has_no_time_is_told_and_no_clock_is_left_behind():
    puppet = Puppet()
    x = [given("x", np.ones((1, 4), np.float32), "FP32")]
    with calling(puppet) as (_, client):
        assert client.infer("puppet.network", x, timeout=2**62).as_numpy("y").tolist() == [[2.0] * 4]
        puppet.go.clear()
        with pytest.raises(
            InferenceServerException, match=r"not computed after the 0\.05 s of parameters\.timeout"
        ) as late:
            client.infer("puppet.network", x, timeout=50_000)
        assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        puppet.go.set()
        until(lambda: not [each for each in threading.enumerate() if isinstance(each, threading.Timer)])


def test_a_client_that_gives_up_is_not_computed():
    puppet = Puppet()
    x = [given("x", np.ones((1, 4), np.float32), "FP32")]
    with calling(puppet) as (server, client):
        puppet.go.clear()
        held = []
        client.async_infer("puppet.network", x, lambda result, error: held.append(error))
        until(lambda: puppet.rows)
        with pytest.raises(InferenceServerException, match="Deadline"):
            client.infer("puppet.network", x, client_timeout=0.2)
        until(lambda: any(each["status"] == "499" for each in server.counts()))
        puppet.go.set()
        until(lambda: held)
        time.sleep(0.05)
        assert puppet.rows == [1]


def test_a_client_that_never_sends_its_message_is_ended():
    grpc, go = triton._client.grpc, threading.Event()
    with calling(Puppet(), body_s=0.4, connections=4) as (server, client):
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
            hanging = [infer.future(iter(go.wait, True)) for _ in range(3)]
            began_s = time.monotonic()
            assert client.is_server_live()
            assert [each.exception().code().name for each in hanging] == ["CANCELLED"] * 3
            assert 0.3 < time.monotonic() - began_s < 5
            go.set()
            with pytest.raises(grpc.RpcError, match="no ModelInferRequest was sent"):
                infer(iter(()))
        answer = client.infer("puppet.network", [given("x", np.ones((1, 4), np.float32), "FP32")])
        assert answer.as_numpy("y").tolist() == [[2.0] * 4]


def test_connections_have_a_limit_and_those_that_say_nothing_an_end():
    with contextlib.ExitStack() as open_, calling(Puppet(), head_s=0.6, connections=4) as (server, client):
        assert client.is_server_live()
        began_s, ends_s = time.monotonic(), []
        where = ("127.0.0.1", server.grpc_port)
        for silent in [open_.enter_context(socket.create_connection(where, timeout=5)) for _ in range(8)]:
            with contextlib.suppress(ConnectionError):
                while silent.recv(4096):
                    pass
            ends_s.append(time.monotonic() - began_s)
        assert 0.3 < ends_s[-1] < 3
        assert client.is_server_live()
        assert triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}").is_server_live()


def test_garbage_costs_the_others_nothing(caplog):
    with calling(Puppet()) as (server, client):
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 4096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 512):
            with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=5) as stranger:
                stranger.sendall(sent)
        answer = client.infer("puppet.network", [given("x", np.ones((2, 4), np.float32), "FP32")])
        assert answer.as_numpy("y").shape == (2, 4)
        channel = triton._client.grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with channel, pytest.raises(triton._client.grpc.RpcError) as caught:
            infer(b"\xff\xff no message")
        assert (caught.value.code().name, caught.value.details()) == (
            "INVALID_ARGUMENT",
            "the request is no ModelInferRequest",
        )
        assert not caplog.records


def test_a_token_is_wanted_but_for_health():
    secret = "sesame-sesame-sesame"
    x = [given("x", np.ones((1, 4), np.float32), "FP32")]
    with calling(Puppet(), token=secret) as (_, client):
        assert client.is_server_ready()
        for headers in (None, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException, match="a token is needed") as caught:
                client.infer("puppet.network", x, headers=headers)
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        answer = client.infer("puppet.network", x, headers={"authorization": f"Bearer {secret}"})
        assert answer.as_numpy("y").tolist() == [[2.0] * 4]


def test_a_port_that_is_taken_is_said_so():
    with calling(Puppet()) as (server, _), pytest.raises(BadInput, match="cannot listen there for gRPC"):
        Server([], port=0, grpc_port=server.grpc_port)
