"""The building blocks of the field, written into a small network a few times: what the survey times."""

from __future__ import annotations

from edgecv.cost.net import Net

GATES = {"silu": ("silu", "sigmoid"), "hardswish": ("relu", "hardsigmoid")}


def convs(net: Net, outputs: tuple[int, ...], kernel: int = 1, stride: int = 1) -> None:
    """Convolutions one after the other, to so many channels each."""
    for channels in outputs:
        net.conv(channels, kernel, stride, act="relu")


def depthwise(net: Net, kernel: int, stride: int, count: int) -> None:
    """Depthwise convolutions."""
    for _ in range(count):
        net.conv(net.shape[1], kernel, stride, groups=net.shape[1], act="relu")


def gates(net: Net, squeezed: int, act: str, count: int = 4) -> None:
    """Squeeze and excitation."""
    for _ in range(count):
        net.gate(squeezed, *GATES[act])


def inverted(net: Net, ratio: int, kernel: int, act: str, gated: bool, count: int = 2) -> None:
    """Inverted residuals, as in MobileNetV2, V3 and EfficientNet."""
    narrow = net.shape[1]
    wide = narrow * ratio
    for _ in range(count):
        x = net.at
        net.conv(wide, act=act)
        net.conv(wide, kernel, groups=wide, act=act)
        if gated:
            net.gate(max(8, narrow // 32 * 8), *GATES.get(act, GATES["hardswish"]))
        net.conv(narrow)
        net.add("Add", x)


def residual(net: Net, narrow: int, count: int = 2) -> None:
    """Residual blocks: a bottleneck where the network at hand is wider, two 3x3 otherwise."""
    wide = net.shape[1]
    for _ in range(count):
        x = net.at
        if wide > narrow:
            net.conv(narrow, act="relu")
            net.conv(narrow, 3, act="relu")
            net.conv(wide)
        else:
            net.conv(narrow, 3, act="relu")
            net.conv(narrow, 3)
        net.add("Add", x)
        net.act("relu")


def linears(net: Net, outputs: tuple[int, ...], act: str = "") -> None:
    """Linear layers one after the other, to so many features each; the activation behind every second one."""
    for number, features in enumerate(outputs):
        net.linear(features, act if number % 2 == 0 else "")


def heads(net: Net, outputs: tuple[int, ...]) -> None:
    """Linear layers on one vector, as in a classifier."""
    for features in outputs:
        net.linear(features, "relu")


def transformer(net: Net, count: int, hidden: int) -> None:
    """An encoder block: attention with so many heads, and a perceptron if `hidden`."""
    x, width = net.at, net.shape[-1]
    net.norm()
    net.attention(count)
    net.add("Add", x)
    if hidden:
        perceptron(net, hidden, width)


def perceptron(net: Net, hidden: int, width: int) -> None:
    """Normalization, two linear layers with GELU between, and the addition."""
    x = net.at
    net.norm()
    net.linear(hidden, "gelu")
    net.linear(width)
    net.add("Add", x)


def windows(net: Net, count: int, window: int, shifted: bool) -> None:
    """Attention in windows on (1, side, side, width), with a cyclic shift, as in Swin."""
    _, side, _, width = net.shape
    tiles, half, x = side // window, window // 2, net.at
    net.norm()
    if shifted:
        net.roll(1, half)
        net.roll(2, half)
    net.reshape(1, tiles, window, tiles, window, width)
    net.transpose(0, 1, 3, 2, 4, 5)
    net.reshape(tiles * tiles, window * window, width)
    net.attention(count, biased=True)
    net.reshape(1, tiles, tiles, window, window, width)
    net.transpose(0, 1, 3, 2, 4, 5)
    net.reshape(1, side, side, width)
    if shifted:
        net.roll(1, -half)
        net.roll(2, -half)
    net.add("Add", x)
    perceptron(net, 4 * width, width)
    net.transpose(0, 3, 1, 2)


def convnext(net: Net, count: int = 2) -> None:
    """A depthwise 7x7 and an inverted bottleneck of linear layers, channels last, with a scale."""
    channels = net.shape[1]
    for _ in range(count):
        x = net.at
        net.conv(channels, 7, groups=channels)
        net.transpose(0, 2, 3, 1)
        net.norm()
        net.linear(4 * channels, "gelu")
        net.linear(channels)
        net.transpose(0, 3, 1, 2)
        net.add("Mul", net.weight(channels, 1, 1, scale=0.1))
        net.add("Add", x)


def activations(net: Net, act: str, count: int = 3) -> None:
    """Cheap convolutions with an activation each."""
    for _ in range(count):
        net.conv(net.shape[1], act=act)


def elementwise(net: Net, what: str, count: int = 4) -> None:
    """Normalizations over the last axis, softmax or additions, one after the other."""
    x = net.at
    for _ in range(count):
        if what == "norm":
            net.norm()
        elif what == "softmax":
            net.add("Softmax", axis=-1)
        else:
            net.add("Add", x)


def moves(net: Net, what: str, count: int = 2) -> None:
    """Data that change their places."""
    first = net.shape
    for _ in range(count):
        if what == "transpose":
            net.transpose(0, 2, 3, 1)
            net.act("relu")
            net.transpose(0, 3, 1, 2)
        elif what == "concat":
            net.conv(8, act="relu")
            net.concat(first)
            net.conv(first[1])
        else:
            net.roll(2, 1)
        net.act("relu")


def pools(net: Net, kernel: int, stride: int) -> None:
    """Convolution, maximum over windows, convolution; without a kernel the first alone."""
    net.conv(net.shape[1], act="relu")
    if kernel:
        net.pool(kernel, stride)
        net.conv(net.shape[1], act="relu")


def frames(net: Net) -> None:
    """What stands before every exported network, and a first convolution."""
    net.frames()
    net.conv(16, 3, 2, act="relu")
