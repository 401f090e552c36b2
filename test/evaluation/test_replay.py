"""Replays of a recording of the simulated arm, made here with the expert driving it."""

import json

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_ros.core.action_tokens import NonActionTokenError
from openvla_ros.core.dataset_profile import from_eef_delta, load_dataset_profile
from openvla_ros.core.eef_delta import EefDelta
from openvla_ros.core.inference import PredictedAction
from openvla_ros.core.resources import resource_path
from openvla_ros.evaluation import replay
from openvla_ros.evaluation.recording import Recording
from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.expert import ScriptedExpert
from openvla_ros.sim.tasks import sample_episode

KEY = 'openvla_ros_demo'
STEP_S = 0.2
START_NS = 1_700_000_000_000_000_000
STORE = get_typestore(Stores.LATEST)


def record(path, plugin, steps=40):
    """Record the expert on one scene; return its actions in dataset units."""
    episode = sample_episode('pick', 5)
    arm, expert = SimArm(episode.scene, width=64, height=64), ScriptedExpert(episode.task)
    profile = load_dataset_profile(KEY)
    actions = []
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        write = Topics(bag)
        write.text('/instruction', episode.task.instruction, 0.0)
        for step in range(steps):
            at_s = step * STEP_S
            write.image('/camera/image_raw', arm.render(), at_s)
            delta = expert.act(arm)
            actions.append(from_eef_delta(delta, profile))
            for part in range(10):
                write.pose('/ee_pose', arm.ee_pose(), at_s + 0.02 * part)
                arm.step(delta.twist(), delta.gripper, 0.02)
                write.twist('/controller_node/twist_cmd', delta.twist(), at_s + 0.02 * part)
            write.number('/controller_node/gripper_cmd', delta.gripper, at_s + 0.19)
        write.pose('/ee_pose', arm.ee_pose(), steps * STEP_S)
    arm.close()
    return actions


