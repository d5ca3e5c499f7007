"""The page of `edgecv inspect --html`: whole, self-contained, and honest about what is missing."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

from edgecv import xray
from edgecv.cli.app import app
from edgecv.pages import svg
from edgecv.xray import page, pictures, subjects
from edgecv.xray.pictures import features, kernels, places, spectrum
from edgecv.xray.pictures.subject import Drawing, Subject
from edgecv_export.export import export
from edgecv_runtime import images
from edgecv_runtime.errors import ImageError
from edgecv_runtime.preprocess import Normalization, Preprocess
from tests.html_page import (
    Page,
    check_figures_follow_the_theme,
    check_ids_are_unique_and_references_arrive,
    check_nothing_is_fetched_and_nothing_runs,
    flat,
)

SIZE = (64, 64)
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "grey & <b>.png"
    random = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", random)[1].tobytes())
    return path


def write(what: str, path: Path, **options) -> tuple[str, list[str]]:
    said: list[str] = []
    with subjects.opened(what, xray.read(what, size=SIZE), **options) as subject:
        page.write(subject, path, say=said.append)
    return path.read_text(encoding="utf-8"), said


@pytest.fixture(scope="module")
def network_page(tmp_path_factory, photograph) -> tuple[Page, str]:
    text, said = write("mobilenet_v3_small", tmp_path_factory.mktemp("page") / "page.html", image=photograph)
    assert len(said) == len(pictures.PICTURES)
    return Page(text), text


def test_it_is_whole_and_fetches_nothing(network_page):
    parsed, text = network_page
    assert len(text) < MOST_BYTES
    check_nothing_is_fetched_and_nothing_runs(parsed, text)
    check_ids_are_unique_and_references_arrive(parsed)
    check_figures_follow_the_theme(parsed)


def test_every_picture_is_there_or_its_absence_is_explained(network_page):
    parsed, _ = network_page
    told = flat(parsed)
    for title in pictures.PICTURES:
        assert title in parsed.headings or f"{title}: " in told
    assert {"Receptive field by depth", "Feature maps", "Gradient norm by depth"} <= set(parsed.headings)
    assert "Attention distance: the network has no attention" in told
    assert "fresh weights" in told
    assert "grey & <b>.png" in told


def test_the_table_has_every_layer_and_the_totals(network_page):
    parsed, text = network_page
    found = xray.table(xray.read("mobilenet_v3_small", size=SIZE))
    told = flat(parsed)
    assert all(row.name in told for row in found.rows)
    assert f"{found.total.parameters:,} parameters" in told
    assert f"{found.total.macs:,} MACs" in told
    parts = [float(part) for part in re.findall(r"--part: ([\d.]+)", text)]
    assert sum(parts) == pytest.approx(1, abs=0.01)
    assert "depthwise separable" in told


def conv_file(path: Path, shape: tuple[int, ...], dtype: int, as_constant: bool) -> np.ndarray:
    """A file of another project: one convolution, a transposed one, and no names that help -> its weights."""
    weight = np.random.default_rng(1).standard_normal((5, 3, 3, 3)).astype(np.float32)
    nodes = []
    picture = "x"
    if dtype == TensorProto.UINT8:
        nodes += [
            helper.make_node("Cast", ["x"], ["f"], "a", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["f"], ["t"], "b", perm=[0, 3, 1, 2]),
        ]
        picture = "t"
    stored = numpy_helper.from_array(weight, "w")
    if as_constant:
        nodes.append(helper.make_node("Constant", [], ["w"], "k", value=stored))
    nodes += [
        helper.make_node("Conv", [picture, "w"], ["c"], "n1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "n2"),
        helper.make_node("ConvTranspose", ["r", "u"], ["y"], "n3", strides=[2, 2]),
    ]
    up = numpy_helper.from_array(np.ones((5, 2, 2, 2), np.float32), "u")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, *SIZE])],
        [up] if as_constant else [stored, up],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return weight


@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, *SIZE), TensorProto.FLOAT), ((1, *SIZE, 3), TensorProto.UINT8)], ids=["float", "uint8"]
)
def test_a_file_shows_its_kernels_and_maps(tmp_path, photograph, shape, dtype, as_constant):
    path = tmp_path / "other.onnx"
    weight = conv_file(path, shape, dtype, as_constant)
    with subjects.opened(str(path), xray.read(path), image=photograph) as subject:
        assert np.array_equal(kernels.of_file(subject), weight)
        stops = places.stops(subject.graph, None, SIZE)
        assert "r" in [stop.tensor for stop in stops]
        maps = dict(features.of_file(subject, stops))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = torch.from_numpy(subject.photo.feed.astype(np.float32))
        feed = feed if dtype == TensorProto.FLOAT else feed.permute(0, 3, 1, 2)
        by_hand = nn.functional.conv2d(feed, torch.from_numpy(weight), stride=2, padding=1).relu()[0]
        for stop, found in maps.items():
            if stop.tensor == "r":
                np.testing.assert_allclose(found, by_hand.numpy(), rtol=1e-4, atol=1e-3)
        assert session.run(None, {"x": subject.photo.feed})[0].shape == (1, 2, *SIZE)
        assert ("scaled to 0..1" in subject.photo.name) == (dtype == TensorProto.FLOAT)


def test_the_page_of_a_file_says_what_it_cannot_show(tmp_path, photograph):
    path = tmp_path / "other.onnx"
    conv_file(path, (1, 3, *SIZE), TensorProto.FLOAT, False)
    text, _ = write(str(path), tmp_path / "page.html", image=photograph)
    parsed = Page(text)
    check_nothing_is_fetched_and_nothing_runs(parsed, text)
    expected = {"Receptive field by depth", "First kernels", "Feature maps", "Spectrum after enlarging"}
    assert expected == set(parsed.headings) & set(pictures.PICTURES)
    assert flat(parsed).count("an ONNX file does not") == 2


def test_layers_whose_names_say_nothing_stand_by_resolution(tmp_path):
    """Thirty convolutions of two sizes, each with a name of its own, as PaddlePaddle names them."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", [f"t{i}", "w"], [f"t{i + 1}"], f"Conv@{i}", pads=[1] * 4, strides=[1 + (i == 15), 1]
            )
            for i in range(30)
        ],
        "graph",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("t30", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    stages = page._stages(xray.table(xray.read(path)))
    assert [(stage.name, len(stage.rows)) for stage in stages] == [("at 16x16", 15), ("at 16x8", 15)]


def test_a_bundle_gets_the_photograph_as_its_device_would(tmp_path, photograph):
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, 2, 1)
    network = nn.Sequential(stem, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    preprocess = Preprocess(SIZE, color="BGR")
    frames = np.random.default_rng(0).integers(0, 255, (8, *SIZE, 3), np.uint8)
    export(
        network, tmp_path / "bundle", name="small", preprocess=preprocess, normalization=Normalization(),
        labels=("a", "b", "c", "d"), images=frames,
    )  # fmt: skip
    what = str(tmp_path / "bundle")
    with subjects.opened(what, xray.read(what), image=photograph) as subject:
        seen = preprocess(images.read(photograph))
        assert np.array_equal(subject.photo.feed, seen[None])
        assert np.array_equal(subject.photo.shown, seen[:, :, ::-1])
        normalized = (seen / 255 - Normalization().mean) / Normalization().std
        wanted = stem(torch.from_numpy(normalized.transpose(2, 0, 1)[None]).float()).relu()[0].detach().numpy()
        maps = [found for _, found in features.of_file(subject, places.stops(subject.graph, None, SIZE))]
        assert any(found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-4) for found in maps)
        page.write(subject, tmp_path / "page.html")
    assert "small float32" in flat(Page((tmp_path / "page.html").read_text(encoding="utf-8")))


