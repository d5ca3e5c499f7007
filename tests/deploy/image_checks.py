"""The image for an edge CPU, built on a bare Debian: backends, a stream and a server in it: `make test-image`, as root.

No registry is asked: the base is a root of Debian's own packages. About three minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import cv2
import pytest
import yaml
from ssh_lab import free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "arm64"))
from board import PI5, QEMU, Machine

import edgecv_runtime as rt
from edgecv_runtime import Bundle
from edgecv_runtime import bundle as bundles
from edgecv_runtime.evidence import Evidence

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "tests" / "assets" / "digits.edgecv"
PARTS = "python3-minimal,python3,libstdc++6,libgomp1,libgcc-s1,coreutils"
# Of podman, where no systemd and no cgroups of version 2 are: they change nothing of what the image is.
PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "host"]
CONTAINERS_CONF = """[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
LIMIT_MIB = 350  # of what is put on the base


def run(*command, **how):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@contextlib.contextmanager
def built(folder, arch, debian):
    """Build the image for an architecture -> (its name, what the script said, the bytes of its base)."""
    base, platform = f"localhost/edgecv-base-{uuid.uuid4().hex[:8]}", ["--platform", f"linux/{debian}"]
    parts = ["--variant=extract", f"--architectures={debian}", f"--include={PARTS}"]
    run("mmdebstrap", *parts, "bookworm", folder / "root.tar")
    (folder / "Containerfile").write_text("FROM scratch\nADD root.tar /\n")
    run("buildah", "bud", "--isolation", "chroot", *platform, "--tag", base, folder)
    asking = {"ARCH": arch, "BASE": base, "BUILDER": "buildah", "BUILDER_OPTIONS": "--isolation chroot"}
    said = run(ROOT / "deploy" / "image.sh", env={**os.environ, **asking, "PYTHON": sys.executable})
    size = json.loads(run(*PODMAN, "image", "inspect", base))[0]["Size"]
    yield f"localhost/edgecv:cpu-{arch}", said, size
    run("buildah", "rmi", "--force", base)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    with built(tmp_path_factory.mktemp("image"), "x86_64", "amd64") as found:
        yield found


def test_it_weighs_what_is_said(image):
    layers = json.loads(run(*PODMAN, "image", "inspect", image[0]))[0]["Size"], image[2]
    said = int(image[1].split(": ")[1].split()[0])
    assert abs(said - (layers[0] - layers[1]) / 2**20) < 10
    assert 100 < said <= LIMIT_MIB


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """What an image with OpenVINO in it would hold, and nothing built of it."""
    folder = tmp_path_factory.mktemp("packages")
    asking = {"EXTRAS": "cpu,page,openvino", "BUILDER": "true", "OUT": str(folder), "PYTHON": sys.executable}
    run(ROOT / "deploy" / "image.sh", env={**os.environ, **asking})
    return folder / "packages"


@pytest.mark.parametrize("backends", [["onnxruntime"], ["onnxruntime", "openvino"]], ids="+".join)
def test_every_backend_loads_and_agrees_in_float32_and_int8(image, finished, tmp_path, backends, request):
    """Without what trim.py takes out."""
    bundle = tmp_path / "bundle"
    shutil.copytree(finished, bundle)
    with Bundle(bundle) as opened:
        bundles.update(opened, evidence=Evidence())  # judged nowhere
    subprocess.run(["chmod", "-R", "a+rwX", tmp_path], check=True)
    options = ["--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp", "--volume", f"{tmp_path}:/kept"]
    if len(backends) > 1:
        options += ["--volume", f"{request.getfixturevalue('packages')}:/opt/edgecv:ro"]
    command = [*PODMAN, "run", "--rm", *LIMITS, *options, image[0]]
    found = json.loads(run(*command, "doctor", "--json"))["backends"]
    assert [name for name in ("onnxruntime", "openvino") if found[name]["works"]] == backends
    run(*command, "verify", "/kept/bundle")
    with Bundle(bundle) as opened:
        entries = {(each.backend, each.variant): each for each in opened.evidence().entries}
    assert entries.keys() == {(name, variant) for name in backends for variant in ("float32", "int8-u8s8")}
    for each in entries.values():
        assert not each.failed
        assert each.finding is None
        assert each.executed == each.variant.partition("-")[0]


def test_the_image_for_arm64_runs_on_a_raspberry_pi_5(tmp_path, digits):
    """Its files, by an emulator of the processor; x86 is the oracle."""
    share, frame = tmp_path / "share", digits[0][1600]
    share.mkdir()
    shutil.copy(DIGITS, share)
    cv2.imwrite(str(share / "digit.png"), frame)
    with built(tmp_path, "aarch64", "arm64") as (name, said, _), rt.load(DIGITS) as model:
        assert int(said.split(": ")[1].split()[0]) < LIMIT_MIB
        container = run("buildah", "from", name).strip()
        try:
            root = Path(run("buildah", "mount", container).strip())
            shutil.copy(QEMU, root / "usr/bin")
            for each in ("proc", "sys", "data", "dev", "tmp"):
                (root / each).mkdir(exist_ok=True)
            machine = Machine(root, root / "opt", share, "/opt/edgecv")
            doctor = machine.run(PI5, "-m", "edgecv.cli", "doctor", "--json")
            assert json.loads(doctor.stdout)["backends"]["onnxruntime"]["works"], doctor.stderr
            found = machine.run(PI5, "-m", "edgecv.cli", "predict", "/data/digits.edgecv", "/data/digit.png")
            assert model(frame).label in found.stdout, found.stderr
        finally:
            run("buildah", "rm", container)


@pytest.mark.parametrize("verb", ["stream", "serve"])
def test_it_runs_read_only_as_nobody_and_is_healthy_when_it_answers(image, verb):
    """With the options of compose.yaml."""
    name, address = f"edgecv-{uuid.uuid4().hex[:8]}", f"127.0.0.1:{free_port()}"
    asked = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"][verb]
    command = {
        "stream": ["stream", "/digits.edgecv", "test://?fps=10&frames=99999", "--page", address],
        "serve": ["serve", "/digits.edgecv", "--listen", address],
    }[verb]
    path = {"stream": "/readyz", "serve": "/v2/health/ready"}[verb]
    assert asked["read_only"]
    options = ["--read-only", "--read-only-tmpfs=false", "--tmpfs", asked["tmpfs"][0], "--cap-drop", *asked["cap_drop"]]
    options += ["--security-opt", "no-new-privileges", "--volume", f"{DIGITS}:/digits.edgecv:ro"]
    options += ["--env", f"EDGECV_READY=http://{address}{path}"]
    run(*PODMAN, "run", "--detach", "--name", name, *LIMITS, *options, image[0], *command)
    try:
        probe = asked["healthcheck"]["test"]
        inside = json.loads(run(*PODMAN, "inspect", name))[0]["Config"]
        assert inside["Healthcheck"]["Test"] == probe
        end = time.monotonic() + 60
        while subprocess.run([*PODMAN, "healthcheck", "run", name], capture_output=True, check=False).returncode:
            assert time.monotonic() < end, run(*PODMAN, "logs", name)
            time.sleep(1)
        who = "import os; print(os.getuid()); open('/opt/edgecv/x', 'w')"
        done = subprocess.run(
            [*PODMAN, "exec", name, "/usr/bin/python3", "-c", who], capture_output=True, text=True, check=False
        )
        assert done.stdout == "10001\n"
        assert "Read-only file system" in done.stderr
        silent = [*PODMAN, "exec", "--env", f"EDGECV_READY=http://127.0.0.1:{free_port()}/readyz", name, *probe[1:]]
        assert (
            subprocess.run(silent, capture_output=True, check=False).returncode == 3
        )  # what lives and does not answer
        run(*PODMAN, "stop", "--time", "20", name)
        assert json.loads(run(*PODMAN, "inspect", name))[0]["State"]["ExitCode"] == 143
    finally:
        run(*PODMAN, "rm", "--force", name)


@pytest.fixture
def compose(image, tmp_path):
    """Docker's compose, before podman's answer to its API -> what runs it, and what runs podman beside it."""
    socket, settings = tmp_path / "api", tmp_path / "containers.conf"
    settings.write_text(CONTAINERS_CONF)
    (tmp_path / "cameras.yaml").write_text("cameras: [{name: yard, url: 'test://?fps=10&frames=99999'}]\n")
    shutil.unpack_archive(DIGITS, tmp_path / "bundle", "zip")
    subprocess.run(["chmod", "-R", "a+rX", tmp_path], check=True)
    environment = {
        **os.environ, "CONTAINERS_CONF": str(settings), "DOCKER_HOST": f"unix://{socket}", "IMAGE": image[0],
        "BUNDLE": str(tmp_path / "bundle"), "CAMERAS": str(tmp_path / "cameras.yaml"),
        "PAGE": f"127.0.0.1:{free_port()}", "LISTEN": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    api = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"], env=environment)
    project = f"edgecv{uuid.uuid4().hex[:8]}"

    def composed(*words):
        file = ROOT / "deploy" / "compose.yaml"
        return run("docker-compose", "--project-name", project, "--file", file, *words, env=environment)

    def podman(*words):
        return run("podman", *(word.format(f"{project}_") for word in words), env=environment)

    try:
        while not socket.exists():
            assert api.poll() is None
            time.sleep(0.1)
        yield composed, podman
    finally:
        composed("down")
        api.terminate()
        api.wait(20)


def test_compose_starts_both_and_what_dies_comes_back(compose):
    composed, podman = compose

    def healthy(container):
        end = time.monotonic() + 60
        while True:
            try:
                return podman("healthcheck", "run", container)
            except AssertionError:
                assert time.monotonic() < end, podman("logs", container)
                time.sleep(0.5)

    composed("up", "--detach")
    for verb in ("stream", "serve"):
        healthy(f"{{}}{verb}_1")
        before = json.loads(podman("inspect", f"{{}}{verb}_1"))[0]
        assert before["HostConfig"]["ReadonlyRootfs"]
        assert before["EffectiveCaps"] is None
        assert before["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
        os.kill(before["State"]["Pid"], signal.SIGKILL)
        end = time.monotonic() + 30
        while json.loads(podman("inspect", f"{{}}{verb}_1"))[0]["State"]["Pid"] in (0, before["State"]["Pid"]):
            assert time.monotonic() < end
            time.sleep(0.2)
        healthy(f"{{}}{verb}_1")
