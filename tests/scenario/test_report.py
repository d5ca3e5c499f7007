"""What a report says: figures as scipy has them, a schema, doubts on fake machines, a page as a parser sees it."""

import csv
import io
import json
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv_runtime import Bundle, machine
from edgecv_runtime.bench import table
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Score
from edgecv_runtime.scenario import page, quantiles, report, session, trust, watch
from edgecv_runtime.scenario.energy import Energy
from edgecv_runtime.scenario.plan import Plan
from edgecv_runtime.target import targets
from tests import html_page
from tests.scenario.test_energy import tree

PUBLISHED = Path(__file__).parents[2] / "docs" / "bench-report.schema.json"


@pytest.fixture(scope="module")
def found(exported):
    """A report of two files with stages, one scored, one not."""
    with Bundle(exported) as opened:
        chosen = [each for each in targets(opened) if each.hint == "float32"]
        score = Score("top-1", 0.91, 0.88, 0.94, 200, 0.915, 0.5, -0.4, 1.4, "images of test")
        scores = {("float32", "onnxruntime", "float32"): score}
        plan = Plan("frames", seconds=0.3, warm_up_s=0.05)
        return session.bench(opened, chosen, plan, scores=scores)


@pytest.mark.parametrize("n", [20, 137, 2000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_intervals_of_independent_calls_are_those_of_order_statistics(n, share):
    values = np.random.default_rng(n).lognormal(size=n)
    mine = quantiles.percentile(values, share)
    theirs = stats.quantile_test(values, q=0, p=share).confidence_interval(0.95)
    assert mine.ms == pytest.approx(np.percentile(values, 100 * share))
    for own, other in ((mine.low_ms, theirs.low), (mine.high_ms, theirs.high)):
        assert (own is None) if np.isnan(other) else (own == pytest.approx(other))


def test_phases_of_a_machine_do_not_make_an_interval_narrow():
    """Calls take 1 or 2 ms by phases of 50: two runs of the same machine must not exclude each other's median."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        slow = np.repeat(rng.random(40) < 0.5, 50)
        values = rng.normal(1 + slow, 0.3)
        mine = quantiles.percentile(values, 0.5)
        inside += mine.low_ms <= 1.5 <= mine.high_ms  # by symmetry the median of all such machines
    assert inside >= 175  # of 200; without looking at the phases it is about 60
    naive = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert mine.high_ms - mine.low_ms > 2 * (naive.high - naive.low)


def test_a_report_keeps_to_its_published_schema(found):
    published = json.loads(PUBLISHED.read_text())
    assert published == report.schema(), "make it anew: python -m edgecv_runtime.scenario.report > " + str(PUBLISHED)
    document = json.loads(report.as_json(found))
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.validate(document, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"more": 1}, published)
    assert report.read(report.as_json(found), "report") == found


def test_reports_of_another_schema_are_refused(found):
    later = report.as_json(msgspec.structs.replace(found, schema=2))
    with pytest.raises(BadInput, match=r"later\.json: a report of schema 2, this edgecv reads 1"):
        report.read(later, "later.json")
    with pytest.raises(BadInput, match="unknown key 'more'"):
        report.read(b'{"more": 1}', "other.json")


def test_a_report_holds_what_was_measured(found, exported):
    with Bundle(exported) as opened:
        digest = opened.sha256("float32")
    assert found.machine == machine.this()
    for run in found.runs:
        assert run.sha256 == digest
        assert run.executed == "float32"
        assert run.layers["float32"] > 0
        assert run.versions[run.backend]
        assert run.threads >= 1
        assert run.warm_up >= 10
        assert 20 < run.rss_mb <= run.peak_rss_mb < 2000
        assert run.times.p50.ms <= run.times.p90.ms <= run.times.p99.ms <= run.times.max_ms
        assert run.times.mean_ms == pytest.approx(np.mean(run.took_ms))
        assert run.energy.joules is not None or run.energy.unavailable


def test_accuracy_stands_in_its_cell_or_the_words_that_it_was_not_measured(found):
    place = report.COLUMNS.index("accuracy")
    said = {run.backend: report.cells(run)[place] for run in found.runs}
    assert said["onnxruntime"] == (
        "top-1 91.00% (88.0% to 94.0%, n 200), −0.50 points of float32's 91.50% (−1.4 to 0.4)"
    )
    assert said["openvino"] == "accuracy not measured"
    for text in (report.markdown(found), page.html(found)):
        assert "accuracy not measured" in text
    doubts = {run.backend: [each.ok for each in run.trust if each.name.startswith("accuracy")] for run in found.runs}
    assert doubts == {"onnxruntime": [True], "openvino": [False]}


def test_every_call_is_in_the_csv(found):
    rows = list(csv.DictReader(io.StringIO(report.as_csv(found))))
    assert len(rows) == sum(run.times.calls for run in found.runs)
    assert [float(row["ms"]) for row in rows[:5]] == pytest.approx(found.runs[0].took_ms[:5], abs=1e-6)


def test_markdown_page_and_csv_say_the_figures_of_the_json(found):
    document = json.loads(report.as_json(found))
    flat = html_page.flat(html_page.Page(page.html(found)))
    calls = list(csv.DictReader(io.StringIO(report.as_csv(found))))
    for run, told in zip(found.runs, document["runs"], strict=True):
        for cell in report.cells(run):
            assert f"| {cell} |" in report.markdown(found)
            assert cell in flat
        own = [float(each["ms"]) for each in calls if each["backend"] == told["backend"]]
        for share in ("p50", "p90", "p99"):
            assert np.percentile(own, float(share[1:])) == pytest.approx(told["times"][share]["ms"], abs=2e-6)
            assert table.number(told["times"][share]["ms"]) in flat
        assert max(own) == pytest.approx(told["times"]["max_ms"], abs=2e-6)
        parts = sum(stage["share"] for stage in told["stages"]) * (1 - told["unstaged"]) * told["times"]["duration_s"]
        assert parts == pytest.approx(sum(own) / 1e3, rel=0.02)  # the waterfall is of the wall clock


def test_the_page_is_whole_and_says_all(found):
    text = page.html(found)
    parsed = html_page.Page(text)
    html_page.check_nothing_is_fetched_and_nothing_runs(parsed, text)
    flat = html_page.flat(parsed)
    for run in found.runs:
        assert run.target in flat
        assert run.sha256 in flat
        for each in run.trust:
            assert " ".join(each.detail.split()) in flat
    assert flat.count("Can I trust this run?") == 2
    assert flat.count("How long calls took") == flat.count("Where a frame's time goes") == 2
    assert "Accuracy against latency" in flat
    for stage in ("decode", "preprocess", "infer", "postprocess", "draw"):
        assert flat.count(stage) >= 2


def test_names_cannot_break_out_of_the_page(found):
    evil = msgspec.structs.replace(found, bundle="<script>alert(1)</script>")
    html_page.check_nothing_is_fetched_and_nothing_runs(html_page.Page(page.html(evil)), page.html(evil))


CALM = watch.Moment(50.0, 3000.0, 0.1)
SETTINGS = watch.Settings("native", [0, 1], None, None, "performance", "", 0.0)


def doubts(took=None, flat_out=True, settings=SETTINGS, **around):
    took = np.random.default_rng(0).normal(10, 0.1, 2000) if took is None else np.asarray(took)
    given = {"before": CALM, "after": CALM, "clocks_mhz": [3000.0] * 10, "temperatures_c": [], "throttled": 0,
             "quota_waits": 0, "others_cores": 0.01, **around}  # fmt: skip
    times = report.times(list(took), len(took), took.sum() / 1e3)
    found = trust.judged(times, list(took), watch.Surroundings(**given), settings, flat_out)
    return {each.name for each in found if each.ok is False}


FALLING = [3000.0] * 5 + [1500.0] * 10
SLOWER = np.concatenate([np.random.default_rng(0).normal(level, 0.1, 700) for level in (10, 11, 12)])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, set()),
        ({"throttled": 3}, {"no throttling"}),
        ({"took": SLOWER, "clocks_mhz": FALLING}, {"no throttling", "no drift", "resolution"}),
        # an idle clock is none: neither between the frames of a camera, nor while calls keep their speed
        ({"clocks_mhz": FALLING, "flat_out": False}, set()),
        ({"clocks_mhz": FALLING}, set()),
        ({"others_cores": 0.9}, {"alone"}),
        ({"quota_waits": 7}, {"within quota"}),
        ({"after": watch.Moment(95.0, 3000.0, 0.1)}, {"temperature"}),
        ({"settings": msgspec.structs.replace(SETTINGS, governor="powersave")}, {"governor"}),
        ({"settings": msgspec.structs.replace(SETTINGS, swap_used_mb=300.0)}, {"no swap"}),
        ({"took": [10.0, 11.0, 12.0, 9.0] * 3}, {"resolution", "tail"}),
        ({"took": np.repeat([10.0, 20.0, 10.0], 700)}, {"steady speed", "resolution"}),
    ],
)
def test_what_speaks_against_a_run_is_found(given, expected):
    assert doubts(**given) == expected


def test_what_nobody_watched_is_not_in_order():
    took = [10.0] * 2000
    unknown = watch.Moment(None, None, None)
    around = watch.Surroundings(unknown, unknown, [], [], None, None, None)
    settings = msgspec.structs.replace(SETTINGS, governor="", swap_used_mb=None)
    answers = trust.judged(report.times(took, 2000, 20.0), took, around, settings, True)
    named = {each.name for each in answers if each.ok is None}
    assert named == {"no throttling", "temperature", "alone", "within quota", "governor", "no swap"}
    answers = trust.judged(report.times(took, 2000, 20.0), took, None, settings, True)
    assert [each.name for each in answers if each.ok is None] == ["surroundings"]


CPU = "sys/devices/system/cpu"


def test_a_machine_is_read_from_its_files(tmp_path):
    first = min(machine.os.sched_getaffinity(0))
    root = tree(
        tmp_path,
        {
            f"{CPU}/cpu{first}/cpufreq/scaling_governor": "powersave",
            f"{CPU}/cpu{first}/cpufreq/scaling_cur_freq": 1_800_000,
            f"{CPU}/cpu{first}/thermal_throttle/core_throttle_count": 4,
            "sys/class/thermal/thermal_zone0/temp": 61_500,
            "sys/class/thermal/thermal_zone1/temp": -274_000,  # a sensor that is not connected
            "proc/loadavg": "0.52 0.40 0.30 1/234 5678",
            "proc/meminfo": "MemTotal: 100 kB\nSwapTotal: 5000 kB\nSwapFree: 1000 kB",
            "sys/firmware/acpi/platform_profile": "low-power",
            "sys/fs/cgroup/memory.max": 512_000_000,
            "sys/fs/cgroup/cpu.max": "150000 100000",
            "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 11",
            "proc/self/cgroup": "0::/",
        },
    )
    assert watch.moment(root) == watch.Moment(61.5, 1800.0, 0.52)
    told = watch.settings("avx2", root)
    assert (told.governor, told.power_mode, told.isa) == ("powersave", "profile low-power", "avx2")
    assert (told.quota_cores, told.memory_limit_mb) == (1.5, 512.0)
    assert told.swap_used_mb == pytest.approx(4000 * 1024 / 1e6)
    with watch.Watcher(root=root) as watcher:
        (root / CPU / f"cpu{first}/thermal_throttle/core_throttle_count").write_text("9")
        (root / "sys/fs/cgroup/cpu.stat").write_text("nr_throttled 13")
    around = watcher.around(0, 1e12)
    assert (around.throttled, around.quota_waits) == (5, 2)
    assert around.clocks_mhz
    assert around.others_cores is None  # no /proc/stat in it


@pytest.mark.parametrize(
    ("files", "limit_mb"),
    [
        (  # systemd's MemoryMax= on a slice: the top of the tree has no limit, nor even the file
            {
                "proc/self/cgroup": "0::/edge.slice/camera.service",
                "sys/fs/cgroup/edge.slice/memory.max": 300_000_000,
                "sys/fs/cgroup/edge.slice/camera.service/memory.max": "max",
            },
            300.0,
        ),
        (  # docker with version 1: its own group is what is mounted
            {
                "proc/self/cgroup": "5:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": 512_000_000,
            },
            512.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            },
            None,
        ),
        ({}, None),
    ],
    ids=["systemd", "version-1", "version-1-without", "no-groups"],
)
def test_a_limit_of_memory_is_found_in_the_groups_around(tmp_path, files, limit_mb):
    assert watch.settings(root=tree(tmp_path, files)).memory_limit_mb == limit_mb


def test_a_machine_without_zones_has_its_processor_s_sensor(tmp_path):
    """AMD's k10temp has no thermal zone; what a disk or a radio says is no temperature of the processor."""
    sensors = {
        "hwmon0/name": "nvme", "hwmon0/temp1_input": 71_000, "hwmon1/name": "k10temp", "hwmon1/temp1_input": 54_250
    }  # fmt: skip
    root = tree(tmp_path, {f"sys/class/hwmon/{name}": text for name, text in sensors.items()})
    assert watch.moment(root).temperature_c == 54.25


def test_a_busy_core_beside_the_run_is_noticed(exported):
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            with Bundle(exported) as opened:
                chosen = targets(opened, "onnxruntime")[:1]
                made = session.bench(opened, chosen, Plan("sustained", seconds=1.0, warm_up_s=0.05))
        finally:
            busy.kill()
    (run,) = made.runs
    assert run.surroundings.others_cores > 0.4
    assert [each.ok for each in run.trust if each.name == "alone"] == [False]


def test_jetsons_name_their_mode(tmp_path):
    assert watch.settings(root=tree(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002"})).power_mode == "mode 0002"


def test_energy_stands_in_the_table(found):
    run = msgspec.structs.replace(found.runs[0], energy=Energy("RAPL package-0", 12.0, 6.0, 4.2))
    assert report.cells(run)[-1] == "4.20 mJ a frame"
    assert "energy: 12.0 J, 6.00 W by RAPL package-0" in report.facts(run)


def test_reports_of_scenarios_stand_beside_each_other(found, tmp_path):
    """As from two machines: `edgecv report` takes their JSON; a page of one report is what it was."""
    other = msgspec.structs.replace(
        found, machine=msgspec.structs.replace(found.machine, cpu="Some Board"), partial=True
    )
    paths = [tmp_path / "here.json", tmp_path / "there.json"]
    for path, each in zip(paths, (found, other), strict=True):
        path.write_bytes(report.as_json(each))
    place = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", *map(str, paths), "--out", str(place), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["report"] for row in rows] == [f"{n}: {found.bundle}" for n in (1, 1, 2, 2)]
    assert {row["machine"] for row in rows} == {found.machine.key, other.machine.key}
    assert [row["p50 ms"] for row in rows[:2]] == [row["p50 ms"] for row in rows[2:]]
    text = place.read_text()
    assert text.count("Can I trust this run?") == 4
    assert text.count("Interrupted: what was not measured") == 1
    assert page.html(found).count("<h1>") == 1
    for given, said in (
        ([paths[0], tmp_path], f"not {tmp_path}"),
        ([paths[0], "--clip", "x.mp4"], "not --clip"),
        ([place], "not a run folder"),
    ):
        done = CliRunner().invoke(app, ["report", *map(str, given)])
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.split())
