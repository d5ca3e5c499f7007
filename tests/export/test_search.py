"""The search: what it tries, what it picks, that it goes on where it stopped; and a network that it has to rescue."""

import contextlib
import dataclasses
import itertools
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgecv.run import quantizing
from edgecv_export import search, sessions, trial
from edgecv_export.calibrate import sample
from edgecv_export.deadline import TimeIsOver
from edgecv_export.explain import explain, explain_evidence
from edgecv_export.export import export
from edgecv_export.graph import Deployed, reference
from edgecv_export.passes import FLOAT_PASSES
from edgecv_export.plan import Plan, Workshop
from edgecv_export.quantize import QuantizeConfig, divided, quantize
from edgecv_export.trial import Trial
from edgecv_export.wiring import Wiring
from edgecv_runtime import Bundle, backends, files, machine, verify
from edgecv_runtime.errors import BadInput, ModelFileError
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.manifest import Budget, Variant
from edgecv_runtime.offers import offered
from tests.conftest import LABELS, NORMALIZATION, PREPROCESS

QUICK = QuantizeConfig(images=64, check_images=64, placements=("layers", "convolutions"), ranges=("min-max",))


class Hostile(nn.Module):
    """Channels that differ by 1000x before a ReLU, then hard-swish and squeeze-and-excitation, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1, groups=32), nn.ReLU())
        self.point = nn.Sequential(nn.Conv2d(32, 32, 1), nn.Hardswish())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Hardsigmoid()
        )
        self.head = nn.Linear(32 * 16, 10)
        factors = torch.logspace(-1.5, 1.5, 32)[torch.randperm(32)]
        with torch.no_grad():
            self.stem[0].weight.mul_(factors.reshape(-1, 1, 1, 1))
            self.stem[0].bias.mul_(factors)
            self.depthwise[0].weight.mul_(3)
            self.point[0].weight.div_(factors.reshape(1, -1, 1, 1)).mul_(3)
            self.point[0].bias.zero_()

    def features(self, x):
        x = self.point(self.depthwise(self.stem(x)))
        return nn.functional.avg_pool2d(x * self.gate(x), 2).flatten(1)  # (N, 32, 8, 8) -> (N, 512)

    def forward(self, x):
        return self.head(self.features(x))


@pytest.fixture(scope="module")
def hostile(digits, tmp_path_factory):
    """The hostile network with a head fitted to real digits by least squares, as a bundle."""
    frames, labels = digits
    network = Hostile().eval()
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (NORMALIZATION.mean, NORMALIZATION.std))
    pixels = (torch.from_numpy(frames[:1200]).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        inputs = network.features(pixels).double()
        wanted = 10 * nn.functional.one_hot(torch.from_numpy(labels[:1200]), 10).double()
        centred = inputs - inputs.mean(0)
        ridge = 1e-3 * centred.square().sum() / 512 * torch.eye(512)
        weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ wanted).T
        network.head.weight.copy_(weight)
        network.head.bias.copy_(-(weight @ inputs.mean(0)))
    path = tmp_path_factory.mktemp("hostile") / "bundle"
    given = {"preprocess": PREPROCESS, "normalization": NORMALIZATION, "labels": LABELS}
    export(network, path, name="hostile", images=frames[:8], **given)
    return path, reference(Deployed(network, NORMALIZATION), frames[1200:])


def test_the_search_restores_a_network_that_breaks_plain_quantization(hostile, digits, tmp_path):
    path, expected = hostile
    frames, labels = digits
    copy = tmp_path / "bundle"
    shutil.copytree(path, copy)
    known = verify.score(expected, expected, labels[1200:]).value
    assert known > 0.85  # the float network is worth restoring
    budget = Budget(max_drop_points=1.0)
    config = QuantizeConfig(images=200, placements=("layers", "merged"), ranges=("min-max", "mse"))
    done = quantize(copy, frames[:200], config, check=frames[1200:], labels=labels[1200:], budget=budget)
    plain = [each for each in done.candidates if each.plan.passes == ("rounding", "bias") and not each.plan.islands]
    assert plain
    assert all(each.score.drop > 3 for each in plain)  # plain quantization fails, whatever the ranges
    assert done.found.kept
    assert done.chosen.score.drop <= 1.0
    assert set(done.chosen.plan.passes) != {"rounding", "bias"} or done.chosen.plan.islands
    with Bundle(copy) as opened:
        assert opened.manifest.variant("int8-u8s8").calibration.passes == done.chosen.plan.passes
        (again,) = verify.verify(
            opened,
            frames[1200:],
            expected,
            labels=labels[1200:],
            only=lambda each: (each.variant, each.backend) == ("int8-u8s8", "openvino"),
        )
    assert again.entry.score.drop <= 1.5  # the file in the bundle is the one that was measured
    assert explain(done, budget)[0].startswith(done.chosen.plan.name)


# What is picked


def made(plan, ms, kl, drop):
    """A trial as if measured."""
    logits = np.eye(10, dtype=np.float32).repeat(20, 0) * 5
    agreement = msgspec.structs.replace(verify.agreement(logits, logits, "x"), divergence=kl)
    scored = verify.score(logits, logits, logits.argmax(1))
    accuracy = msgspec.structs.replace(scored, drop=drop)
    times = {"a": ms, "b": 3 * ms}
    return Trial(plan, dict.fromkeys(times, agreement), dict.fromkeys(times, accuracy), times, times, 1000)


class File(bytes):
    """A plan's file, which says nothing but whose it is."""

    def __new__(cls, plan):
        made = super().__new__(cls, plan.name.encode())
        made.plan = plan
        return made


