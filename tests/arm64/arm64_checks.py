"""The runtime on a Raspberry Pi 4 and 5, emulated: `make test-arm64` (as root; pytest does not collect it by itself).

x86 is the oracle: the same wheel, the same bundle, the same frames.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from board import PI4, PI5, prepare

from edgecv_runtime import Bundle
from edgecv_runtime import bundle as bundles
from edgecv_runtime.evidence import Evidence

HERE = Path(__file__).parent
KEPT = Path(os.environ.get("EDGECV_ARM64", Path.home() / ".cache/edgecv/arm64"))  # what is fetched once
CLI = ("-m", "edgecv.cli")
WAYS = ["float32 on onnxruntime", "int8 on onnxruntime", "float32 on openvino"]
CORES = {PI4: "Cortex-A72", PI5: "Cortex-A76"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory, finished, digits):
    share = tmp_path_factory.mktemp("share")
    subprocess.run(["cp", "-r", finished, share / "bundle"], check=True)
    with Bundle(share / "bundle") as opened:  # as it comes to a device: judged nowhere
        bundles.update(opened, evidence=Evidence())
    np.save(share / "frames.npy", digits[0][1600:1650])
    cv2.imwrite(str(share / "digit.png"), digits[0][1600])
    subprocess.run(["cp", HERE / "guest.py", share], check=True)
    return prepare(KEPT, share)


@pytest.fixture(scope="module")
def x86(machine):
    place = machine.share
    command = [sys.executable, place / "guest.py", place / "bundle", place / "frames.npy"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture(scope="module", params=[PI4, PI5], ids=lambda board: board.name)
def board(request):
    return request.param


@pytest.fixture(scope="module")
def there(machine, board):
    """Run the command line on the board; another exit code than was expected fails."""

    def run(*words, code=0):
        done = machine.run(board, *words)
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert done.returncode == code, f"{words}: exit code {done.returncode}\n{said}"
        return done

    return run


@pytest.fixture(scope="module")
def answers(there):
    return json.loads(there("/data/guest.py", "/data/bundle", "/data/frames.npy").stdout)


def test_doctor_names_the_board_and_its_cores(there, board):
    found = json.loads(there(*CLI, "doctor", "--json").stdout)
    assert found["machine"]["cpu"] == f"{board.model} ({CORES[board]})"
    assert found["machine"]["os"].endswith("aarch64")
    assert [found["backends"][name]["works"] for name in ("onnxruntime", "openvino")] == [True, True]


@pytest.mark.parametrize("way", WAYS)
def test_the_labels_are_those_of_x86(answers, x86, way):
    assert answers[way]["labels"] == x86[way]["labels"]
    apart = np.abs(np.subtract(answers[way]["scores"], x86[way]["scores"])).max()
    assert apart < (1e-4 if way.startswith("float32") else 0.1)
    assert answers[way]["executed"] == way.split()[0]


def test_int8_on_openvino_is_refused_or_called_mixed(answers, x86, board):
    found = answers["int8 on openvino"]
    if board is PI4:
        assert "no int8 on this processor" in found["error"], found["error"]
        assert "onnxruntime" in found["error"], found["error"]
    else:
        own, other = np.array(found["scores"]), np.array(x86["int8 on openvino"]["scores"])
        apart = np.abs(own - other).max()
        assert apart < 0.2
        first, second = np.sort(other, 1)[:, :-3:-1].T
        moved = own.argmax(1) != other.argmax(1)
        assert (first - second)[moved].max(initial=0) <= 2 * apart  # where two labels were nearly as good
        assert moved.mean() <= 0.1
        assert found["executed"] == "mixed"
        assert found["layers"].get("int8", 0) * 2 < sum(found["layers"].values())


def test_auto_takes_what_works_and_says_what_does_not(answers, x86):
    found = answers["auto int8"]
    assert (found["backend"], found["executed"]) == ("onnxruntime", "int8")
    assert found["labels"] == x86["int8 on onnxruntime"]["labels"]
    assert "not int8-u8s8 on openvino" in found["reasons"]
    assert answers["auto"]["variant"] == "float32"  # int8 was judged on x86, not here
    assert answers["auto"]["labels"] == x86["float32 on onnxruntime"]["labels"]


def test_verify_withholds_int8_on_openvino_and_says_why(there, board):
    done = there(*CLI, "verify", "/data/bundle", "--no-write", "--json", code=4)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edgecv: int8-u8s8 on openvino:")]
    assert ("no int8 on this processor" if board is PI4 else "mixed precision") in line
    assert "onnxruntime:" not in done.stderr


def test_a_photo_and_a_stream_get_labels(there, machine, board, x86):
    said = there(*CLI, "predict", "/data/bundle", "/data/digit.png").stdout
    assert x86["float32 on onnxruntime"]["labels"][0] in said
    result = f"/data/{board.name}.jsonl"
    there(*CLI, "stream", "/data/bundle", "test://?size=320x240&10", "--when-late", "wait", "--sink", result)
    assert len((machine.share / f"{board.name}.jsonl").read_text().splitlines()) == 10
