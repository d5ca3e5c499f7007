"""A small segmenter and a small detector, and what a deployment makes of them: written here, from scratch."""

import cv2
import numpy as np
import torch
from torch import nn

from edgecv_export.classmap import ClassMap
from edgecv_export.export import export
from edgecv_runtime.head import DetectionHead, SegmentationHead
from tests.conftest import NORMALIZATION

CLASSES = tuple(f"class {index}" for index in range(12))
OVERLAP, CONFIDENCE = 0.3, 0.4
MEAN, STD = (np.array(each, np.float32) for each in (NORMALIZATION.mean, NORMALIZATION.std))


class Segmenter(nn.Module):
    """Three convolutions -> logits of 12 classes, as large as the input."""

    def __init__(self, channels=3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 5, padding=2), nn.Tanh()
        )
        self.last = nn.Conv2d(12, len(CLASSES), 1)

    def forward(self, x):
        return 4 * self.last(self.layers(x))


class Detector(nn.Module):
    """A box and 12 scores for each 4 x 4 pixels: (N, A, 4) in pixels of the input, (N, A, 12) in 0..1."""

    def __init__(self, size, channels=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 24, 5, 4, 2), nn.ReLU(), nn.Conv2d(24, 24, 3, 1, 1), nn.Tanh())
        self.last = nn.Conv2d(24, 4 + len(CLASSES), 1)
        y, x = torch.meshgrid(torch.arange(2, size[0], 4), torch.arange(2, size[1], 4), indexing="ij")
        self.register_buffer("places", torch.stack([x, y], -1).reshape(-1, 2).float())

    def forward(self, x):
        found = self.last(self.layers(x)).flatten(2).transpose(1, 2)  # (N, A, 16)
        reach = 5 * torch.sigmoid(2 * found[..., :4]) + 1
        boxes = torch.cat([self.places - reach[..., :2], self.places + reach[..., 2:]], -1)
        return {"boxes": boxes, "scores": torch.sigmoid(5 * found[..., 4:] - 2)}


def network(task, preprocess, seed):
    """One that gives something for most of a picture."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = preprocess.channels
        made = Segmenter(channels) if task == "segmentation" else Detector(preprocess.size, channels)
    return made.eval()


def bundle(task, made, path, preprocess, frames):
    """The network as a bundle, -> its path."""
    channels = preprocess.channels
    normalization = type(NORMALIZATION)(NORMALIZATION.mean[:channels], NORMALIZATION.std[:channels])
    given = {"name": task, "preprocess": preprocess, "normalization": normalization, "images": frames}
    if task == "segmentation":
        export(ClassMap(made), path, head=SegmentationHead(CLASSES), outputs=("mask",), **given)
    else:
        head = DetectionHead(CLASSES, confidence=CONFIDENCE, overlap=OVERLAP)
        export(made, path, head=head, outputs=("boxes", "scores"), **given)
    return path


def run(made, pixels, mean=MEAN, std=STD):
    """Pixels (H, W, C) of any dtype -> outputs by name in PyTorch: a mask, or boxes and scores."""
    x = (np.asarray(pixels, np.float32) / np.float32(255) - mean) / std
    with torch.inference_mode():
        found = made(torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None])
    if isinstance(found, dict):
        return {name: each[0].numpy() for name, each in found.items()}
    return {"mask": found.argmax(1)[0].numpy().astype(np.uint8)}


def suppressed(boxes, scores, confidence=CONFIDENCE, overlap=OVERLAP):
    """Rows of x1, y1, x2, y2, score, class: the best of those that overlap, class by class, one after the other."""
    rows = [
        (*boxes[place], scores[place, kind], kind)
        for place, kind in zip(*np.nonzero(scores >= confidence), strict=True)
    ]
    kept = []
    for row in sorted(rows, key=lambda row: -row[4]):
        if all(row[5] != other[5] or iou(row, other) <= overlap for other in kept):
            kept.append(row)
    return np.array(kept, np.float64).reshape(-1, 6)


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0, width) * max(0, height)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, other)]
    return common / (sum(areas) - common)


def letterboxed(path, size, rgb=True):
    """-> the network's input, the scale, and how wide the border is left and above."""
    image = cv2.imread(str(path))
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    rows, columns = (round(side * scale) for side in image.shape[:2])
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    canvas = np.full((*size, 3), 114, np.uint8)
    canvas[top : top + rows, left : left + columns] = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return (canvas[:, :, ::-1] if rgb else canvas), (columns / image.shape[1], rows / image.shape[0]), (left, top)


def enlarged(mask, shape, beside=(0.0, 0.0)):
    """The class below each pixel's centre, or beside it by a part of a pixel of the mask."""
    places = [
        np.clip(np.floor((np.arange(wanted) + 0.5) * have / wanted + off).astype(int), 0, have - 1)
        for wanted, have, off in zip(shape, mask.shape, beside, strict=True)
    ]
    return mask[places[0]][:, places[1]]