class Table:
    """A laboratory and a workshop that look results up: plan -> (ms, kl, drop). Int8 is slower than float on "b"."""

    float_forms, floats = {}, trial.Floats({"a": 100.0, "b": 0.1}, {}, {})

    def __init__(self, results):
        self.results, self.measured = results, []

    def setting(self, plan):
        name = plan.placement
        return dataclasses.make_dataclass("S", ["nodes", "grids"])([], {name: 0})

    def make(self, plan, **_):
        return File(plan)

    def times(self, contents):
        taken = [self.results[content.plan.name][0] for content in contents]
        return [({"a": ms, "b": 3 * ms},) * 2 for ms in taken]

    def measure(self, plan, *_):
        self.measured.append(plan.name)
        return made(plan, *self.results[plan.name])


def found(results, config, book=None, budget_s=60.0):
    table = Table(results)
    config = msgspec.structs.replace(config, budget_s=budget_s, passes=("bias",), islands=False)
    budget = Budget(max_drop_points=0.5)
    done = search.Search(table, table, book or trial.Book(None), budget, config, lambda _: None).run()
    return done, table.measured


def test_the_fastest_within_the_budget_is_taken_and_slower_ones_are_left_alone():
    results = {
        "layers, min-max, bias": (1.0, 0.1, 4.0),
        "layers, mse, bias": (1.0, 0.05, 2.0),
        "convolutions, min-max, bias": (2.0, 0.01, 0.4),
        "convolutions, mse, bias": (2.0, 0.005, 0.3),
        "all, min-max, bias": (3.0, 0.001, 0.0),  # timed, and that is all
    }
    config = QuantizeConfig(placements=("all", "layers", "convolutions"), ranges=("min-max", "mse"))
    done, measured = found(results, config)
    assert (done.kept, done.chosen.plan.name) == (True, "convolutions, mse, bias")
    assert measured == [
        "layers, min-max, bias",
        "layers, mse, bias",
        "convolutions, min-max, bias",
        "convolutions, mse, bias",
    ]


