"""The status says a change once, and every code it can say is documented."""

import re
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from openvla_ros.core.status import Status
from openvla_ros.nodes.policy_report import PolicyReport, without_figures
from openvla_ros.policy.statistics import PolicyStatistics

REPOSITORY = Path(__file__).parents[2]
SAYING = [
    *(REPOSITORY / 'openvla_ros' / 'observation').glob('image_*.py'),
    REPOSITORY / 'openvla_ros' / 'policy' / 'gate.py',
    REPOSITORY / 'openvla_ros' / 'policy' / 'action_monitor.py',
    *(REPOSITORY / 'openvla_ros' / 'nodes').glob('policy_*.py'),
    REPOSITORY / 'openvla_ros' / 'nodes' / 'image_subscription.py',
    REPOSITORY / 'openvla_ros' / 'nodes' / 'inference_worker.py',
]
NOT_SHOWN = {'CLOSING'}  # the node is gone by then


class Recorder:
    """A node, its publishers and its logger at once."""

    def __init__(self):
        self.published, self.logged = [], []

    def create_publisher(self, kind, name, qos):
        return type(
            'P', (), {'publish': lambda _, message: self.published.append((name, message))}
        )()

    def get_logger(self):
        return self

    def info(self, text):
        self.logged.append(('info', text))

    def warning(self, text):
        self.logged.append(('warning', text))

    def error(self, text):
        self.logged.append(('error', text))

    def get_fully_qualified_name(self):
        return '/left/policy_node'

    def get_clock(self):
        return self

    now = get_clock

    def to_msg(self):
        from builtin_interfaces.msg import Time

        return Time()

    def texts(self, name):
        return [message.data for topic, message in self.published if topic == name]


def test_a_state_is_published_and_logged_once_and_again_with_figures():
    node = Recorder()
    report = PolicyReport(node)
    stale = Status('IMAGE_STALE', 'silent')
    for _ in range(5):
        report.publish(stale, 'pick')
    report.publish(stale, 'pick', '5.0 Hz')
    report.publish(Status('READY', 'ok'), '')
    assert node.texts('~/status') == [
        'IMAGE_STALE: silent',
        'IMAGE_STALE: silent; 5.0 Hz',
        'READY: ok',
    ]
    assert node.texts('~/active_instruction') == ['pick', '']
    assert node.logged == [('warning', 'IMAGE_STALE: silent'), ('info', 'READY: ok')]


def test_warnings_are_throttled_by_key():
    node = Recorder()
    report = PolicyReport(node)
    for i in range(100):
        report.warn('image', f'image {i}')
    report.warn('other', 'x')
    assert node.logged == [('warning', 'image 0'), ('warning', 'x')]


@pytest.mark.parametrize(
    ('code', 'level'),
    [
        ('READY', DiagnosticStatus.OK),
        ('NO_INSTRUCTION', DiagnosticStatus.OK),
        ('IMAGE_STALE', DiagnosticStatus.WARN),
        ('MODEL_FAULT', DiagnosticStatus.ERROR),
        ('TOO_SLOW', DiagnosticStatus.ERROR),
    ],
)
def test_diagnostics_have_a_level_and_the_name_of_the_node(code, level):
    node = Recorder()
    PolicyReport(node).publish_diagnostics(Status(code, 'x'), 'cpu', {'rate_hz': '5.00'})
    status = node.published[0][1].status[0]
    assert (status.level, status.name) == (level, 'left/policy_node: policy')
    assert status.hardware_id == 'cpu'
    assert [(v.key, v.value) for v in status.values] == [('rate_hz', '5.00')]


def test_every_code_the_policy_can_say_is_documented_and_no_other():
    said = {'READY', 'INSTRUCTION_REFUSED'}
    for path in SAYING:
        text = path.read_text()
        said |= set(re.findall(r"(?:Status|Refused|Failure|_end)\(\s*'([A-Z_]+)'", text))
    documented = set(
        re.findall(r'`([A-Z_]{4,})`', (REPOSITORY / 'docs' / 'policy.md').read_text())
    )
    assert said - NOT_SHOWN == documented


def test_a_status_without_its_figures_is_code_and_sentence():
    report = PolicyReport(recorder := Recorder())
    state = Status('NO_INSTRUCTION', 'ready; waiting for an instruction')
    report.publish(state, '', PolicyStatistics().summary(0.0, 5.0))
    text = recorder.texts('~/status')[-1]
    assert ' of 5.0 Hz' in text
    assert without_figures(text) == 'NO_INSTRUCTION: ready; waiting for an instruction'
