"""A container's quota of CPU time counts as cores, as both versions of the kernel's groups tell it."""

import pytest

from edgecv_runtime import cores
from edgecv_runtime.target import targets


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A file system of 16 cores; `write` puts files into it."""
    monkeypatch.setattr(cores, "seen", lambda: 16)

    def write(content):
        for name, text in content.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("content", "usable"),
    [
        ({}, 16),  # not Linux, or nothing to be seen
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),  # docker run --cpus 2
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "40000 20000\n"}, 2),
        (  # a service of systemd, with CPUQuota= on the slice around it
            {
                "proc/self/cgroup": "0::/edge.slice/camera.service\n",
                "sys/fs/cgroup/edge.slice/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/edge.slice/camera.service/cpu.max": "max 100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 16),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/\n",
                f"{V1}/docker/ab/cpu.cfs_quota_us": "400000\n",
                f"{V1}/docker/ab/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (  # inside the container its group is the top of what is mounted
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/ab\n",
                f"{V1}/cpu.cfs_quota_us": "250000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
        (  # cpuset and cpuacct are no cpu
            {"proc/self/cgroup": "3:cpuset:/\n2:cpuacct:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n"},
            16,
        ),
        (  # both versions mounted, as systemd's hybrid layout has it
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/a\n0::/a\n",
                f"{V1}/a/cpu.cfs_quota_us": "500000\n",
                f"{V1}/a/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
    ],
)
def test_a_quota_counts_as_cores(root, content, usable):
    assert cores.usable(root(content)) == usable


def test_this_machine_may_use_no_more_than_it_sees():
    import os

    assert 1 <= cores.usable() <= cores.seen() <= (os.cpu_count() or 1)


def test_backends_and_the_search_take_the_quota_for_the_cores(exported, monkeypatch):
    import edgecv_runtime as rt
    from edgecv_runtime import machine, tuning
    from edgecv_runtime.backends.openvino import OpenVinoBackend

    monkeypatch.setattr(cores, "usable", lambda: 1)
    monkeypatch.setattr(cores, "seen", lambda: 64)
    machine.this.cache_clear()
    try:
        assert machine.this().cores == 1
        with rt.load(exported, backend="openvino") as model:
            backend = model._backend
            assert isinstance(backend, OpenVinoBackend)
            assert backend._graph(single=True).compiled.get_property("INFERENCE_NUM_THREADS") == 1
            assert model.info.threads == 1
        with rt.load(exported, backend="onnxruntime", goal="throughput") as model:
            assert model.streams == 1
        with rt.Bundle(exported) as opened:
            (target,) = targets(opened, "onnxruntime")
        assert {(each.threads, each.streams) for each in tuning.settings(target)} == {(0, 1)}
    finally:
        monkeypatch.undo()
        machine.this.cache_clear()