def test_what_was_timed_is_in_the_book_too_so_that_the_same_search_goes_the_same_way(tmp_path):
    """A placement that is timed anew, in another phase of the machine, would lead it elsewhere."""
    results = {
        "layers, min-max, bias": (1.0, 0.1, 4.0),
        "convolutions, min-max, bias": (2.0, 0.01, 0.4),
        "all, min-max, bias": (3.0, 0.001, 0.0),
    }
    config = QuantizeConfig(placements=("all", "layers", "convolutions"), ranges=("min-max",))
    first, measured = found(results, config, trial.Book(tmp_path / "trials.json"))
    assert measured == ["layers, min-max, bias", "convolutions, min-max, bias"]
    other = {**results, "all, min-max, bias": (0.5, 0.001, 0.0)}  # it would be the fastest now
    again, measured = found(other, config, trial.Book(tmp_path / "trials.json"))
    assert (again.chosen, measured) == (first.chosen, [])
    strict = Table({**other, "all, min-max, bias": (3.0, 0.001, 0.0)})
    config = msgspec.structs.replace(config, passes=("bias",), islands=False)
    book = trial.Book(tmp_path / "trials.json")
    search.Search(strict, strict, book, Budget(max_drop_points=0.1), config, lambda _: None).run()
    assert strict.measured == ["all, min-max, bias"]  # what was only timed is made and compared when it is needed


@pytest.mark.parametrize(("again", "taken"), [(1.0, "convolutions"), (1.2, "layers")])
def test_what_seemed_a_little_slower_and_is_closer_is_timed_once_more(again, taken):
    class Timed(Table):
        timed = 0

        def times(self, contents):
            self.timed += 1
            slower = 1.2 if self.timed == 1 else again
            return [({"a": slower if each.plan.placement == "convolutions" else 1.0},) * 2 for each in contents]

    results = {"layers, min-max, bias": (1.0, 0.1, 0.1), "convolutions, min-max, bias": (1.2, 0.001, 0.0)}
    table = Timed(results)
    config = msgspec.structs.replace(QUICK, passes=("bias",), islands=False)
    done = search.Search(table, table, trial.Book(None), Budget(max_drop_points=0.5), config, lambda _: None).run()
    assert done.chosen.placement == taken


def test_the_next_turn_begins_with_what_came_out_closest_in_the_last():
    nats = {"min-max": 0.1, "percentile": 0.05, "mse": 0.01}
    results = {
        f"{name}, {ranges}, bias": (ms, kl, drop)
        for name, ms, drop in (("layers", 1.0, 4.0), ("convolutions", 2.0, 0.1))
        for ranges, kl in nats.items()
    }
    config = QuantizeConfig(placements=("layers", "convolutions"), ranges=tuple(nats))
    _, measured = found(results, config)
    assert [name.split(", ")[1] for name in measured] == [
        "min-max",
        "percentile",
        "mse",
        "min-max",
        "mse",
        "percentile",
    ]


def test_when_nothing_keeps_the_budget_the_closest_is_taken_and_said_so():
    results = {"layers, min-max, bias": (1.0, 0.2, 4.0), "convolutions, min-max, bias": (2.0, 0.1, 3.0)}
    done, _ = found(results, QUICK)
    assert (done.kept, done.chosen.plan.placement) == (False, "convolutions")


def test_sensitivities_are_those_of_the_chosen_placement(monkeypatch):
    layers = {"layers": ("a", "b"), "convolutions": ("c", "d")}
    names = {id(search.PLACEMENTS[name]): found for name, found in layers.items()}
    costs = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}

    class Lab(Table):
        def form(self, _):
            return SimpleNamespace(nodes=costs, layer=lambda node: node), None

        def hardest(self, file):
            assert not file.plan.islands
            return np.arange(8)

        def divergence(self, file, images):
            assert len(images) == 8
            (alone,) = set(layers[file.plan.placement]) - set(file.plan.islands)
            return costs[alone]

    monkeypatch.setattr(
        search,
        "quantized_nodes",
        lambda _, placement, __: [SimpleNamespace(name=each) for each in names[id(placement)]],
    )
    results = {
        "layers, min-max": (1.0, 0.5, 4.0),
        "layers, min-max, 1 islands": (1.0, 0.1, 2.0),  # the closest, though not close enough
        "convolutions, min-max": (2.0, 0.4, 3.0),
        "convolutions, min-max, 1 islands": (2.0, 0.2, 3.0),
    }
    table = Lab(results)
    config = msgspec.structs.replace(QUICK, passes=(), islands=True)
    done = search.Search(table, table, trial.Book(None), Budget(), config, lambda _: None).run()
    assert (done.chosen.plan.placement, done.chosen.plan.islands) == ("layers", ("a",))
    assert done.sensitivities == {"a": 0.4, "b": 0.3}


