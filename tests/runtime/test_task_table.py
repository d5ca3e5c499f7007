"""Tasks by name: our own, and those that another package brings by an entry point."""

import json

import cv2
import pytest

import edgecv_runtime as rt
from edgecv_runtime import task_table
from edgecv_runtime.errors import BadInput, BundleError

MODULE = """
from typing import ClassVar

from edgecv_runtime.head import Head
from edgecv_runtime.records import Record
from edgecv_runtime.tasks.classification import ClassificationTask
from edgecv_runtime.head import ClassificationHead


class ShoutingHead(Record, Head, frozen=True, tag_field="task", tag="shouting"):
    labels: tuple[str, ...]
    mark: str = "!"
    task: ClassVar[str] = "shouting"


class ShoutingTask(ClassificationTask):
    name = "shouting"
    head = ShoutingHead

    def __init__(self, head, outputs):
        labels = tuple(f"{label.upper()}{head.mark}" for label in head.labels)
        super().__init__(ClassificationHead(labels), outputs)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As pip would do it: a module on the path, and beside it the entry points of its pyproject.toml."""
    site = tmp_path / "site"
    facts = site / "edgecv_shouting-0.1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "shouting_task.py").write_text(MODULE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: edgecv-shouting\nVersion: 0.1.0\n")
    entries = "shouting = shouting_task:ShoutingTask\nbroken = shouting_task:NoSuchTask\n"
    (facts / "entry_points.txt").write_text(f"[edgecv.tasks]\n{entries}")
    monkeypatch.syspath_prepend(str(site))


def shouting(bundle, **head):
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["head"] = {"task": "shouting", "labels": manifest["head"]["labels"]} | head
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def test_the_task_of_another_package_reads_its_head_and_serves_a_bundle(installed, bundle_copy, photos, tmp_path):
    shouting(bundle_copy, mark="?!")
    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    with rt.load(bundle_copy) as model:
        assert model.info.task == "shouting"
        assert model(photos[0]).label.startswith("DIGIT ")
        assert model(photos[0]).label.endswith("?!")


def test_its_head_is_checked_like_our_own(installed, bundle_copy):
    shouting(bundle_copy, marc="?")
    with pytest.raises(BundleError, match="shouting: unknown key 'marc'; did you mean 'mark'"):
        rt.load(bundle_copy)


def test_a_task_that_nobody_brings_is_named_with_the_nearest(bundle_copy):
    shouting(bundle_copy)
    with pytest.raises(BundleError, match=r"no task 'shouting'.*a package may bring it"):
        rt.load(bundle_copy)


def test_a_task_that_cannot_be_imported_says_from_where(installed):
    with pytest.raises(BadInput, match="'broken' cannot be imported from 'shouting_task:NoSuchTask'"):
        task_table.find("broken")


def test_a_network_for_it_is_decoded_and_does_not_become_a_bundle(installed):
    """Nothing says what the outputs of such a network are: one line, and no traceback."""
    from edgecv_runtime import forms

    form, head = forms.find("shouting")(), task_table.find("shouting").head(("a", "b"))
    for refused in (lambda: form.check((), head, (8, 8)), lambda: form.made(head, (8, 8))):
        with pytest.raises(BadInput, match="for the task 'shouting' does not become a bundle: nothing says what"):
            refused()
