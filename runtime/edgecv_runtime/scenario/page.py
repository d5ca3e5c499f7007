"""A report as one HTML file that fetches nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgecv_runtime.bench.table import NOT_SCORED
from edgecv_runtime.scenario import plots, report
from edgecv_runtime.scenario.report import Report, Run, Trust

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --muted: #8a94a3; --paper: #ffffff; --card: #f4f6f9; --line: #d9dee6;
  --blue: #2f6fde; --orange: #d9730d; --green: #2e8b57; --red: #c0392b; --purple: #7d4cc2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --muted: #8a94a3; --paper: #14181f; --card: #1d232c;
  --line: #343c48; --blue: #6ea0ff; --orange: #f0a04b; --green: #5dc389; --red: #ef7565; --purple: #b08cf0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1360px; padding: 24px; }
hr { margin: 56px 0; border: 0; border-top: 2px solid var(--line); }
h1 { margin: 0 0 4px; } h2 { margin: 40px 0 8px; } .muted { color: var(--muted); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 16px; }
figure { margin: 0; max-width: 700px; background: var(--card); border-radius: 8px; padding: 12px; }
svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; } figcaption { color: var(--muted); font-size: 13px; }
.trust { border: 2px solid var(--line); border-radius: 8px; padding: 10px 16px; margin: 12px 0; }
.trust.doubt { border-color: var(--orange); } .trust h3 { margin: 0 0 6px; }
.trust ul { columns: 2 420px; margin: 0; padding: 0; list-style: none; }
.trust li { break-inside: avoid; padding: 2px 0; }
.yes { color: var(--green); } .no { color: var(--red); font-weight: 600; } .unknown { color: var(--muted); }
.facts { font-size: 13px; overflow-wrap: anywhere; }
"""


def html(*reports: Report) -> str:
    """The whole page of one report, or of several beside each other."""
    title = f"{reports[0].bundle}: benchmark" if len(reports) == 1 else f"{len(reports)} benchmarks beside each other"
    body = _report(reports[0], title) if len(reports) == 1 else _beside(reports, title)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _beside(reports: Sequence[Report], title: str) -> str:
    """All runs in one table, then each report as it stands alone."""
    table = _table(report.BESIDE, report.beside(reports))
    parts = [_report(each, f"{number}: {each.bundle}") for number, each in enumerate(reports, 1)]
    return f"<h1>{escape(title)}</h1>{table}{''.join(f'<hr>{part}' for part in parts)}"


def _report(found: Report, title: str) -> str:
    cut = "<p class='no'>Interrupted: what was not measured any more is missing.</p>" if found.partial else ""
    cut += "".join(f"<p class='no'>Not measured: {escape(why)}</p>" for why in found.failed)
    front = plots.front(found.runs) or f"<p class='muted'>Accuracy against latency: {NOT_SCORED}.</p>"
    return (
        f"<h1>{escape(title)}</h1><p class='muted'>{escape(report.where(found)[0])}</p>{cut}"
        f"{_table(report.COLUMNS, [report.cells(run) for run in found.runs])}"
        f"<div class='pictures'>{front}</div>"
        f"{''.join(map(_run, found.runs))}"
        f"<h2>Where</h2>{_list(report.where(found))}"
    )


def _run(run: Run) -> str:
    pictures = [plots.distribution(run), plots.timeline(run)]
    if run.stages:
        pictures.insert(0, plots.waterfall(run.stages, run.times.mean_ms))
    return (
        f"<h2>{escape(run.label)}: {escape(run.target)}</h2>{_trust(run.trust)}"
        f"<div class='pictures'>{''.join(pictures)}</div>{_list(report.facts(run))}"
    )


def _trust(answers: Sequence[Trust]) -> str:
    doubts = sum(each.ok is False for each in answers)
    unknown = sum(each.ok is None for each in answers)
    verdict = f"{doubts} reason{'s' * (doubts > 1)} to doubt it" if doubts else "no reason to doubt it was found"
    verdict += f", {unknown} that nobody could look for" if unknown else ""
    words = {True: ("yes", "yes"), False: ("no", "NO"), None: ("unknown", "not known")}
    items = "".join(
        f"<li><span class='{words[each.ok][0]}'>{words[each.ok][1]}</span> {escape(each.name)}: "
        f"{escape(each.detail)}</li>"
        for each in sorted(answers, key=lambda each: (each.ok is not False, each.ok is not None))
    )
    kind = "trust doubt" if doubts else "trust"
    return f"<div class='{kind}'><h3>Can I trust this run? {escape(verdict)}</h3><ul>{items}</ul></div>"


def _list(facts: Sequence[str]) -> str:
    return f"<ul class='facts'>{''.join(f'<li>{escape(fact)}</li>' for fact in facts)}</ul>"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
