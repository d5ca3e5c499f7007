"""Training of detectors: assignment and losses by brute force, boxes that follow their pixels, and that one learns."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecv import models, tasks
from edgecv.data import DataConfig, Dataset, load
from edgecv.data.dataset import Images
from edgecv.models import Dense
from edgecv.models.rtmdet import RTMDet, places
from edgecv.recipe_train import Augment, TrainConfig
from edgecv.tasks.assignment import TOP_K, assign, generalized_overlaps, pairwise_overlaps, quality_focal
from edgecv.tasks.moved import Labelled, moved
from edgecv.train import fit
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.tasks.detections import Boxes

SIDE = 96


def iou(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (both - width * height)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def by_hand(where, boxes, logits, truth, kinds):
    """Equations 2 to 5 of arXiv:2212.07784, place by place and box by box -> place -> (box, overlap)."""
    valid = [
        place
        for place, (x, y, _) in enumerate(where)
        if any(left < x < right and top < y < bottom for left, top, right, bottom in truth)
    ]
    cost, overlap = {}, {}
    for place in valid:
        x, y, stride = where[place]
        for box, (left, top, right, bottom) in enumerate(truth):
            overlap[place, box] = iou(boxes[place], truth[box])
            classes = 0.0
            for kind, logit in enumerate(logits[place]):
                soft = overlap[place, box] if kind == kinds[box] else 0.0
                score = sigmoid(logit)
                classes -= (soft * math.log(score) + (1 - soft) * math.log(1 - score)) * (soft - score) ** 2
            distance = math.hypot(x - (left + right) / 2, y - (top + bottom) / 2) / stride
            cost[place, box] = classes - 3 * math.log(overlap[place, box] + 1e-7) + 10 ** (distance - 3)
    wants = {place: [] for place in valid}
    for box in range(len(truth)):
        best = sorted((overlap[place, box] for place in valid), reverse=True)[:TOP_K]
        for place in sorted(valid, key=lambda each: cost[each, box])[: max(1, int(sum(best)))]:
            wants[place].append(box)
    chosen = {place: min(those, key=lambda box: cost[place, box]) for place, those in wants.items() if those}
    return {place: (box, overlap[place, box]) for place, box in chosen.items()}


def scene(seed, count=4, classes=3):
    """Places of a small input, what a network might say there, and known boxes."""
    random = np.random.default_rng(seed)
    where = places(SIDE, SIDE)
    corner, sides = random.uniform(0, 60, (count, 2)), random.uniform(10, 36, (count, 2))
    truth = np.concatenate([corner, corner + sides], 1)
    near = truth[random.integers(0, count, len(where))] + random.normal(0, 4, (len(where), 4))
    boxes = np.concatenate([np.minimum(near[:, :2], near[:, 2:] - 1), near[:, 2:]], 1)
    logits = random.normal(-2, 2, (len(where), classes))
    kinds = torch.from_numpy(random.integers(0, classes, count))
    return where.double(), torch.from_numpy(boxes), torch.from_numpy(logits), torch.from_numpy(truth), kinds


@pytest.mark.parametrize("seed", range(6))
def test_places_are_assigned_as_the_paper_says(seed):
    where, boxes, logits, truth, kinds = scene(seed, count=1 + seed)
    found = assign(where, boxes, logits, truth, kinds)
    right = by_hand(*(each.tolist() for each in (where, boxes, logits, truth, kinds)))
    assert len(right) > seed
    assert found.places.tolist() == sorted(right)
    assert found.boxes.tolist() == [right[place][0] for place in sorted(right)]
    assert found.overlaps.tolist() == pytest.approx([right[place][1] for place in sorted(right)], abs=1e-9)


def test_a_box_that_holds_no_place_is_learned_by_none():
    where, boxes, logits, _, _ = scene(0)
    found = assign(where, boxes, logits, torch.tensor([[5.0, 5.0, 7.0, 7.0]]).double(), torch.tensor([0]))
    assert len(found.places) == len(found.boxes) == len(found.overlaps) == 0


def test_overlaps_and_losses_are_their_formulas():
    _, boxes, logits, truth, _ = scene(1)
    several = pairwise_overlaps(boxes[:7], truth)
    assert several.tolist() == [
        pytest.approx([iou(one, other) for other in truth.tolist()]) for one in boxes[:7].tolist()
    ]
    apart = generalized_overlaps(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))
    assert apart.tolist() == pytest.approx([0 - 2 / 4])  # the hull is 4, the union 2
    same = generalized_overlaps(truth, truth)
    assert same.tolist() == pytest.approx([1] * len(truth))
    wanted = torch.rand(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    focal = quality_focal(logits, wanted)
    score, soft = sigmoid(logits[3, 1].item()), wanted[3, 1].item()
    entropy = -(soft * math.log(score) + (1 - soft) * math.log(1 - score))
    assert focal[3, 1].item() == pytest.approx(entropy * (soft - score) ** 2)


COLORS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


def painted(random, count, height, width):
    """Pictures with one bright rectangle each, of a colour of its own, on grey, and their boxes."""
    pixels = torch.full((count, 3, height, width), 0.447)
    known = []
    for index in range(count):
        left, top = random.integers(0, width - 24), random.integers(0, height - 24)
        right, bottom = left + random.integers(12, width - left + 1), top + random.integers(12, height - top + 1)
        pixels[index, :, top:bottom, left:right] = COLORS[index][:, None, None]
        known.append(Labelled(torch.tensor([[left, top, right, bottom]]).float(), torch.tensor([index])))
    return pixels, known


@given(
    seed=st.integers(0, 10**6),
    mosaic=st.sampled_from([0.0, 1.0]),
    flip=st.booleans(),
    zoom=st.sampled_from([0.0, 0.4]),
    shift=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=60, deadline=None)
def test_boxes_follow_their_pixels(seed, mosaic, flip, zoom, shift):
    """Oracle: where each colour is after the change; half of it is where its edge lies."""
    pixels, known = painted(np.random.default_rng(seed), 4, 64, 96)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made, left = moved(pixels, known, Augment(mosaic=mosaic, flip=flip, zoom=zoom, shift=shift))
    assert made.shape == pixels.shape
    for picture, boxes in zip(made, left, strict=True):
        assert (boxes.boxes >= 0).all()
        assert (boxes.boxes <= torch.tensor([96, 64, 96, 64])).all()
        seen = {}
        for kind, color in enumerate(COLORS):
            lit = (picture - color[:, None, None]).abs().amax(0) < 0.25
            seen[kind] = lit
        covered = torch.zeros(64, 96, dtype=torch.bool)
        for (x1, y1, x2, y2), kind in zip(boxes.boxes.tolist(), boxes.kinds.tolist(), strict=True):
            rows, columns = slice(max(0, round(y1) - 1), round(y2) + 1), slice(max(0, round(x1) - 1), round(x2) + 1)
            inner = seen[kind][math.ceil(y1) + 1 : math.floor(y2) - 1, math.ceil(x1) + 1 : math.floor(x2) - 1]
            assert inner.all()  # all of the box is of its colour
            covered[rows, columns] = True
        for kind, lit in seen.items():  # and no colour is outside its boxes, but for slivers that were dropped
            outside = lit & ~covered
            if outside.any() and kind in boxes.kinds.tolist() and not mosaic:
                raise AssertionError(f"colour {kind} lies outside its box")
            assert outside.sum() < 0.1 * 96 * 64


def test_what_is_hardly_seen_is_dropped_and_what_is_not_varied_stays():
    pixels, known = painted(np.random.default_rng(0), 4, 64, 96)
    same, left = moved(pixels, known, Augment())
    assert torch.equal(same, pixels)
    assert all(torch.equal(one.boxes, other.boxes) for one, other in zip(left, known, strict=True))
    edge = Labelled(torch.tensor([[0.0, 0, 20, 20], [40, 20, 70, 50]]), torch.tensor([0, 1]))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        _, many = moved(pixels[:1].expand(64, -1, -1, -1), [edge] * 64, Augment(shift=0.9))
    counts = {len(each.kinds) for each in many}
    assert counts == {0, 1, 2}


@cache
def every_digit():
    return load(DataConfig(source="digit-boxes"))


def digits(count, val=8):
    found = every_digit()
    return Dataset(found.classes, found.train.pick(range(count)), found.val.pick(range(val)), task="detection")


def training(config=None, dataset=None, size=(64, 96)):
    return tasks.training(dataset or digits(4), config or TrainConfig(), size)


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
def test_targets_lie_where_the_network_sees_them(mode, tmp_path):
    """Oracle: a bright rectangle through the real preprocessing."""
    frame = np.zeros((120, 200, 3), np.uint8)
    frame[40:80, 60:130] = 255
    known = Boxes(
        np.array([[60, 40, 130, 80], [0, 0, 3, 3]], np.float32),
        np.array([1, 0]),
        ignored=np.array([False, True]),
    )
    images = Images(("a",), ("stamp",), lambda _: frame, [known])
    preprocess = Preprocess((64, 96), mode, interpolation="area")
    task = training()
    for _ in range(2):  # the second time from what was kept
        prepared = task.prepare(images, preprocess, tmp_path)
        (boxes,) = task.collate(prepared, np.array([0]), torch.device("cpu")).learned
        lit = np.argwhere(preprocess(frame)[:, :, 0] > 127)
        assert boxes.kinds.tolist() == [1]  # what is ignored is not learned
        right = [*lit.min(0)[::-1], *(lit.max(0)[::-1] + 1)]
        assert boxes.boxes[0].tolist() == pytest.approx(right, abs=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_crop_hardly_shows_is_neither_learned_nor_wrong(tmp_path):
    """A frame of 200 x 100 in a crop of 100 x 100: columns 50 to 150 are seen."""
    known = Boxes(
        np.array([[60, 10, 90, 40], [20, 10, 50.5, 40], [149.5, 60, 190, 90], [0, 0, 40, 40], [99, 10, 99.4, 40]]),
        np.array([0, 1, 0, 1, 1]),
        crowd=np.array([False, False, True, False, False]),
    )
    images = Images(("a",), ("stamp",), lambda _: np.zeros((100, 200, 3), np.uint8), [known])
    (seen,) = training().prepare(images, Preprocess((100, 100), "crop", resize=100), tmp_path)
    assert seen.class_id.tolist() == [0, 1, 0, 1]  # the fourth is not seen at all
    assert seen.ignored.tolist() == [False, True, True, True]
    assert seen.crowd.tolist() == [False, False, True, False]
    assert len(training().collate([seen], np.array([0]), torch.device("cpu")).learned[0].kinds) == 1


def test_kept_sizes_that_are_damaged_are_found_again(tmp_path, monkeypatch):
    task, data = training(), digits(2).train
    preprocess = Preprocess((64, 96))
    right = task.prepare(data, preprocess, tmp_path)
    (kept,) = tmp_path.glob("boxes-*.npy")
    for spoiled in (kept.read_bytes()[:90], b"", kept.read_bytes()[:-16]):
        kept.write_bytes(spoiled)
        assert task.prepare(data, preprocess, tmp_path) == right

    def full(path):
        raise OSError(28, "No space left on device")

    kept.unlink()
    monkeypatch.setattr("edgecv.data.cache.files.replacing", full)
    with pytest.raises(Unavailable, match="boxes-.*No space left on device"):
        task.prepare(data, preprocess, tmp_path)


def test_a_detector_that_is_right_has_no_loss_and_scores_1():
    task, dataset = training(), digits(3)
    where = places(64, 96)
    known = Boxes(np.array([[8, 8, 40, 40], [50, 10, 90, 60]], np.float32), np.array([3, 7]))
    targets = task.collate([known], np.array([0]), torch.device("cpu"))
    boxes, scores = torch.zeros(1, len(where), 4), torch.full((1, len(where), 10), 1e-4)
    boxes[..., 2:] = 1.0
    for row, box in enumerate(known.xyxy):
        inside = ((where[:, :2] > torch.tensor(box[:2])) & (where[:, :2] < torch.tensor(box[2:]))).all(1)
        boxes[0, inside] = torch.tensor(box)
        scores[0, inside, int(known.class_id[row])] = 0.999
    judged = task.judge(Dense(boxes, scores), targets)
    assert task.score(judged.tallies) == pytest.approx(1)
    wrong = task.judge(Dense(boxes + 20, scores), targets)
    assert task.score(wrong.tallies) < 0.2
    assert wrong.loss > 3 * judged.loss
    assert task.right(Dense(boxes, scores), targets) == 1
    assert task.right(Dense(boxes + 40, scores), targets) == 0
    assert dataset.task == "detection"


def test_pictures_without_boxes_are_learned_from_too():
    task, count = training(), len(places(64, 96))
    empty = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    logits = torch.zeros(2, count, 10, requires_grad=True)
    targets = task.collate([empty] * 2, np.arange(2), torch.device("cpu"))
    assert len(targets.learned[0].kinds) == 0
    loss = task.loss(Dense(torch.rand(2, count, 4), logits), targets)
    loss.backward()
    assert logits.grad.min() > 0  # every score goes down


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (TrainConfig(augment=Augment(rotate=5)), "train.augment.rotate does not move boxes"),
        (TrainConfig(augment=Augment(scale=(0.5, 1))), "train.augment.scale does not move boxes"),
        (TrainConfig(mixup=0.2), "train.mixup does not move boxes"),
    ],
)
def test_settings_that_mean_nothing_are_refused(config, told):
    with pytest.raises(BadInput, match=told):
        training(config)


def test_a_network_that_is_no_detector_of_these_classes_is_refused():
    task = training()
    with pytest.raises(BadInput, match="the model gives Tensor an image"):
        task.check(torch.zeros(1, 10))
    with pytest.raises(BadInput, match="the model scores 3 classes, the data has 10"):
        task.check(Dense(torch.zeros(1, len(places(64, 96)), 4), torch.zeros(1, len(places(64, 96)), 3)))


def test_a_detector_learns_a_few_pictures_by_heart(tmp_path):
    dataset = Dataset(digits(4).classes, digits(4).train, digits(4).train, task="detection")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RTMDet(models.ZOO["mobilenet_v1_025"], classes=10, in_channels=3)
    config = TrainConfig(epochs=36, batch=4, lr=5e-3, warmup_epochs=1, ema=0, bn_images=4, weight_decay=0.0)
    preprocess = Preprocess((96, 128), "letterbox")
    result = fit(model, dataset, preprocess, Normalization(), config, tmp_path, progress=False)
    assert result.metric == "AP50-95"
    assert result.history[-1].train_loss < 0.5 * result.history[0].train_loss
    assert result.score > 0.3
