"""A process that loads one target and plays acts on it: JSON lines in and out (`messages`).

A process of its own gives each target its own thread pools, limits and peak memory.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import spawned
from edgecv_runtime.backends import Executed
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.machine import peak_rss_mb, rss_mb
from edgecv_runtime.model import Model
from edgecv_runtime.preprocess import import_cv2
from edgecv_runtime.scenario import loadgen, own
from edgecv_runtime.scenario.messages import Block, Done, Job, Play, Ready
from edgecv_runtime.scenario.plan import LOADGEN

WARM_UP_CALLS = 10  # at least
BUFFERS = 64  # inputs in memory of their own, so that none stays in a cache from call to call
FRAME_SIZE = (1080, 1920)


def main() -> int:
    """Serve one job until stdin closes."""
    _answers()
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    from edgecv_runtime.loading import of_target
    from edgecv_runtime.target import targets

    bundle = Bundle(job.bundle)
    wanted = (job.variant, job.hint)
    found = [each for each in targets(bundle, job.backend, job.plan.threads) if (each.variant, each.hint) == wanted]
    streams = 0 if job.plan.scenario in ("offline", "server") else 1
    with of_target(bundle, msgspec.structs.replace(found[0], streams=streams)) as model:
        stage = _Stage(model, bundle, job)
        calls = job.plan.calls
        warm_up, call_s = _warmed(lambda number: stage.call([number % stage.inputs] * calls), job.plan.warm_up_s)
        info = model.info
        executed = Executed(info.precision, info.layers)
        _say(Ready(executed, info.device, info.threads, model.streams, warm_up, stage.fed))
        for line in sys.stdin.buffer:
            _play(msgspec.json.decode(line, type=Play), stage, job, call_s)
    return 0


def _play(play: Play, stage: _Stage, job: Job, call_s: float) -> None:
    begin, dropped, frames = time.time(), 0, 0
    found: dict[str, Any] = {}
    if play.act in LOADGEN:
        streams = stage.model.streams
        block, frames, found = loadgen.play(
            play.act, stage.call, stage.inputs, job.plan, play.seconds, call_s, streams, _say
        )
        _say(block)
        begin, end = loadgen.moments(found)
    else:
        for block in _acts(play, stage, job):
            frames += len(block.ms)
            dropped += block.dropped
            _say(block)
        end = time.time()
    _say(Done(begin, end, frames, rss_mb(), peak_rss_mb(), dropped, found))


def _acts(play: Play, stage: _Stage, job: Job) -> Iterator[Block]:
    if play.act == "paced":
        return own.paced(stage.one, play.seconds, job.plan.fps)
    if play.act == "frames":
        return own.staged(stage.stages, play.seconds)
    return own.flat_out(stage.one, play.seconds)


class _Stage:
    """A model and what it is fed with; `fed` says what that is."""

    def __init__(self, model: Model[Any], bundle: Bundle, job: Job) -> None:
        self.model = model
        self._name = model.input.name
        golden = bundle.golden()
        self._pictures, said = _pictures(job, golden.images, [picture.data for picture in golden.pictures])
        if job.plan.scenario == "frames":
            self.inputs, self.fed = len(self._pictures), said
            self.call: Callable[[Sequence[int]], object] = self._whole
        elif job.plan.feed == "frames":
            frames = [_image(data) for data in self._pictures]
            self._frames = [frames[number % len(frames)].copy() for number in range(min(BUFFERS, 16))]
            self.inputs, self.fed = len(self._frames), f"decoded frames: {said}"
            self.call = lambda which: model([self._frames[each] for each in which])
        else:
            images = golden.images
            self._tensors = [np.array(images[number % len(images)][None]) for number in range(BUFFERS)]
            self.inputs = BUFFERS
            self.fed = f"ready tensors: {len(images)} golden inputs in {BUFFERS} buffers"
            self.call = self._run

    def one(self, number: int) -> object:
        return self.call([number % self.inputs])

    def stages(self, number: int) -> Iterator[str]:
        """A frame from its file's bytes to the drawn result; each step computes the stage that it names."""
        frame = _image(self._pictures[number % self.inputs])
        yield "decode"
        tensor = self.model.tensor([frame])
        yield "preprocess"
        outputs = self.model.run({self._name: tensor})
        yield "infer"
        (result,) = self.model.decode(outputs, [self.model.preprocess.view(frame.shape[:2])])
        yield "postprocess"
        result.draw(frame)
        yield "draw"

    def _whole(self, which: Sequence[int]) -> object:
        return [list(self.stages(each)) for each in which]

    def _run(self, which: Sequence[int]) -> object:
        one = self._tensors[which[0]]
        tensor = one if len(which) == 1 else np.concatenate([self._tensors[each] for each in which])
        return self.model.run({self._name: tensor})


def _pictures(job: Job, golden: NDArray[Any], own_pictures: list[bytes]) -> tuple[list[bytes], str]:
    """Image files as bytes, and what they are, in words."""
    if job.pictures:
        return [Path(path).read_bytes() for path in job.pictures], f"{len(job.pictures)} image files that were given"
    if own_pictures:
        return own_pictures, f"the bundle's {len(own_pictures)} golden pictures"
    cv2 = import_cv2()
    frame = cv2.resize(golden[0], FRAME_SIZE[::-1])
    return [cv2.imencode(".jpg", frame)[1].tobytes()], "a golden input enlarged to a JPEG of 1920x1080"


def _image(data: bytes) -> Any:
    from edgecv_runtime import images

    return images.decode(data)


def _warmed(call: Callable[[int], object], seconds: float) -> tuple[int, float]:
    """Calls that do not count -> how many, and what one took, by the median of the later half."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < WARM_UP_CALLS or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call(len(times))
        times.append(time.perf_counter() - start)
    return len(times), statistics.median(times[len(times) // 2 :])


_answers = functools.cache(spawned.answers)


def _say(said: Ready | Block | Done) -> None:
    _answers().write(msgspec.json.encode(said) + b"\n")
    _answers().flush()


if __name__ == "__main__":
    sys.exit(main())