def test_the_goal_decides_what_is_fast():
    slow_mean = made(Plan("layers"), 2.0, 0.2, 0)
    uneven = msgspec.structs.replace(slow_mean, p50_ms={"a": 1.0}, p99_ms={"a": 9.0}, size_bytes=10)
    assert uneven.cost("p50", "a") < slow_mean.cost("p50", "a")
    assert uneven.cost("p99", "a") > slow_mean.cost("p99", "a")
    assert uneven.cost("size", "a") < slow_mean.cost("size", "a")
    assert (uneven.cost("divergence", "a"), uneven.cost("p50", "b")) == (0.2, float("inf"))  # "b" does not run it


def test_backends_that_want_different_files_get_them_and_one_that_suits_all_is_enough():
    def on(plan, a, b, kl=0.01):
        return msgspec.structs.replace(made(plan, 1.0, kl, 0.0), p50_ms={"a": a, "b": b}, p99_ms={"a": a, "b": b})

    class Both(Table):
        floats = trial.Floats({"a": 100.0, "b": 100.0}, {}, {})

        def times(self, contents):
            return [(dict(zip("ab", self.results[each.plan.placement], strict=True)),) * 2 for each in contents]

        def measure(self, plan, *_):
            return on(plan, *self.results[plan.placement])

    config = msgspec.structs.replace(QUICK, passes=(), islands=False)

    def searched(layers, convolutions):
        table = Both({"layers": layers, "convolutions": convolutions})
        return search.Search(table, table, trial.Book(None), Budget(), config, lambda _: None).run()

    done = searched((1.0, 3.0), (2.0, 2.0))
    assert (done.chosen.placement, {name: each.placement for name, each in done.others.items()}) == (
        "layers",
        {"b": "convolutions"},
    )
    done = searched((1.0, 2.05), (2.0, 2.0))
    assert (done.chosen.placement, done.others) == ("layers", {})


def test_when_the_time_is_over_each_backend_still_gets_its_fastest_file():
    ms = {"layers": {"a": 1.0, "b": 3.0}, "convolutions": {"a": 1.1, "b": 2.9}, "merged": {"a": 3.0, "b": 1.0}}

    class Both(Table):
        floats = trial.Floats({"a": 100.0, "b": 100.0}, {}, {})

        def times(self, contents):
            return [(ms[each.plan.placement],) * 2 for each in contents]

        def measure(self, plan, _, times):
            found = super().measure(plan)
            return msgspec.structs.replace(found, p50_ms=times[0], p99_ms=times[1])

    table = Both({Plan(name, passes=()).name: (1.0, 0.01, 0.0) for name in ms})
    config = msgspec.structs.replace(QUICK, passes=(), islands=False, placements=tuple(ms), budget_s=60.0)
    clock = Clock(runs_from="try convolutions", step=100.0)
    done = search.Search(table, table, trial.Book(None), Budget(), config, clock.hear, clock).run()
    assert table.measured == ["layers, min-max", "merged, min-max"]
    assert (done.chosen.placement, done.others["b"].placement, done.stopped) == ("layers", "merged", True)