class Topics:
    """Writes messages, making each topic on first use."""

    def __init__(self, bag):
        self.bag, self.connections = bag, {}

    def _write(self, topic, kind, at_s, **fields):
        if topic not in self.connections:
            self.connections[topic] = self.bag.add_connection(topic, kind, typestore=STORE)
        message = STORE.types[kind](**fields)
        at_ns = START_NS + round(at_s * 1e9)
        self.bag.write(self.connections[topic], at_ns, STORE.serialize_cdr(message, kind))

    def _header(self, at_s, frame):
        at_ns = START_NS + round(at_s * 1e9)
        stamp = STORE.types['builtin_interfaces/msg/Time'](at_ns // 10**9, at_ns % 10**9)
        return STORE.types['std_msgs/msg/Header'](stamp, frame)

    def text(self, topic, text, at_s):
        self._write(topic, 'std_msgs/msg/String', at_s, data=text)

    def number(self, topic, value, at_s):
        self._write(topic, 'std_msgs/msg/Float64', at_s, data=value)

    def image(self, topic, pixels, at_s, stamped=True):
        height, width, _ = pixels.shape
        header = self._header(at_s if stamped else -1e-9 * START_NS, 'camera')
        self._write(
            topic, 'sensor_msgs/msg/Image', at_s, header=header,
            height=height, width=width, encoding='rgb8', is_bigendian=0, step=3 * width,
            data=pixels.reshape(-1),
        )  # fmt: skip

    def action(self, topic, twist, gripper, at_s):
        kinds, vector = STORE.types, STORE.types['geometry_msgs/msg/Vector3']
        twist = kinds['geometry_msgs/msg/Twist'](vector(*twist[:3]), vector(*twist[3:]))
        self._write(
            topic, 'openvla_ros/msg/PolicyAction', at_s, header=self._header(at_s, 'base_link'),
            sequence=1, step_s=STEP_S, twist=twist, gripper=gripper, source_id='',
            instruction='', unnorm_key=KEY, action_tokens=np.zeros(0, np.int64),
            action=np.zeros(0), inference_s=0.0,
        )  # fmt: skip

    def pose(self, topic, pose, at_s):
        kinds = STORE.types
        position = kinds['geometry_msgs/msg/Point'](*map(float, pose.position_m))
        orientation = kinds['geometry_msgs/msg/Quaternion'](*map(float, pose.quaternion_xyzw))
        self._write(
            topic, 'geometry_msgs/msg/PoseStamped', at_s, header=self._header(at_s, 'base_link'),
            pose=kinds['geometry_msgs/msg/Pose'](position, orientation),
        )  # fmt: skip

    def twist(self, topic, twist, at_s):
        vector = STORE.types['geometry_msgs/msg/Vector3']
        linear, angular = vector(*map(float, twist[:3])), vector(*map(float, twist[3:]))
        self._write(
            topic, 'geometry_msgs/msg/TwistStamped', at_s, header=self._header(at_s, 'base_link'),
            twist=STORE.types['geometry_msgs/msg/Twist'](linear, angular),
        )  # fmt: skip


class ScriptedBackend:
    """Says given actions one after the other, whatever it sees."""

    description, image_size, norm_stats = 'scripted', 64, None

    def __init__(self, actions, change=lambda action: action):
        self.actions, self.change, self.seen = list(actions), change, []

    def warm_up(self):
        """Nothing to warm up."""

    def predict(self, image, instruction):
        self.seen.append((image.copy(), instruction))
        action = self.actions[len(self.seen) - 1]
        if isinstance(action, Exception):
            raise action
        return PredictedAction(self.change(np.array(action)), None, {'vision': 0.01})


@pytest.fixture(scope='module', params=['sqlite3', 'mcap'])
def recorded(request, tmp_path_factory):
    path = tmp_path_factory.mktemp('bags') / request.param
    return path, record(path, StoragePlugin[request.param.upper()])


@pytest.fixture(scope='module')
def one_recording(tmp_path_factory):
    path = tmp_path_factory.mktemp('bag') / 'one'
    return path, record(path, StoragePlugin.MCAP)


def run(monkeypatch, tmp_path, path, backend, *arguments):
    monkeypatch.setattr(replay, '_backend', lambda options: backend)
    return replay.main(
        [str(path), '--unnorm-key', KEY, '--out', str(tmp_path / 'out'), *arguments]
    )


def result(tmp_path):
    return json.loads((tmp_path / 'out' / 'replay.json').read_text())


def test_the_policy_sees_the_recorded_pixels_and_sentence(recorded, monkeypatch, tmp_path, capsys):
    path, actions = recorded
    backend = ScriptedBackend(actions)
    assert run(monkeypatch, tmp_path, path, backend) == 0
    episode = sample_episode('pick', 5)
    arm = SimArm(episode.scene, width=64, height=64)
    assert (backend.seen[0][0] == arm.render()).all()
    arm.close()
    assert {instruction for _, instruction in backend.seen} == {episode.task.instruction}
    assert len(backend.seen) == 40
    assert 'no flipped or swapped axis' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'replay.png').stat().st_size > 10_000


def test_what_the_arm_was_told_agrees_with_what_it_did(one_recording, monkeypatch, tmp_path):
    path, actions = one_recording
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 0
    agreement = result(tmp_path)['agreement']
    # The arm follows a twist within some millimetres per step.
    assert agreement['direction_cosine'] > 0.9
    assert all(axis['mean_abs_error'] < 4.0 for axis in agreement['axes'][:3])
    assert agreement['gripper_agreement'] == 1.0


def test_recorded_commands_agree_exactly(one_recording, monkeypatch, tmp_path):
    path, actions = one_recording
    arguments = ('--against', 'twist')
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), *arguments) == 0
    agreement = result(tmp_path)['agreement']
    assert agreement['steps'] == 40
    assert all(axis['mean_abs_error'] < 1e-6 for axis in agreement['axes'])


def test_a_flipped_axis_is_named_and_the_exit_status_says_so(
    one_recording, monkeypatch, tmp_path, capsys
):
    path, actions = one_recording
    flip = ScriptedBackend(actions, lambda action: action * np.array([1, 1, -1, 1, 1, 1, 1]))
    assert run(monkeypatch, tmp_path, path, flip) == 1
    assert 'LOOK: axis z looks flipped' in capsys.readouterr().out


def test_an_image_whose_tokens_are_no_action_is_left_out_and_counted(
    one_recording, monkeypatch, tmp_path, capsys
):
    path, actions = one_recording
    broken = [NonActionTokenError(0, 2, 32000, 256), *actions]
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(broken), '--limit', '20') == 0
    assert result(tmp_path)['left_out'] == {'BAD_TOKENS': 1}
    assert '1 images left out: BAD_TOKENS' in capsys.readouterr().out


