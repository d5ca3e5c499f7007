import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgecv_runtime import onnxfile
from edgecv_runtime.errors import ModelFileError


def make_model(opset=17, ir_version=8, domain=""):
    nodes = [helper.make_node("Relu" if not domain else "Strange", ["x"], ["y"], domain=domain)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 4, 4])]
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets)
    model.ir_version = ir_version
    helper.set_model_props(model, {"edgecv.name": "naïve"})
    return model


def test_the_header_is_what_the_onnx_package_reads(exported):
    """Oracle: the onnx package."""
    path = exported / "model.onnx"
    model, header = onnx.load(path), onnxfile.read(path)
    assert header.ir_version == model.ir_version
    assert header.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert sum(header.operators.values()) == len(model.graph.node)
    assert [spec.name for spec in header.inputs] == ["image"]
    assert header.inputs[0].shape == ("batch", 32, 32, 3)
    assert (header.inputs[0].dtype, header.outputs[0].dtype) == ("uint8", "float32")
    assert header.last_operators["logits"] == "Gemm"


def test_metadata_may_hold_any_text(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(make_model(), path)
    assert onnxfile.read(path).metadata == {"edgecv.name": "naïve"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "an HTML or XML page"),
        (b"\n  <html>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer: run 'git lfs pull'"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (b'{"a": 1}', "a JSON document"),
        (b"hello world, this is no model", "not a whole ONNX file"),
    ],
)
def test_other_kinds_of_files_are_named(content, said, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=said) as caught:
        onnxfile.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.onnx: cannot be read: No such file"):
        onnxfile.read(tmp_path / "none.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, exported, tmp_path):
    whole = (exported / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelFileError, match="not a whole ONNX file"):
        onnxfile.read(path)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (make_model(opset=99), "opset 99 is outside"),
        (make_model(opset=3), "opset 3 is outside"),
        (make_model(ir_version=99), "IR version 99 is outside"),
        (make_model(domain="acme.secret"), "custom operators of acme.secret"),
    ],
)
def test_versions_and_operators_out_of_range_are_refused(model, said, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=said):
        onnxfile.read(path)


@pytest.mark.parametrize(
    ("location", "said"),
    [("/etc/passwd", "outside"), ("../secret.bin", "outside"), ("none.bin", "is missing"), ("link.bin", "is a link")],
)
def test_external_data_stays_in_the_folder(location, said, tmp_path):
    model = make_model()
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"secret")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=said):
        onnxfile.read(folder / "model.onnx")


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.floats(0, 1))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_give_a_header_or_a_typed_error(exported, position, value, cut):
    data = bytearray((exported / "model.onnx").read_bytes())
    data[int(position * len(data))] = value
    try:
        onnxfile.parse(bytes(data[: max(1, int(cut * len(data)))]), "m.onnx")
    except ModelFileError as exc:
        assert "\n" not in str(exc)


def test_external_data_hidden_in_an_attribute_is_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    model = make_model()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="outside"):
        onnxfile.read(path)