@pytest.mark.parametrize(
    ("floats", "wanted"),
    [
        ({"a": 1.0, "b": 3.0}, ["a", "b"]),
        ({"a": 0.97, "b": 1.0}, ["a"]),  # as far as timing tells
        ({"a": 0.5, "b": 2.7}, ["b"]),  # slower on both, by less on "b", where all takes longer
    ],
)
def test_int8_is_sought_where_it_may_be_as_fast_as_float(floats, wanted):
    table = Table({"layers, min-max": (1.0, 0.1, 0.0)})  # 1 ms on "a", 3 ms on "b"
    table.floats = trial.Floats(floats, {}, {})
    config = msgspec.structs.replace(QUICK, passes=(), islands=False, placements=("layers",))
    tried = search.Search(table, table, trial.Book(None), Budget(), config, lambda _: None)
    assert tried._worth(tried._timed_placements()) == wanted


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path, monkeypatch):
    results = {"layers, min-max, bias": (1.0, 0.2, 4.0), "convolutions, min-max, bias": (2.0, 0.1, 0.1)}
    path = tmp_path / "trials.json"

    class Interrupted(Table):
        def measure(self, plan, *given):
            if plan.placement == "convolutions":
                raise KeyboardInterrupt
            return super().measure(plan, *given)

    table = Interrupted(results)
    config = msgspec.structs.replace(QUICK, passes=("bias",), islands=False)
    with pytest.raises(KeyboardInterrupt):
        search.Search(table, table, trial.Book(path, "file"), Budget(), config, lambda _: None).run()
    _, measured = found(results, QUICK, trial.Book(path, "file"))
    assert measured == ["convolutions, min-max, bias"]
    _, measured = found(results, QUICK, trial.Book(path, "another file"))
    assert len(measured) == 2
    monkeypatch.setattr("edgecv_runtime.__version__", "0.0.1")  # which may have made other files of the same plans
    _, measured = found(results, QUICK, trial.Book(path, "file"))
    assert len(measured) == 2
    path.write_text("{")
    _, measured = found(results, QUICK, trial.Book(path, "file"))
    assert len(measured) == 2


def test_the_time_bounds_the_search():
    results = {"layers, min-max, bias": (1.0, 0.2, 4.0), "convolutions, min-max, bias": (2.0, 0.1, 0.1)}
    done, measured = found(results, QUICK, budget_s=1e-9)
    assert measured == ["layers, min-max, bias"]  # one is always tried
    assert done.stopped


class Clock:
    """It stands still until it runs; then every look takes a second, or `step`. Hears the progress of a search."""

    def __init__(self, runs_from, step=1.0):
        self.step = step
        self.runs_from, self.now, self.running, self.said = runs_from, 0.0, False, []

    def __call__(self):
        self.now += self.step * self.running
        return self.now

    def hear(self, line):
        self.said.append(line)
        self.running = self.running or self.runs_from in line


def searched(path, frames, book, clock, **config):
    """A search on the hostile network that nothing satisfies, with 40 seconds of time."""
    quick = msgspec.structs.replace(QUICK, placements=("layers",), budget_s=40.0, **config)
    budget = Budget(min_agreement=1.0)
    with Bundle(path) as opened:
        source = opened.variant_file("float32")
        workshop = Workshop(onnx.load(source), sample(frames[:32]))
        laboratory = trial.Laboratory(opened.manifest, source, frames[32:96], None)
        made_in = trial.Book(book, "file")
        return search.Search(workshop, laboratory, made_in, budget, quick, clock.hear, clock).run()


def test_sensitivities_that_the_time_ended_are_gone_on_with(hostile, digits, tmp_path):
    path, book = hostile[0], tmp_path / "trials.json"
    clock = Clock(runs_from="sensitivity of layer 3")
    clock.hear = lambda line: (Clock.hear(clock, line), setattr(clock, "now", 100.0 * clock.running))
    stopped = searched(path, digits[0], book, clock, passes=(), islands=True)
    assert stopped.stopped
    assert [line.split(":")[0] for line in clock.said[2:]] == [
        f"sensitivity of layer {index} of 6" for index in (1, 2, 3)
    ]
    again = Clock(runs_from="never")
    assert not searched(path, digits[0], book, again, passes=(), islands=True).stopped
    layers = [line.split(":")[0] for line in again.said if line.startswith("sensitivity")]
    assert layers == [f"sensitivity of layer {index} of 6" for index in (4, 5, 6)]


def test_one_and_two_islands_are_tried_when_the_time_is_short(hostile, digits):
    """The ranking takes a quarter of 40 seconds, then islands are tried of the layers that it reached."""
    clock = Clock(runs_from="rank 6 layers", step=2.0)
    done = searched(hostile[0], digits[0], None, clock, passes=("bias",), islands=True)
    tried = [index for index, line in enumerate(clock.said) if line.startswith("try") and "islands" in line]
    assert [clock.said[index].split(", ")[-1] for index in tried[:2]] == ["1 islands", "2 islands"]
    assert sum(line.startswith("sensitivity") for line in clock.said[: tried[0]]) == 3
    assert {0, 1, 2} <= {len(each.plan.islands) for each in done.trials}
    assert done.stopped


