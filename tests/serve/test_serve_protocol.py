"""The protocol: what tritonclient sends and reads, what a request may be, and one line for what it may not."""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tritonclient.http as triton
from serve_lab import RAW, Puppet, ask, digits, named, numbers, picture, raw, serving
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor, serialize_byte_tensor

import edgecv_runtime as rt
from edgecv_runtime import images
from edgecv_runtime.datatypes import HEADER_LENGTH
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.serve import Always, Offer, protocol

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
import faults_lab


def encoded(frame, kind=".png"):
    done, data = cv2.imencode(kind, frame)
    assert done
    return bytes(data)


def wanted(name, array, datatype="BYTES", binary=True):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def files(*frames, kind=".png"):
    return np.array([encoded(frame, kind) for frame in frames], object)


@pytest.fixture(scope="module")
def served():
    with digits() as (server, model):
        yield server, model


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(f"127.0.0.1:{served[0].port}") as made:
        yield made


def test_a_client_of_triton_finds_its_way(served, client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert client.get_model_metadata("digits.network", "1") == {
        "name": "digits.network",
        "versions": ["1"],
        "platform": "edgecv_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        "parameters": {"content": f"digits float32 {served[1].bundle.sha256('float32')[:8]}"},
    }
    assert client.get_model_metadata("digits")["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    names = [(each["name"], each["state"]) for each in client.get_model_repository_index()]
    assert names == [("digits", "READY"), ("digits.network", "READY")]
    for name, version in (("digit", ""), ("digits", "7")):
        with pytest.raises(InferenceServerException, match="no model 'digit'; did you mean|versions 1, not '7'"):
            client.get_model_metadata(name, version)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_are_those_of_the_network(served, client, binary_in, binary_out):
    _, model = served
    given = np.stack([cv2.resize(picture(seed), (32, 32)) for seed in range(3)])
    outputs = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    answer = client.infer("digits.network", [wanted("image", given, "UINT8", binary_in)], "1", outputs, "mine")
    expected = np.concatenate([model.run({"image": row[None]})["logits"] for row in given])
    assert np.array_equal(answer.as_numpy("logits"), expected)
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["parameters"] == {
        "content": f"digits {model.info.variant} {model.bundle.sha256(model.info.variant)[:8]}"
    }


def test_pictures_are_labelled_as_by_the_model_itself(served, client):
    _, model = served
    frames = [picture(1, (40, 48)), picture(2, (160, 64)), picture(3, (32, 32))]
    answer = client.infer("digits", [wanted("image", files(*frames))])
    results = [model(frame) for frame in frames]
    assert [label.decode() for label in answer.as_numpy("label")] == [each.label for each in results]
    assert np.array_equal(answer.as_numpy("scores"), np.stack([each.scores for each in results]))
    assert np.array_equal(answer.as_numpy("score"), np.float32([each.score for each in results]))
    assert [json.loads(each) for each in answer.as_numpy("result")] == [each.as_dict() for each in results]


def test_a_jpeg_is_decoded_as_on_the_device(served, client):
    _, model = served
    data = encoded(picture(5, (96, 128)), ".jpg")
    answer = client.infer("digits", [wanted("image", np.array([data], object))])
    assert np.array_equal(answer.as_numpy("scores")[0], model(images.decode(data)).scores)


def test_a_file_alone_and_base64_are_the_same_picture(served):
    server, model = served
    frame = picture(6)
    expected = model(frame).as_dict()
    status, _, alone = ask(server, "/v2/models/digits/infer", encoded(frame), **RAW)
    assert status == 200
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(encoded(frame)).decode()]}
    in_json = {"inputs": [{**tensor, "parameters": {"content_type": "base64"}}], "outputs": [{"name": "result"}]}
    _, _, quoted = ask(server, "/v2/models/digits/infer", in_json)
    assert json.loads(alone["outputs"][0]["data"][0]) == json.loads(quoted["outputs"][0]["data"][0]) == expected
    assert [each["name"] for each in quoted["outputs"]] == ["result"]
    row = np.ascontiguousarray(cv2.resize(frame, (32, 32)))
    _, _, tensors = ask(server, "/v2/models/digits.network/infer", row.tobytes() * 2, **RAW)
    assert tensors["outputs"][0]["shape"] == [2, 10]
    assert tensors["outputs"][0]["data"][:10] == model.run({"image": row[None]})["logits"][0].tolist()


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_masks_and_boxes_are_those_of_the_model(task, tmp_path):
    preprocess = rt.Preprocess((64, 96), "letterbox")
    frames = [picture(seed, size) for seed, size in ((0, (80, 96)), (1, (48, 160)), (2, (64, 96)))]
    made = faults_lab.network(task, preprocess, 0)
    path = faults_lab.bundle(task, made, tmp_path / "bundle", preprocess, preprocess.batch(frames * 3))
    with rt.load(path) as model, serving(model) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            answer = client.infer(task, [wanted("image", files(*frames))])
            metadata = client.get_model_metadata(task)
        alone = ask(server, f"/v2/models/{task}/infer", encoded(frames[1]), **RAW)[2]
        results = [model(frame) for frame in frames]
        assert [json.loads(each) for each in answer.as_numpy("result")] == [each.as_dict() for each in results]
        assert [each["name"] for each in metadata["outputs"]] == [each["name"] for each in alone["outputs"]]
        if task == "segmentation":
            masks = [cv2.imdecode(np.frombuffer(each, np.uint8), -1) for each in answer.as_numpy("mask")]
            assert all(np.array_equal(mask, each.mask) for mask, each in zip(masks, results, strict=True))
            (png,) = (each for each in alone["outputs"] if each["name"] == "mask")
            assert png["parameters"] == {"content_type": "base64"}
            assert base64.b64decode(png["data"][0]) == results[1].png()
        else:
            assert sum(map(len, results)) > 0
            whose = answer.as_numpy("picture")
            for number, each in enumerate(results):
                assert np.array_equal(answer.as_numpy("box")[whose == number], each.xyxy)
                assert np.array_equal(answer.as_numpy("score")[whose == number], each.confidence)
                named = [label.decode() for label in answer.as_numpy("label")[whose == number]]
                assert named == [each.labels[kind] for kind in each.class_id]


