"""A model of your own in the zoo: one row, and `create`, `inspect` and recipes know it by its name.

    python examples/add_model.py

Inside edgecv the same is a file in `edgecv/models/` with a tuple `MODELS`, and its name in `FAMILIES`.
"""

from itertools import pairwise

from torch import Tensor, nn

from edgecv import models, xray
from edgecv.models import Model, ModelSpec, Network


# --- the model
class Squares(Network):
    """Three strided convolutions and a linear layer."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        widths = (in_channels, 16, 32, 64)
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU())
                for inputs, outputs in pairwise(widths)
            )
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))  # (N, C, H, W) -> (N, 64)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


models.ZOO.add(
    Model(ModelSpec(name="squares", family="own", size=(64, 64), parameters=88584, paper="none"), Squares),
)
# --- that is all


def main() -> None:
    network = models.create("squares", classes=5, seed=0)
    print(sum(each.numel() for each in network.parameters()), "parameters with 5 classes")
    table = xray.table(xray.read("squares"))
    print(f"{table.total.macs:,} MACs at {table.input_shape}, {table.total.layers} layers")


if __name__ == "__main__":
    main()
