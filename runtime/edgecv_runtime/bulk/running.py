"""`run`: from pictures to a table, begun or gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgecv_runtime import answers, cores, files
from edgecv_runtime.answers import Field
from edgecv_runtime.backends import DEFAULT_DEVICE
from edgecv_runtime.bulk import job as jobs
from edgecv_runtime.bulk import on_ray, tables
from edgecv_runtime.bulk.inputs import Inputs
from edgecv_runtime.bulk.job import Choice, Done, Job
from edgecv_runtime.bulk.ledger import Ledger
from edgecv_runtime.bulk.worker import HANGS_S, computed
from edgecv_runtime.errors import BadInput
from edgecv_runtime.predictor import Predictor

CHUNK = 256  # pictures of a part: seconds of work are lost when a process is killed
_WAYS = "run it as it was, name another table, or begin anew (--overwrite)"


class Progress(NamedTuple):
    """How far a job is: pictures with a row, of how many; and of this run pictures, errors and seconds."""

    done: int
    images: int
    here: int
    errors: int
    seconds: float


def run(
    predictor: Predictor,
    images: str | Path,
    out: str | Path,
    *,
    workers: int = 0,
    ray: str | None = None,
    overwrite: bool = False,
    chunk: int = CHUNK,
    hangs_s: float = HANGS_S,
    progress: Callable[[Progress], object] = lambda _: None,
    told: Callable[[str], object] = lambda _: None,
) -> Done:
    """Write the results of all pictures to a table, a row a picture in the order of their names (of a list: its own).

    images: a folder, a pattern, a list in a text file, a picture, or a URL for fsspec. out: .parquet, .jsonl or .csv.
    workers: processes, 0 for one a core. ray: compute on the Ray cluster at this address, as `ray.init` takes it
    ("auto", "local"), in one process on each of its CPUs. overwrite: begin anew, whatever is there.
    hangs_s: a process without a sign of life for so long is replaced.
    progress is called after each part, told with what else is worth a line.
    Run again after it was killed, it goes on; raises BadInput where what is there is of another job.
    """
    out, found = Path(out), Inputs(str(images))
    write = tables.format_of(out)
    if workers < 0:
        raise BadInput(f"workers must be at least 0, got {workers}")
    count = workers or (cores.usable() if predictor.options["device"] == DEFAULT_DEVICE else 1)
    threads = predictor.options["threads"] or (max(1, cores.usable() // count) if ray is None else 1)
    cluster = None if ray is None else on_ray.connect(ray)
    with Ledger(out) as ledger:
        old = None if overwrite else ledger.job()
        if old is None:
            if out.exists() and not overwrite:
                raise BadInput(
                    f"{out}: is there, and nothing tells how it was made: name another table, or --overwrite"
                )
            ledger.forget()
        bundle = jobs.content(predictor)
        task, choice = _chosen(predictor, threads, old)
        columns = predictor.columns or tables.default(task)
        frozen = ledger.list_anew(found)
        if found.left_out():
            told(f"{images}: {frozen.images} images; left out: {found.left_out()}")
        if not frozen.images:
            raise BadInput(f"{images}: no images in it")
        job = Job(bundle, jobs.options_of(predictor), task, columns, frozen.sha256, frozen.images, chunk, choice)
        if old is not None:
            _check(ledger, old, job)
            if old.done is not None and out.exists():
                told(f"{out}: complete already")
                return old.done
        if old is None or old.done is not None or not ledger.is_begun():
            ledger.begin(job)
        running = predictor.asking(columns=columns, backend=choice.backend, precision=choice.precision, threads=threads)
        before = ledger.done(chunk, job.images)
        if before:
            told(f"{out}: {before} of {job.images} images are done; the others follow")
        here, errors, began_s = 0, 0, time.monotonic()
        left = ledger.left(chunk)
        if cluster is None:
            parts = computed(running, bundle, left, count, hangs_s)
        else:
            parts = on_ray.computed(running, bundle, left, cluster, workers, told, hangs_s)
        for part in parts:
            ledger.put(part)
            here, errors = here + part.images, errors + part.errors
            progress(Progress(before + here, job.images, here, errors, time.monotonic() - began_s))
        result = _written(ledger, job, write)
        ledger.finish(msgspec.structs.replace(job, done=result))
        return result


def _chosen(predictor: Predictor, threads: int, old: Job | None) -> tuple[str, Choice]:
    """The task, and what runs: of a job that was begun what it began with; else it is measured where it is open."""
    if old is not None:
        return old.task, Choice.of(old.choice.backend, old.choice.precision)
    with predictor.asking(threads=threads) as asked:
        return asked.model.task, Choice.of(*asked.model.choice)


def _check(ledger: Ledger, old: Job, new: Job) -> None:
    """Raise BadInput where a job is not the one that was begun, or its table not the one that it gave."""
    other = jobs.other_than(old, new)
    if not other and (old.inputs, old.images) != (new.inputs, new.images):
        other = f"the images{ledger.changes()}"
    if other:
        raise BadInput(f"{ledger.out}: is of another job, which differs in {other}; {_WAYS}")
    if old.done is not None and ledger.out.exists() and files.sha256(ledger.out) != old.done.sha256:
        raise BadInput(f"{ledger.out}: was changed since it was made; name another table, or begin anew (--overwrite)")


def _written(ledger: Ledger, job: Job, write: tables.Write) -> Done:
    fields: tuple[Field, ...] = answers.of_task(job.task).chosen(job.columns)
    errors = 0

    def rows() -> tables.Rows:
        nonlocal errors
        for row in ledger.rows(job):
            errors += row[-1] is not None
            yield row

    with files.replacing(ledger.out) as file:
        write(fields, rows(), file)
    return Done(job.images, errors, ledger.out.stat().st_size, files.sha256(ledger.out))