def test_a_pass_that_is_cut_short_leaves_nothing_behind(hostile, digits):
    with Bundle(hostile[0]) as opened:
        model = onnx.load(opened.variant_file("float32"))
    plan = Plan("layers", passes=("equalize",))
    workshop = Workshop(model, sample(digits[0][:32]))
    workshop.form(())
    left = iter(range(2))

    def tick():
        if next(left, None) is None:
            raise TimeIsOver

    with pytest.raises(TimeIsOver):
        workshop.make(plan, tick=tick)
    assert workshop.make(plan) == Workshop(model, sample(digits[0][:32])).make(plan)


def test_a_backend_that_does_not_take_the_float_file_is_not_asked_for_its_bf16(bundle_copy, digits, monkeypatch):
    def refuses(*_):
        raise ModelFileError("an operator that is not taken")

    kind = backends.get("openvino")
    monkeypatch.setattr(kind, "__init__", refuses)
    monkeypatch.setattr(kind, "precisions", lambda *_: ("float32", "bf16"))
    with Bundle(bundle_copy) as opened:
        laboratory = trial.Laboratory(opened.manifest, opened.variant_file("float32"), digits[0][:16], None)
    laboratory.against_floats([])
    assert set(laboratory.floats.p50_ms) == {"onnxruntime"}
    assert laboratory.floats.bf16_ms == {}


def another(opened, index=0):
    """A file that computes what float32's does, and is not the same."""
    model = onnx.load(opened.variant_file("float32"))
    model.doc_string = f"another {index}"
    return model.SerializeToString()