def test_a_recording_alone_is_enough(one_recording, tmp_path, capsys):
    path, _ = one_recording
    inside = next(path.glob('*.mcap'))
    assert replay.main([str(inside), '--limit', '2', '--out', str(tmp_path / 'out')]) in (0, 1)
    printed = capsys.readouterr().out
    assert 'checkpoints/demo, which knows nothing but the simulated arm' in printed
    assert '2 steps compared with the achieved motion' in printed
    assert result(tmp_path)['latency_s']['total']['p99'] > 0


def policy_recording(path, write_motion, stamped=True):
    """What 'ros2 bag record -a' leaves of a policy's run, and what it did."""
    rng = np.random.default_rng(0)
    actions = []
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        write = Topics(bag)
        write.text('/policy_node/active_instruction', 'move to the red block', 0.0)
        for step in range(12):
            at_s, moved = step * STEP_S, rng.uniform(-0.02, 0.02, 3)
            actions.append([*moved, 0.0, 0.0, 0.0, 1.0])
            for topic in ('/camera/image_raw', '/policy_node/model_input', '/marker_node/overlay'):
                write.image(topic, np.zeros((32, 32, 3), np.uint8), at_s, stamped)
            write_motion(write, [*moved / STEP_S, 0.0, 0.0, 0.0], at_s)
    return path, actions


def test_what_a_policys_run_publishes_besides_is_not_taken_for_the_camera_or_the_command(
    monkeypatch, tmp_path
):
    def write_motion(write, twist, at_s):
        write.twist('/policy_node/delta_twist', -np.array(twist), at_s)
        write.twist('/controller_node/twist_cmd', twist, at_s)

    path, actions = policy_recording(tmp_path / 'bag', write_motion)
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 0
    agreement = result(tmp_path)['agreement']
    assert agreement['direction_cosine'] == pytest.approx(1.0)
    assert [axis['sign_agreement'] for axis in agreement['axes'][:3]] == [1.0, 1.0, 1.0]


def test_a_policys_actions_are_compared_with_where_nothing_else_is_recorded(
    monkeypatch, tmp_path, capsys
):
    text = resource_path('msg/PolicyAction.msg').read_text()
    STORE.register(get_types_from_msg(text, 'openvla_ros/msg/PolicyAction'))
    path, actions = policy_recording(
        tmp_path / 'bag', lambda write, twist, at_s: write.action('/p/action', twist, 1.0, at_s)
    )
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 0
    assert '12 steps compared with the recorded actions of a policy' in capsys.readouterr().out
    assert result(tmp_path)['agreement']['gripper_agreement'] == 1.0


def test_a_camera_that_does_not_stamp_is_timed_by_the_recorder(monkeypatch, tmp_path):
    path, actions = policy_recording(
        tmp_path / 'bag', lambda write, twist, at_s: None, stamped=False
    )
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 0
    assert result(tmp_path)['images'] == 12


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (('--model', 'a', '--server-url', 'http://b'), 'both --model and --server-url are given'),
        (('--image-topic', '/camera/image'), "did you mean '/camera/image_raw'?"),
        (('--against', 'action'), 'has 0 topics with a PolicyAction'),
        (('--base-frame', 'world'), "is in frame 'base_link', expected the base frame 'world'"),
        (('--instruction', 'a\nb'), 'control character'),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    one_recording, monkeypatch, tmp_path, capsys, arguments, sentence
):
    path, actions = one_recording
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_a_missing_or_damaged_recording_is_named(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path, tmp_path / 'none', ScriptedBackend([])) == 2
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    (damaged / 'metadata.yaml').write_text('nonsense: [')
    assert run(monkeypatch, tmp_path, damaged, ScriptedBackend([])) == 2
    errors = capsys.readouterr().err
    assert 'there is no such recording' in errors
    assert 'cannot be read as a rosbag2 recording' in errors


def test_a_delta_of_the_end_effector_frame_is_turned_before_it_is_compared(one_recording):
    path, _ = one_recording
    with Recording(path) as recording:
        poses = replay.AchievedMotion(recording.poses('/ee_pose'), None)
        pose = poses.pose_at(1e-9 * START_NS)
    delta = EefDelta(np.array([0.01, 0.0, 0.0]), np.zeros(3), 1.0, 'ee', STEP_S)
    motion = replay.motion_of_delta(delta, pose)
    # The gripper points straight down at the start: its x axis is the base's -z.
    assert motion.translation_m == pytest.approx([0.0, 0.0, -0.01], abs=1e-3)
    assert replay.motion_of_delta(delta, None) is None
