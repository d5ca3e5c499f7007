"""Weights and pictures that are the same everywhere, and what the published implementations compute from them.

`python tests/models/zoo_reference.py` rewrites reference_logits.json and state_dicts.json.gz where torchvision and timm
are installed; the tests need neither.
"""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgecv import models
from edgecv.models import alexnet, vgg

OWN = ("lenet", "unet", "rtmdet", "wavenet")  # families that neither library has

HERE = Path(__file__).parent
LOGITS = HERE / "reference_logits.json"
STATE_DICTS = HERE / "state_dicts.json.gz"
# Under other names in timm, with the shapes in the same order.
TIMM = (
    "se_resnet50",
    "mobilenet_v1",
    "efficientnet_lite",
    "convnext_atto",
    "convnext_femto",
    "convnext_pico",
    "convnext_nano",
)


def noise(count: int, seed: int) -> Tensor:
    """Numbers in 0..1 that no library version changes."""
    x = torch.arange(count, dtype=torch.float64) * 12.9898 + seed * 78.233
    return (torch.sin(x) * 43758.5453) % 1.0


def fill(tensors: Mapping[str, Tensor]) -> None:
    """Give every tensor of a state dict values that keep the signal alive and differ from tensor to tensor."""
    for index, (name, tensor) in enumerate(tensors.items()):
        u = noise(tensor.numel(), index).reshape(tensor.shape)
        kind = name.rsplit(".", 1)[-1]
        if not tensor.is_floating_point():
            continue
        if kind.endswith("weight") and tensor.ndim > 1:
            values = (2 * u - 1) * (5 / tensor[0].numel()) ** 0.5  # keeps the signal, without chaos
        elif kind in ("weight", "running_var", "gamma", "layer_scale"):
            values = 0.5 + u
        else:
            values = u - 0.5
        tensor.copy_(values)


def picture(height: int, width: int) -> Tensor:
    """One picture -> (1, 3, height, width)."""
    return (2 * noise(3 * height * width, 1000) - 1).reshape(1, 3, height, width).float()


@torch.inference_mode()
def logits(network: nn.Module, name: str) -> list[float]:
    """The first eight logits for a picture whose sides are odd and even, where the published code takes such.

    Of segmentation, those of one pixel.
    """
    size = (224, 224) if name.startswith("vit") else (75, 64)
    outputs = network.eval()(picture(*size))
    outputs = outputs["out"] if isinstance(outputs, dict) else outputs
    return (outputs[0, :8] if outputs.ndim == 2 else outputs[0, :8, 20, 41]).tolist()


def on_meta(name: str, **options: int) -> models.Network:
    """A network with shapes and no memory."""
    with torch.device("meta"):
        return models.create(name, **options)


def narrow(name: str, classes: int = 1000) -> models.Network:
    """A network of the zoo; AlexNet and VGG with 64 instead of 4096 hidden units, which saves most of their weights."""
    family = {"alexnet": alexnet.VARIANTS, "vgg": vgg.VARIANTS}.get(models.spec(name).family)
    if family is None:
        return models.create(name, classes=classes)
    build = alexnet.AlexNet if name == "alexnet" else vgg.VGG
    return build(family[name]._replace(hidden=64), classes, 3)


def narrow_published(network: nn.Module) -> nn.Module:
    """The same for torchvision's."""
    linears = [key for key, layer in network.classifier.named_children() if isinstance(layer, nn.Linear)]
    features = network.classifier[int(linears[0])].in_features
    for key, (inputs, outputs) in zip(linears, ((features, 64), (64, 64), (64, 1000)), strict=True):
        network.classifier[int(key)] = nn.Linear(inputs, outputs)
    return network


def published_logits() -> dict[str, list[float]]:
    return json.loads(LOGITS.read_text())


def published_state_dicts() -> dict[str, dict[str, list[int]]]:
    return json.loads(gzip.decompress(STATE_DICTS.read_bytes()))


def published(name: str) -> nn.Module:
    import timm
    import torchvision

    if name.startswith("mobilenet_v1"):
        width = {"mobilenet_v1_025": 0.25, "mobilenet_v1_050": 0.5, "mobilenet_v1_075": 0.75}.get(name, 1.0)
        return timm.models.efficientnet._gen_mobilenet_v1("mobilenetv1_100", width)
    if name in ("vit_tiny", "vit_small"):
        heads = {"vit_tiny": 3, "vit_small": 6}[name]
        return torchvision.models.VisionTransformer(224, 16, 12, heads, 64 * heads, 256 * heads)
    if name.startswith(TIMM):
        return timm.create_model(f"tf_{name}" if "lite" in name else name.replace("se_", "se"))
    if models.spec(name).task == "segmentation":
        options = {"weights_backbone": None} | ({"aux_loss": True} if name.startswith("deeplab") else {})
        return getattr(torchvision.models.segmentation, name)(**options)
    options = {"init_weights": False} if models.spec(name).family in ("vgg", "googlenet") else {}
    return getattr(torchvision.models, name)(**options)


def main() -> None:
    import timm

    expected, states = {}, {}
    for name in models.names():
        if models.spec(name).family in OWN:
            continue
        with torch.device("meta"):
            states[name] = {key: list(value.shape) for key, value in published(name).state_dict().items()}
        if name in ("alexnet", "vgg11_bn", "vgg16"):
            network = narrow_published(published(name))
        elif models.spec(name).parameters < 40e6:
            network = published(name)
        else:
            continue
        fill(network.state_dict())
        expected[name] = [round(value, 5) for value in logits(network, name)]
    with torch.device("meta"):
        theirs = timm.create_model("vit_tiny_patch16_224").state_dict()
    states["vit_tiny by timm"] = {key: list(value.shape) for key, value in theirs.items()}
    LOGITS.write_text(json.dumps(expected, indent=1) + "\n")
    STATE_DICTS.write_bytes(gzip.compress(json.dumps(states).encode(), mtime=0))


if __name__ == "__main__":
    main()
