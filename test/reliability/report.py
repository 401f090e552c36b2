"""Writes docs/reliability.md from the figures of a release run."""

import math
import os
import platform
from pathlib import Path
from typing import Any

from reliability.coverage import PROPERTIES, ROWS, covering

COMMAND = 'make reliability'


def write_page(results: dict[str, Any], page: Path) -> None:
    """Write the page; parts that were not run say so."""
    sections = [
        _head(results),
        _summary(results),
        _faults(results.get('faults')),
        _soak(results.get('soak')),
        _messages(results.get('messages')),
        _rows(),
        _properties(),
        _rules(),
    ]
    page.parent.mkdir(exist_ok=True)
    page.write_text('\n\n'.join(section.strip() for section in sections) + '\n')


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
    lines += [f'| {" | ".join(str(cell) for cell in row)} |' for row in rows]
    return '\n'.join(lines)


def _head(results: dict[str, Any]) -> str:
    scale = results['scale']
    size = (
        'This is a run of the size of a release.'
        if scale >= 1.0
        else f'**This is a short run, {scale:g} of the size of a release**; the sizes are in the '
        'table.'
    )
    arguments = f' ARGS="--scale {scale:g}"' if scale != 1.0 else ''
    return f"""# What was done to it, and what happened

Faults are injected into real processes while the arm moves, and every command that is published is
judged: finite, within the limits, no step larger than the acceleration limit, the arm in its box,
at rest in every state but ACTIVE, and zero within `t_stop` of the last acceptable action. What
this guarantees, and what it does not, is in `docs/safety.md`. This page is written by

```
{COMMAND}{arguments}
```

{size} Machine: {_machine()}."""


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        names = [
            x.split(':')[1].strip() for x in info.read_text().splitlines() if 'model name' in x
        ]
        cpu = names[0] if names else cpu
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return (
        f'{cpu}, {os.cpu_count()} cores, {pages / 2**30:.0f} GB, {platform.system()} '
        f'{platform.release()}, Python {platform.python_version()}'
    )


def _summary(results: dict[str, Any]) -> str:
    shown = {
        'properties': lambda r: f'{r["examples"]} examples; {r["summary"].strip("= ")}',
        'ticks': lambda r: (
            f'{r["ticks"]} judged ticks, {r["moving"] / r["ticks"]:.0%} of them '
            f'moving, {r["offered"]} actions of which {r["accepted"]} accepted; nothing broken'
        ),
        'mutation': lambda r: (
            f'{r["mutants"]} planted faults: {r["killed"]} noticed, '
            f'{r["equivalent"]} listed as equivalent, {r["wrong"]} wrong'
        ),
        'faults': lambda r: (
            f'{r["faults"]} faults, {r["commands"]} commands judged, {len(r["errors"])} broken'
        ),
        'starts': lambda r: f'{r["starts"]} random start orders',
        'messages': lambda r: f'{r["total"]} fuzzed messages',
        'soak': lambda r: f'{r["seconds"]:.0f} s, {r["commands"]} commands judged',
    }
    rows = []
    for part, show in shown.items():
        figures = results.get(part)
        if figures is None:
            rows.append([part, 'not run', '', '', ''])
            continue
        text = figures['error'] if 'error' in figures else show(figures)
        verdict = 'as it must be' if figures['ok'] else '**not as it must be**'
        load = ' to '.join(f'{x:.1f}' for x in figures['load'])
        rows.append([part, text, verdict, f'{figures["seconds"]:.0f} s', load])
    return '## Summary\n\n' + table(['part', 'what', 'result', 'took', 'load average'], rows)


def _faults(figures: dict[str, Any] | None) -> str:
    if figures is None or 'kinds' not in figures:
        return '## Process faults\n\nNot run.'
    rows = [
        [
            kind.replace('_', ' '),
            ' '.join(value['rows']),
            value['count'],
            _seconds(value['median_s']),
            _seconds(value['max_s']),
        ]
        for kind, value in figures['kinds'].items()
    ]
    text = '## Process faults\n\n' + table(
        ['fault', 'hazards', 'times', 'median s to zero', 'longest'], rows
    )
    text += (
        '\n\nSeconds from the injection to the first of the zeros that stay, as received by the '
        'recorder. A time counts as missed only if the scheduler canary (50 Hz, no ROS) saw no '
        f'gap of 60 ms or more; a case that could not be judged is repeated up to three times. '
        f'Repeated here: {len(figures["repeated"])}; never judged: '
        f'{", ".join(figures["not_judged"]) or "none"}. Limits are always judged.'
    )
    for note, count in sorted(figures['notes'].items()):
        if count:
            text += f'\n- {note}: {count}'
    for error in figures['errors']:
        text += f'\n- **broken**: {error}'
    return text