def test_versions_are_served_side_by_side(tmp_path):
    with rt.load(named("nine", tmp_path)) as nine, rt.load(named("ten", tmp_path)) as ten:
        offers = [Offer("digits", "9", Always(nine)), Offer("digits", "10", Always(ten))]
        with serving(*offers, Puppet()) as server:
            data = encoded(picture(0))
            contents = {
                path: ask(server, f"/v2/models/digits{path}/infer", data, **RAW)[2]["parameters"]["content"].split()[0]
                for path in ("", "/versions/9", "/versions/10")
            }
            assert contents == {"": "ten", "/versions/9": "nine", "/versions/10": "ten"}
            assert ask(server, "/v2/models/digits")[2]["versions"] == ["9", "10"]
            assert ask(server, "/v2/models/puppet.network/infer", numbers(3))[2]["outputs"][0]["data"] == [6.0] * 4


# What is wrong with a request is said in one line


def tensor(**more):
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4], **more}]}


def with_binary(data, size=None, **more):
    plain = tensor(data=None, parameters={"binary_data_size": len(data) if size is None else size}, **more)
    document = json.dumps(plain).encode()
    return document + data, {"Inference_Header_Content_Length": str(len(document))}


PLAIN = json.dumps(tensor()).encode()
DEEP = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":'
FOUR = struct.pack("<4f", 1, 2, 3, 4)
WRONG = {
    "no JSON": (b"{", {}, "not valid JSON"),
    "not UTF-8": (b"\xff\xfe", {}, "not valid JSON"),
    "nothing": (b"", {}, "not valid JSON"),
    "deep": (b'{"inputs":' + b"[" * 100_000, {}, "Expected 'object', got 'array'"),
    "deep data": (DEEP + b"[" * 100_000, {}, "not valid JSON"),
    "a list": (b"[]", {}, "Expected 'object', got 'array'"),
    "unknown key": ({**tensor(), "inputz": 1}, {}, "unknown key 'inputz'; did you mean 'inputs'"),
    "no inputs": ({"inputs": []}, {}, "inputs: expected 'x' and no other, got none"),
    "two inputs": ({"inputs": tensor()["inputs"] * 2}, {}, "expected 'x' and no other, got 'x', 'x'"),
    "another name": (tensor(name="y"), {}, "expected 'x' and no other, got 'y'"),
    "a name of controls": (tensor(name="a\n\x1b[31m\u202e"), {}, "no other, got 'a\\n\\x1b[31m\\u202e'"),
    "another type": (tensor(datatype="INT8"), {}, "its datatype is FP32, got INT8"),
    "no type": (tensor(datatype="FP23"), {}, "its datatype is FP32, got 'FP23'; did you mean"),
    "negative size": (tensor(shape=[-1, 4]), {}, "shape [-1, 4] is none"),
    "too few": (tensor(data=[1, 2]), {}, "shape [1, 4] holds 4 values, got 2"),
    "transposed": (tensor(data=[[1, 2], [3, 4]]), {}, "its data are lists of [2, 2], and its shape is [1, 4]"),
    "nested a list": (tensor(data=[1, [2, 3], 4]), {}, "ragged"),
    "ragged": (tensor(data=[[1], [2, 3]]), {}, "ragged"),
    "words": (tensor(data=["a"] * 4), {}, "does not hold FP32 values alone"),
    "too large": (tensor(data=[1e300] * 4), {}, "holds values that are no FP32"),
    "huge shape": (tensor(shape=[2**62, 2**62]), {}, "each from 0 to 2147483647"),
    "endless size": (tensor(shape=[10**400, 4]), {}, "is none: 8 sizes at most"),
    "nothing, hugely": (tensor(shape=[2**31 - 1, 0, 2**31 - 1, 2**31 - 1], data=[]), {}, "cannot be"),
    "true of numbers": (tensor(data=[True, 2, 3, 4]), {}, "does not hold FP32 values alone"),
    "true of lists": (tensor(data=[[1, 2, 3, False]]), {}, "does not hold FP32 values alone"),
    "float shape": (tensor(shape=[1.5, 4]), {}, "Expected 'int', got 'float'"),
    "neither": (tensor(data=None), {}, "neither data nor parameters.binary_data_size"),
    "another shape": (tensor(shape=[2, 2]), {}, "has the shape [N, 4], got [2, 2]"),
    "no rows": (tensor(shape=[0, 4], data=[]), {}, "1 to 64 rows"),
    "many rows": (tensor(shape=[65, 4], data=[0] * 260), {}, "1 to 64 rows"),
    "an output": ({**tensor(), "outputs": [{"name": "z"}]}, {}, "outputs: there is no 'z'"),
    "an output twice": ({**tensor(), "outputs": [{"name": "y"}] * 2}, {}, "'y' is asked for more than once"),
    "top k": ({**tensor(), "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, {}, "is not served"),
    "a sequence": ({**tensor(), "parameters": {"sequence_id": 4}}, {}, "has no sequences"),
    "no flag": ({**tensor(), "parameters": {"binary_data_output": "yes"}}, {}, "expected true or false, got yes"),
    "ages": ({**tensor(), "parameters": {"timeout": 10**400}}, {}, "expected microseconds, got 1000"),
    "no time": ({**tensor(), "parameters": {"timeout": -1}}, {}, "expected microseconds, got -1"),
    "truncated": (*with_binary(FOUR[:-1]), "are 16 bytes, got 15"),
    "claims more": (*with_binary(FOUR, 17), "is 17, and 16 bytes follow the JSON"),
    "claims true": (*with_binary(FOUR[:1], True), "is True, and 1 bytes follow"),
    "unclaimed": (PLAIN + FOUR, {"Inference_Header_Content_Length": str(len(PLAIN))},
                  "16 bytes follow the JSON, and no binary_data_size claims them"),
    "length": (json.dumps(tensor()).encode(), {"Inference_Header_Content_Length": "9999"}, "at most the"),
    "no length": (json.dumps(tensor()).encode(), {"Inference_Header_Content_Length": "-1"}, "is '-1'"),
    "alone": (FOUR[:-1], {"Inference_Header_Content_Length": "0"}, "has 15 bytes, expected 16 for each row of 'x'"),
    "nothing alone": (b"", {"Inference_Header_Content_Length": "0"}, "has 0 bytes"),
    "negative": (tensor(data=[-1] * 4), {}, "a number is negative"),
}  # fmt: skip


@pytest.fixture(scope="module")
def puppet():
    with serving(Puppet()) as server:
        yield server


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(puppet, case):
    body, headers, told = WRONG[case]
    status, answered, answer = ask(puppet, "/v2/models/puppet.network/infer", body, **headers)
    assert answered["content-type"] == "application/json"
    assert list(answer) == ["error"]
    assert told in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 400
    assert status == (500 if case == "negative" else 400)
    assert ask(puppet, "/v2/models/puppet.network/infer", numbers(1))[0] == 200


def listed(*elements, cut=0):
    """A request of a BYTES tensor in binary, `cut` off -> (body, headers)."""
    data = b"".join(struct.pack("<I", len(each)) + each for each in elements)
    data = data[: len(data) - cut]
    described = {"name": "image", "shape": [len(elements)], "datatype": "BYTES"}
    described["parameters"] = {"binary_data_size": len(data)}
    document = json.dumps({"inputs": [described]}).encode()
    return document + data, {"Inference_Header_Content_Length": str(len(document))}


def test_a_file_that_is_no_picture_is_told_so():
    several = encoded(np.zeros((600, 1000, 3), np.uint8))  # each may be, both together may not
    with digits(max_pixels=1_000_000) as (server, _):
        for (body, headers), told in (
            ((b"", RAW), "picture 0: the file is empty"),
            ((b"no picture", RAW), "picture 0: not an image"),
            ((encoded(picture(0), ".jpg")[:-40], RAW), "picture 0: the file is truncated"),
            ((encoded(np.zeros((3000, 4000, 3), np.uint8)), RAW), "picture 0: 4000x3000 is more than 1 megapixels"),
            (listed(several, several), "picture 1: 1000x600 is more than"),
            (listed(b"one", b"two", cut=1), "input 'image': element 1 is truncated"),
            (listed(b"one", b"two", cut=5), "input 'image': element 1 is truncated"),
            (listed(), "a request has 1 to 64 rows"),
        ):
            status, _, answer = ask(server, "/v2/models/digits/infer", body, **headers)
            assert status == 400
            assert answer["error"].startswith(told)


def test_what_pictures_become_counts_as_memory():
    body, headers = listed(*[encoded(picture(0))] * 64)
    with digits(memory_mb=(len(body) + 64 * 32 * 32 * 3 - 1) / 2**20) as (server, _):
        status, _, answer = ask(server, "/v2/models/digits/infer", body, **headers)
        assert (status, answer["error"][:27]) == (413, "one request takes more than")
        assert ask(server, "/v2/models/digits/infer", encoded(picture(0)), **RAW)[0] == 200


def test_what_is_said_twice_is_not_guessed(puppet):
    path, body = "/v2/models/puppet.network/infer", json.dumps(tensor()).encode()
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % path.encode()
    length = b"Content-Length: %d\r\n" % len(body)
    for more, sent, told in (
        (length + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n", b"send one of them"),
        (length + b"%s: 3\r\n%s: 4\r\n\r\n" % ((HEADER_LENGTH.encode(),) * 2), body, b"is said 2 times"),
        (length + b"Content-Length: 3\r\n\r\n", body, b"Invalid HTTP"),
    ):
        said = raw(puppet, head + more + sent)
        assert said.startswith(b"HTTP/1.1 400 ")
        assert told in said
    assert ask(puppet, path, body, Content_Encoding="Identity")[0] == 200


def test_paths_that_are_none(puppet):
    assert ask(puppet, "/v2/models/puppet.network/infer/", numbers(1))[0] == 404  # sent to no other place
    assert ask(puppet, "/")[0] == ask(puppet, "/v2/models")[0] == ask(puppet, "/v2/models/puppet/nonsense")[0] == 404
    status, headers, answer = ask(puppet, "/v2/models/puppet/infer")
    assert (status, answer) == (405, {"error": "Method Not Allowed"})
    assert headers["allow"] == "POST"


# Elements of BYTES, and types: against Triton's own


@pytest.mark.parametrize("values", [[], [b""], [b"a\x00\x00", b"", b"\xff" * 300], [b"x"]])
def test_bytes_are_written_as_triton_reads_them_and_back(values):
    array = np.empty(len(values), object)
    array[:] = values
    theirs = serialize_byte_tensor(array)
    theirs = theirs.item() if theirs.size else b""
    assert protocol.to_binary(array) == theirs
    assert protocol._elements(memoryview(theirs), "x") == values
    assert list(deserialize_bytes_tensor(protocol.to_binary(array))) == values


@pytest.mark.parametrize("dtype", [each for each in protocol.DTYPES if each not in ("object", "float16")])
def test_values_of_each_type_come_through_json_as_they_are(dtype):
    kind = np.dtype(dtype)
    ends = {"b": lambda: (0, 1), "f": lambda: (np.finfo(kind).min, np.finfo(kind).max)}.get(
        kind.kind, lambda: (np.iinfo(kind).min, np.iinfo(kind).max)
    )()
    array = np.array([*ends, 1], kind)
    datatype = protocol.DTYPES[dtype]
    for binary in (True, False):
        body = triton.InferenceServerClient.generate_request_body(
            [wanted("x", array, datatype, binary)], outputs=[triton.InferRequestedOutput("x", binary_data=binary)]
        )
        length = None if body[1] is None else str(body[1])
        asked = protocol.read(bytearray(body[0]), length, TensorSpec("x", dtype, ("N",)), ["x"])
        assert np.array_equal(asked.input, array)
        document, size = protocol.write("m", "1", "", asked, {"x": asked.input})
        answer = triton.InferenceServerClient.parse_response_body(document, header_length=size)
        assert np.array_equal(answer.as_numpy("x"), array)


def test_what_json_cannot_say_is_no_number():
    for value in (np.nan, np.inf):
        asked = protocol.Request(np.zeros(1))
        with pytest.raises(rt.errors.ComputationError, match="NaN or infinities, which JSON has not"):
            protocol.write("m", "1", "", asked, {"y": np.array([value], np.float32)})


def test_nested_data_of_the_shape_that_is_said_are_taken(puppet):
    nested = tensor(data=[[1, 2, 3, 4]])
    assert (
        ask(puppet, "/v2/models/puppet.network/infer", nested)[2]
        == ask(puppet, "/v2/models/puppet.network/infer", tensor())[2]
    )


def test_json_is_counted_by_what_it_becomes():
    with serving(Puppet(), memory_mb=8, body_mb=4) as server:
        many = b"[]," * 300_000
        status, _, answer = ask(server, "/v2/models/puppet.network/infer", DEEP + b"[" + many + b"[]]}]}")
        assert (status, "one request takes more than the 8 MB" in answer["error"]) == (413, True)
        assert ask(server, "/v2/models/puppet.network/infer", numbers(1))[0] == 200
