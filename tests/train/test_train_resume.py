"""A run can be ended at any moment and goes on as if nothing had happened; a bad or foreign checkpoint is refused."""

import io
import os
import random
import re
import signal
import subprocess
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from train_lab import losses, some_digits, tiny, train

from edgecv.train import Augment, CheckpointError, Interrupted, TrainConfig, checkpoint
from edgecv.train.signals import stop_signals
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.signals import ECHO_S

# Runs that use everything that has a state or draws at random.
RUNS = {
    "adamw, mixup, randaugment": TrainConfig(
        epochs=4, batch=64, mixup=0.3, ema=0.9, augment=Augment(pad=1, randaugment=2), seed=3
    ),
    "sgd, crops, flips, no average": TrainConfig(
        epochs=4, batch=48, optimizer="sgd", lr=0.05, ema=0, bn_images=0, augment=Augment(scale=(0.6, 1.0), flip=True)
    ),
}


class Pulled:
    """Ends a run from within: a signal at some forward pass, training or validating."""

    def __init__(self, model, at, signum):
        self.passes, self.at, self.signum = 0, at, signum
        model.register_forward_hook(self)

    def __call__(self, *_):
        self.passes += 1
        if self.passes == self.at:
            os.kill(os.getpid(), self.signum)


@pytest.fixture(scope="module", params=RUNS)
def whole(request, tmp_path_factory):
    """A config, and the folder of a run with it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, RUNS[request.param])
    return RUNS[request.param], folder


def same(one, other):
    assert losses(one) == losses(other)
    first, second = load_file(one / "weights.safetensors"), load_file(other / "weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Ended by a signal, gone on with


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_again_and_again_is_the_same_run(whole, tmp_path, signum):
    config, folder = whole
    before = signal.getsignal(signum)
    ended = []
    for session in range(60):
        model = tiny()
        Pulled(model, at=3 + session % 7, signum=signum)
        try:
            train(tmp_path, config, model=model)
        except Interrupted as exc:
            ended.append(exc)
        else:
            break
        finally:
            assert signal.getsignal(signum) is before
    assert len(ended) > 3
    assert {exc.exit_code for exc in ended} == {128 + signum}
    assert all(f"{signal.Signals(signum).name} in epoch" in str(exc) for exc in ended)
    same(tmp_path, folder)


def test_a_second_signal_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == signal.SIGINT
            time.sleep(1.1 * ECHO_S)  # sooner it is the same one again
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


KILLED = {"epochs": 5, "batch": 32, "ema": 0.9, "augment": Augment(rotate=5), "mixup": 0.2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, TrainConfig(**KILLED), dataset=some_digits())
    return folder


def started(process, folder):
    """Start a run and wait until it has its signal handlers, which is when its first checkpoint is there."""
    process.start()
    checkpoint_file = folder / "checkpoint.edgecv"
    at = checkpoint_file.stat().st_mtime_ns if checkpoint_file.exists() else 0
    while process.is_alive() and not (checkpoint_file.exists() and checkpoint_file.stat().st_mtime_ns > at):
        time.sleep(0.005)


def test_kill_nine_at_random_moments_changes_nothing(processes, tmp_path, undisturbed):
    draw = random.Random(0)
    waits = [draw.uniform(0.05, 2.0) for _ in range(6)]
    killed = 0
    for wait in [*waits, None]:
        process = processes(tmp_path, KILLED, checkpoint_s=0.0)  # at every step
        process.start()
        process.join(timeout=wait)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL), (tmp_path / "error").read_text()
    assert process.exitcode == 0
    assert killed > 1
    same(tmp_path, undisturbed)
    assert not list(tmp_path.rglob("*.tmp"))


def test_sigterm_saves_and_exits_with_143(processes, tmp_path, undisturbed):
    process = processes(tmp_path, KILLED)
    started(process, tmp_path)
    time.sleep(0.3)
    sent = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    assert time.monotonic() - sent < 10
    assert (tmp_path / "error").read_text().startswith("SIGTERM in epoch ")
    again = processes(tmp_path, KILLED)
    again.start()
    again.join()
    assert again.exitcode == 0
    same(tmp_path, undisturbed)


def test_how_often_a_checkpoint_is_made_changes_nothing(tmp_path):
    for name, seconds in (("often", 0.0), ("once", 3600.0)):
        train(tmp_path / name, TrainConfig(epochs=3), checkpoint_s=seconds)
    same(tmp_path / "often", tmp_path / "once")


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    config, folder = whole
    model = tiny()
    training = []
    model.register_forward_hook(lambda module, *_: training.append(module.training))
    (folder / "weights.safetensors").rename(tmp_path / "weights.safetensors")
    again = train(folder, config, model=model)
    assert True not in training
    assert again.epochs == config.epochs
    assert again.weights.read_bytes() == (tmp_path / "weights.safetensors").read_bytes()


# A full disk


def test_a_full_disk_keeps_the_checkpoint_from_before(processes, tmp_path, undisturbed):
    process = processes(tmp_path, KILLED, checkpoint_s=0.0)
    started(process, tmp_path)
    time.sleep(0.2)
    process.terminate()
    process.join()
    kept = (tmp_path / "checkpoint.edgecv").read_bytes()
    full = processes(tmp_path, KILLED, checkpoint_s=0.0, file_limit=len(kept) // 2)
    full.start()
    full.join()
    message = (tmp_path / "error").read_text()
    assert full.exitcode == Unavailable.exit_code
    assert message.startswith(f"{tmp_path}/checkpoint.edgecv: cannot be written: File too large; the one from before")
    assert "\n" not in message
    assert (tmp_path / "checkpoint.edgecv").read_bytes() == kept
    assert not list(tmp_path.glob(".*.tmp"))
    rest = processes(tmp_path, KILLED)
    rest.start()
    rest.join()
    same(tmp_path, undisturbed)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of one megabyte, where the machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system here; the limit on file sizes stands in for it")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # arrays may still be mapped


def test_a_disk_that_is_full_at_the_start_ends_the_run_before_it_trains(tiny_disk):
    (tiny_disk / "ballast").write_bytes(bytes(900_000))
    model = tiny(width=40)
    training = []
    model.register_forward_hook(lambda module, *_: training.append(module.training))
    with pytest.raises(Unavailable, match="cannot be written: No space left on device") as caught:
        train(tiny_disk / "run", TrainConfig(epochs=2, warmup_epochs=0), model=model)
    assert "\n" not in str(caught.value)
    assert True not in training
    assert not list((tiny_disk / "run").rglob("*.edgecv"))
    assert not list((tiny_disk / "run").rglob("*.tmp"))


# A checkpoint that is damaged or another run's


STATE = {"run": {"lr": "0.1"}, "model": {"weight": torch.arange(100.0)}, "history": [[1, 0.5]], "best": None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "checkpoint.edgecv"
    checkpoint.save(path, STATE)
    return path


def test_a_checkpoint_comes_back_as_it_was(saved):
    state = checkpoint.load(saved, STATE["run"])
    assert torch.equal(state.pop("model")["weight"], STATE["model"]["weight"])
    assert state == {name: value for name, value in STATE.items() if name != "model"}


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_altered_byte_is_noticed(saved, tmp_path, data):
    content = bytearray(saved.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "altered").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.load(tmp_path / "altered", STATE["run"])


@given(st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_truncation_is_noticed(saved, tmp_path, data):
    content = saved.read_bytes()
    (tmp_path / "cut").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.load(tmp_path / "cut", STATE["run"])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_a_training_begun_before_there_were_later_keys_goes_on(tmp_path):
    """As the first version wrote its settings; a key that is used is another run."""
    config = TrainConfig(epochs=2, batch=64)
    train(tmp_path, config)
    path = tmp_path / "checkpoint.edgecv"
    head = len(checkpoint._MAGIC) + 65
    state = torch.load(io.BytesIO(path.read_bytes()[head:]), weights_only=True)
    for key in ("dice", "class_weights", "backbone_lr"):
        del state["run"][key]
    state["run"]["augment"] = re.sub(r", (color|mosaic)=[^,)]*", "", state["run"]["augment"])
    assert "color" not in state["run"]["augment"]
    checkpoint.save(path, state)
    assert train(tmp_path, config).epochs == 2
    for other in ({"augment": Augment(color=0.1)}, {"dice": 1}):
        changed = TrainConfig(epochs=2, batch=64, **other)
        with pytest.raises(CheckpointError, match="belongs to another run"):
            train(tmp_path, changed)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "evil", {"run": Evil()})
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        checkpoint.load(tmp_path / "evil", {})
    assert not (tmp_path / "owned").exists()


def test_a_damaged_checkpoint_is_refused_and_can_be_replaced(tmp_path):
    config = TrainConfig(epochs=2, warmup_epochs=0)
    (tmp_path / "checkpoint.edgecv").write_bytes(b"half of a file")
    with pytest.raises(CheckpointError, match=r"damaged .* start over with resume=False"):
        train(tmp_path, config)
    assert (tmp_path / "checkpoint.edgecv").read_bytes() == b"half of a file"
    assert train(tmp_path, config, resume=False).epochs == 2
    assert train(tmp_path, config).epochs == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": TrainConfig(epochs=2, warmup_epochs=0, lr=0.3)}, "lr was 0.001, is 0.3"),
        ({"config": TrainConfig(epochs=2, warmup_epochs=0, augment=Augment(flip=True))}, "augment was Augment"),
        ({"dataset": some_digits(200)}, "training images was .*; validation images was"),
        ({"model": tiny(width=13)}, "model was TinyNet"),
    ],
)
def test_another_runs_checkpoint_is_refused_and_the_difference_named(tmp_path, change, message):
    config = TrainConfig(epochs=2, warmup_epochs=0)
    train(tmp_path, config)
    with pytest.raises(CheckpointError, match=f"belongs to another run: {message}"):
        train(tmp_path, **{"config": config, **change})


def test_what_a_killed_writer_left_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".checkpoint.edgecv.{dead.pid}.tmp"
    left.write_bytes(b"half")
    train(tmp_path, TrainConfig(epochs=1, warmup_epochs=0))
    assert not left.exists()
