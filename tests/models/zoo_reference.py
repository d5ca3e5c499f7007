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

HERE = Path(__file__).parent
LOGITS = HERE / "reference_logits.json"
STATE_DICTS = HERE / "state_dicts.json.gz"
TIMM = ("efficientnet_lite", "convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano")


def noise(count: int, seed: int) -> Tensor:
    """Numbers in 0..1 that no library version changes."""
    x = torch.arange(count, dtype=torch.float64) * 12.9898 + seed * 78.233
    return (torch.sin(x) * 43758.5453) % 1.0


def fill(tensors: Mapping[str, Tensor]) -> None:
    """Give every tensor of a state dict values that keep the signal alive and differ from tensor to tensor."""
    for index, (name, tensor) in enumerate(tensors.items()):
        u = noise(tensor.numel(), index).reshape(tensor.shape)
        kind = name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            continue
        if kind == "weight" and tensor.ndim > 1:
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
def logits(network: nn.Module) -> list[float]:
    """The first eight logits for a picture whose sides are odd and even."""
    return network.eval()(picture(75, 64))[0, :8].tolist()


def published_logits() -> dict[str, list[float]]:
    return json.loads(LOGITS.read_text())


def published_state_dicts() -> dict[str, dict[str, list[int]]]:
    return json.loads(gzip.decompress(STATE_DICTS.read_bytes()))


def main() -> None:
    import timm
    import torchvision

    from edgecv import models

    expected, states = {}, {}
    for name in models.names():
        if name.startswith(TIMM):
            network = timm.create_model(f"tf_{name}" if "lite" in name else name)
        else:
            network = getattr(torchvision.models, name)()
        states[name] = {key: list(value.shape) for key, value in network.state_dict().items()}
        fill(network.state_dict())
        expected[name] = [round(value, 5) for value in logits(network)]
    LOGITS.write_text(json.dumps(expected, indent=1) + "\n")
    STATE_DICTS.write_bytes(gzip.compress(json.dumps(states).encode(), mtime=0))


if __name__ == "__main__":
    main()