def test_a_network_that_enlarges_gets_its_spectrum():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 2, 2, 2))
    subject = Subject(xray.from_torch.read(network, (3, *SIZE)), network=network)
    with svg.style():
        found = spectrum.draw(subject)
    assert isinstance(found, Drawing)
    assert "1 by transposed convolution" in found.caption


def test_the_command_writes_the_page_and_reports_on_stderr(tmp_path, photograph):
    path = tmp_path / "page.html"
    asked = ["inspect", "lenet5", "--html", str(path), "--image", str(photograph), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "page: " in done.stderr
    assert done.stdout.startswith("{")
    assert "First kernels" in path.read_text(encoding="utf-8")


def test_weights_are_those_that_were_asked_for(tmp_path):
    from safetensors.torch import save_file

    from edgecv import models

    trained = models.create("lenet5", seed=7)
    path = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    with subjects.opened("lenet5", xray.read("lenet5"), weights=str(path)) as subject:
        assert all(
            torch.equal(one, two) for one, two in zip(subject.network.parameters(), trained.parameters(), strict=True)
        )
        assert str(path) in subject.whose


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet5", "--image", "x.png"], "give --html"),
        (["lenet5", "--weights", "imagenet"], "give --html"),
        (["lenet5", "--html", "page.html", "--image", "nowhere.png"], "nowhere.png"),
        (["lenet5", "--html", "page.html", "--weights", "imagenett"], "no weights"),
        (["FILE", "--html", "page.html", "--weights", "imagenet"], "has its own"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    conv_file(tmp_path / "other.onnx", (1, 3, *SIZE), TensorProto.FLOAT, False)
    done = CliRunner().invoke(app, ["inspect", *("other.onnx" if each == "FILE" else each for each in arguments)])
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_a_broken_photograph_is_refused(tmp_path, photograph):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photograph.read_bytes()[:500])
    with pytest.raises(ImageError, match="truncated"), subjects.opened("lenet5", xray.read("lenet5"), image=broken):
        pass


def test_an_input_that_is_no_picture_is_said(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"], "n")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7, 32, 32]) for name in "xy"]
    path = tmp_path / "seven.onnx"
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=9)
    onnx.save(model, path)
    with subjects.opened(str(path), xray.read(path)) as subject:
        assert subject.photo is None
        assert "picture" in features.draw(subject).why


def test_kernels_are_drawn_in_their_colours(tmp_path):
    """The embedded picture of a red and a blue kernel, decoded."""
    network = nn.Sequential(nn.Conv2d(3, 2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[0, 0] = 1
        network[0].weight[1, 2] = 1
    subject = Subject(xray.from_torch.read(network, (3, *SIZE)), network=network)
    with svg.style():
        text = svg.render(kernels.draw(subject).figure, "k", "kernels")
    (data,) = re.findall(r"data:image/png;base64,\s*([^\"]+)", text)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    colours = {tuple(int(each) for each in pixel) for pixel in decoded.reshape(-1, 4) if pixel[3]}
    assert colours == {(127, 127, 255, 255), (255, 127, 127, 255)}  # BGR: red and blue on mid grey