def test_float32_is_timed_in_turns_with_the_files(bundle_copy, digits, monkeypatch):
    """Minutes later the machine may be twice as fast."""
    monkeypatch.setattr(backends.get("openvino"), "precisions", lambda *_: ("float32",))
    with Bundle(bundle_copy) as opened:
        laboratory = trial.Laboratory(opened.manifest, opened.variant_file("float32"), digits[0][:16], None)
        content = another(opened)
    turns, now = [], itertools.count(1)
    monkeypatch.setattr(trial, "block_ms", lambda call, _: turns.append(call.func) or [float(next(now))])
    (times,) = laboratory.against_floats([content])
    for name, half in (("onnxruntime", turns[: trial.ROUNDS * 2]), ("openvino", turns[trial.ROUNDS * 2 :])):
        before, after = half[:2]
        assert before != after
        assert half == [before, after, after, before] * (trial.ROUNDS // 2)
        assert times[0][name] == pytest.approx(laboratory.floats.p50_ms[name])  # as slow, as the clock has it
    laboratory.close()


def test_a_file_is_opened_once_by_all_who_use_it_and_few_stay_open(bundle_copy, digits, monkeypatch):
    with Bundle(bundle_copy) as opened:
        manifest, source = opened.manifest, opened.variant_file("float32")
        content, *others = (another(opened, index) for index in range(4))
    kind, made_of, closed = backends.get("onnxruntime"), [], []
    begin, end = kind.__init__, kind.close
    monkeypatch.setattr(kind, "__init__", lambda self, *given: made_of.append(self) or begin(self, *given))
    monkeypatch.setattr(kind, "close", lambda self: closed.append(self) or end(self))
    laboratory = trial.Laboratory(manifest, source, digits[0][:32], digits[1][:32])
    (times,) = laboratory.against_floats([content])
    laboratory.measure(Plan("layers"), content, times)
    assert len(made_of) == 2  # float32, for its outputs and times, and the file, for its own
    assert not closed
    monkeypatch.setattr(sessions, "KEPT", 2)
    opened_files = sessions.Sessions()
    with opened_files.opened(content, "onnxruntime") as first:
        for each in others:
            with opened_files.opened(each, "openvino"):
                pass
        assert first not in closed
        first.run({"image": digits[0][:1]})
    opened_files.close()
    laboratory.close()
    assert len(closed) == len(made_of) == 3


def test_a_backend_that_takes_one_image_and_not_several_is_left_out(bundle_copy, digits, monkeypatch):
    """OpenVINO 2026.4 compiles LeViT's int8 for one image, and throws in its own reshaping for a free batch."""
    kind = backends.get("openvino")
    plain = kind.run

    def one(self, feeds):
        if len(next(iter(feeds.values()))) > 1:
            raise ModelFileError("openvino cannot load it: requested output shape is incompatible with input shape")
        return plain(self, feeds)

    with Bundle(bundle_copy) as opened:
        source = opened.variant_file("float32")
        laboratory = trial.Laboratory(opened.manifest, source, digits[0][:16], None)
        monkeypatch.setattr(kind, "run", one)
        content = source.read_bytes()
        (times,) = laboratory.times([content])
        assert set(times[0]) == {"onnxruntime", "openvino"}
        found = laboratory.measure(Plan("layers"), content, times)
    assert set(found.agreements) == set(found.p50_ms) == set(found.p99_ms) == {"onnxruntime"}


# Bad input: one line, the bundle as it was


def test_labels_of_one_class_are_refused(bundle_copy, digits):
    frames = digits[0]
    before = (bundle_copy / "bundle.json").read_bytes()
    with pytest.raises(BadInput, match="one class only cannot tell accuracy; give images of several classes"):
        quantize(bundle_copy, frames[:64], QUICK, check=frames[64:128], labels=np.zeros(64, np.int64))
    assert (bundle_copy / "bundle.json").read_bytes() == before


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle_copy, digits, monkeypatch):
    before = {file.name: file.read_bytes() for file in bundle_copy.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device", str(bundle_copy))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        quantize(bundle_copy, digits[0][:128], QUICK)
    assert {file.name: file.read_bytes() for file in bundle_copy.iterdir()} == before
    assert list(bundle_copy.parent.iterdir()) == [bundle_copy]


def test_what_stays_in_float_is_listed(bundle_copy, digits):
    done = quantize(bundle_copy, digits[0][:128], QUICK)
    assert done.left_in_float["HardSwish"] == 1
    assert any(line.startswith("left in float: ") and "1 HardSwish" in line for line in explain(done, Budget()))


def test_the_choice_is_explained_layer_by_layer(bundle_copy, digits):
    done = quantize(bundle_copy, digits[0][:128], msgspec.structs.replace(QUICK, placements=("layers",), islands=False))
    with Bundle(bundle_copy) as opened:
        layers = Wiring(onnx.load(opened.variant_file("float32"))).layers()
    lines = [line for line in explain(done, Budget()) if line.startswith("int8 ")]
    assert {line.split(":")[0].removeprefix("int8 ") for line in lines} == {layer.name for layer in layers}
    shares = [float(line.split("off by ")[1].removesuffix(" %")) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert 0.1 < shares[-1] < shares[0] < 20

    outside = explain(dataclasses.replace(done, found=dataclasses.replace(done.found, kept=False)), Budget())
    assert outside[0].startswith("NOT within the budget")


def test_what_a_variant_gains_is_told_by_what_its_verdict_is_made_of(finished):
    with Bundle(finished) as opened:
        evidence, manifest = opened.evidence(), opened.manifest

    def timed(entry, ms):
        return msgspec.structs.replace(entry, latency=msgspec.structs.replace(entry.latency, p50_ms=ms, session=""))

    here = [each for each in evidence.entries if each.backend == "onnxruntime"]
    own, plain = (next(each for each in here if each.variant == name) for name in ("int8-u8s8", "float32"))
    half = msgspec.structs.replace(own, variant="fp16")
    other = msgspec.structs.replace(own.machine, cpu="another")
    assert other.key != own.machine.key
    away = [msgspec.structs.replace(timed(each, 1.0), machine=other) for each in (own, plain)]
    entries = [timed(own, 3.0), timed(plain, 4.0), timed(half, 2.0), *away]
    fp16 = Variant(name="fp16", file="model.fp16.onnx", precision="fp16")
    manifest = msgspec.structs.replace(manifest, variants=(*manifest.variants, fp16))
    evidence = Evidence(tuple(entries))
    (line,) = explain_evidence(evidence, manifest, "int8-u8s8")
    assert line.startswith("int8-u8s8 on onnxruntime: top-1 drops by ")
    assert line.endswith("; int8-u8s8 3.00 ms, float32 4.00 ms, fp16 2.00 ms")
    offers = offered(manifest, evidence, machine.this())
    assert offers.withheld("int8-u8s8")["onnxruntime"] == "slower than fp16 (3.00 against 2.00 ms)"

    broken = msgspec.structs.replace(plain, agreement=None, score=None, latency=None, failed="it does not run")
    entries = [timed(own, 3.0), broken]  # nothing to be compared with
    (line,) = explain_evidence(Evidence(tuple(entries)), manifest, "int8-u8s8")
    assert line.endswith("; int8-u8s8 3.00 ms")


def test_images_unlike_the_golden_ones_are_warned_of(bundle_copy, digits):
    said = []
    done = quantize(bundle_copy, 255 - digits[0][:128], QUICK, said.append)
    assert len(done.warnings) == 1
    assert any(line.startswith("warning: the calibration images do not resemble") for line in said)


@pytest.mark.parametrize(
    ("has", "bf16_ms", "moved", "taken"),
    [
        (("float32", "bf16"), 0.5, 0.0, "bf16"),
        (("float32", "bf16"), 0.99, 0.0, "float32"),  # gains too little
        (("float32", "bf16"), 0.5, 5.0, "float32"),  # and moves the outputs
        (("float32",), 0.5, 0.0, "float32"),
    ],
)
def test_what_is_not_quantized_runs_in_bf16_only_where_that_gains(
    exported, digits, monkeypatch, has, bf16_ms, moved, taken
):
    with Bundle(exported) as opened:
        laboratory = trial.Laboratory(opened.manifest, opened.variant_file("float32"), digits[0][:16], None)
    monkeypatch.setattr(backends.get("openvino"), "precisions", staticmethod(lambda: has))
    times = {"float32": [1.0], "bf16": [bf16_ms]}
    monkeypatch.setattr(laboratory, "_in_turns", lambda given, _: [times[precision] for _, precision in given])
    plain = {part.start: outputs["logits"] for part, outputs in laboratory.reference.batches()}
    noise = moved * np.random.default_rng(0).normal(size=next(iter(plain.values())).shape).astype(np.float32)
    given = iter(plain.values())
    monkeypatch.setattr(verify, "computing", lambda *_: lambda _: {"logits": next(given) + noise})
    monkeypatch.setattr(laboratory._sessions, "opened", lambda *_: contextlib.nullcontext())
    measured = made(Plan("layers"), 1.0, 0.01, 0.0)
    agreements = {"openvino": measured.agreement}
    measured = msgspec.structs.replace(measured, p50_ms={"openvino": 1.0}, agreements=agreements)
    assert laboratory.islands(measured, b"", "openvino") == taken


def test_a_float_pass_that_moves_the_float_outputs_is_left_out_and_said_to_be(hostile, digits, monkeypatch):
    """One that makes every ReLU6 a ReLU, say, gives another network, which int8 would be close to."""

    def harmful(wiring, _):
        moved = Wiring(wiring.model)
        for layer in moved.layers()[:1]:
            moved.set_weights(layer, 1.5 * moved.weights(layer))
        return moved

    monkeypatch.setitem(FLOAT_PASSES, "smooth", harmful)
    clock = Clock(runs_from="never")
    done = searched(hostile[0], digits[0], None, clock, passes=("equalize", "smooth", "bias"), islands=False)
    (said,) = (line for line in clock.said if line.startswith("pass 'smooth' is left out: it moves the float outputs"))
    assert " nats, where int8 without it moves them by " in said
    tried = {name for each in done.trials for name in each.plan.passes}
    assert tried == {"equalize", "bias"}


def test_what_judges_a_file_did_not_calibrate_it():
    images = np.arange(90, dtype=np.uint8).reshape(90, 1, 1, 1)
    config = QuantizeConfig(images=40, check_images=30)
    judging = quantizing.unseen(images, config)
    calibration, _ = divided(images, None, config)
    assert len(judging) == 30
    assert not set(judging.ravel()) & {value for batch in calibration.batches() for value in batch.ravel()}