def _soak(figures: dict[str, Any] | None) -> str:
    if figures is None or 'camera_hz' not in figures:
        return '## Everything together\n\nNot run.'
    gaps = figures['tick_gap_ms']
    rows = [
        ['camera, 640x480 at 30 Hz, received', f'{figures["camera_hz"]:.1f} Hz', '27 Hz or more'],
        [
            'gaps between commands below 40 ms',
            f'{figures["ticks_in_time"]:.3%}',
            '99.9 % or more',
        ],
        [
            'gap between commands: median, 99 %, longest',
            ' / '.join(f'{g:.1f} ms' for g in gaps),
            '',
        ],
        ["the canary's own wakes later than 40 ms", f'{figures["canary_late"]:.3%}', ''],
        ['latched faults', figures['faults'], '0'],
        [
            'stops by an empty instruction, missed',
            f'{figures["stops"]}, {figures["missed_stops"]}',
            '0 missed',
        ],
    ]
    for name in figures['cpu']:
        before, after = figures['files'][name]
        rows += [
            [
                f'{name}: processor',
                f'{figures["cpu"][name]:.1%} of a core',
                'below 15 %' if name == 'controller' else '',
            ],
            [f'{name}: memory', f'{figures["rss_mb_per_min"][name]:+.2f} MB/min', 'below 0.5'],
            [f'{name}: open files', f'{before}, then {after}', 'no more'],
        ]
    text = '## Everything together\n\n' + table(['figure', 'measured', 'to reach'], rows)
    text += '\n'
    for problem in figures['problems']:
        text += f'\n- **not reached**: {problem}'
    if figures['canary_late'] >= 1e-3:
        text += (
            '\n- Camera rate, gaps and processor share are not judged in this run: the canary was '
            'late more often than once in a thousand wakes, so the machine was too busy.'
        )
    return text


def _messages(figures: dict[str, Any] | None) -> str:
    if figures is None or 'sent' not in figures:
        return '## Fuzzed messages\n\nNot run.'
    sent = ', '.join(f'{count} {kind}' for kind, count in figures['sent'].items())
    growth = ', '.join(f'{name} {mb:+.1f} MB' for name, mb in figures['growth_mb'].items())
    return (
        f'## Fuzzed messages\n\nSent, mostly as fast as one process can: {sent}; the arm was '
        f'armed and moving before {figures["met_armed"]} batches. {figures["commands"]} commands '
        f'judged, none broke an invariant; callbacks that raised: {figures["callback_errors"]}; '
        f'memory: {growth}.'
    )


def _rows() -> str:
    rows = [
        [row, ROWS[row], len(tests), _where(tests)] for row, tests in covering(list(ROWS)).items()
    ]
    return '## Hazards of the controller and their tests\n\n' + table(
        ['row', 'hazard', 'tests', 'some of them, in test/'], rows
    )


def _properties() -> str:
    rows = [[name, len(tests), _where(tests)] for name, tests in covering(PROPERTIES).items()]
    return '## Properties of the clamp and their tests\n\n' + table(
        ['property', 'tests', 'some of them, in test/'], rows
    )


def _where(tests: list[str]) -> str:
    shown = '; '.join(f'`{test}`' for test in tests[:3])
    return shown if len(tests) <= 3 else f'{shown}; ...'


def _rules() -> str:
    return """## How to read this

A Python process on an ordinary computer keeps its limits however late it is; it cannot promise to
be in time. While it is late nothing is sent at all, and what stops the arm then is the timeout of
its driver. The harness that did all this is in `test/harness`, with a controller without a clamp
that it must find fault with; the judge is tested with planted violations, and the tests with
planted faults."""


def _seconds(value: float | None) -> str:
    return '' if value is None or math.isnan(value) else f'{value:.3f}'
