"""Replays of a recording of the simulated arm, made here with the expert driving it."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.action_space.dataset_profile import from_eef_delta, load_dataset_profile
from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.core.resources import resource_path
from openvla_ros.data.recorded_pose import pose_history
from openvla_ros.data.recording import Recording
from openvla_ros.evaluation import replay
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.sim.arm import EePose, SimArm
from openvla_ros.sim.expert import ScriptedExpert
from openvla_ros.sim.tasks import sample_episode

KEY = 'openvla_ros_demo'
STEP_S = 0.2
START_NS = 1_700_000_000_000_000_000
STORE = get_typestore(Stores.LATEST)
_FOREVER = QosTime(9223372036, 854775807)
LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, avoid_ros_namespace_conventions=False,
)  # fmt: skip


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

    def _write(self, topic, kind, at_s, qos=(), **fields):
        if topic not in self.connections:
            self.connections[topic] = self.bag.add_connection(
                topic, kind, typestore=STORE, offered_qos_profiles=qos
            )
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

    def jpeg(self, topic, pixels, at_s):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, 'JPEG', quality=95)
        self._write(
            topic, 'sensor_msgs/msg/CompressedImage', at_s, header=self._header(at_s, 'camera'),
            format='rgb8; jpeg compressed bgr8',
            data=np.frombuffer(content.getvalue(), np.uint8),
        )  # fmt: skip

    def transforms(self, topic, transforms, at_s):
        """Write (parent, child, 4 x 4 matrix); /tf_static is offered as its publishers do."""
        kinds, messages = STORE.types, []
        for parent, child, matrix in transforms:
            vector = kinds['geometry_msgs/msg/Vector3'](*map(float, matrix[:3, 3]))
            quaternion = Rotation.from_matrix(matrix[:3, :3]).as_quat()
            turned = kinds['geometry_msgs/msg/Quaternion'](*map(float, quaternion))
            transform = kinds['geometry_msgs/msg/Transform'](vector, turned)
            stamped = kinds['geometry_msgs/msg/TransformStamped']
            messages.append(stamped(self._header(at_s, parent), child, transform))
        qos = (LATCHED,) if topic.endswith('_static') else ()
        self._write(topic, 'tf2_msgs/msg/TFMessage', at_s, qos, transforms=messages)

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
    assert replay.main([str(inside), '--limit', '2', '--out', str(tmp_path / 'out')]) == 2
    printed, error = capsys.readouterr()
    assert 'nothing to compare: in 2 steps no axis moves in 10 or more' in error
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
    arguments = ('--against', 'none')
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), *arguments) == 0
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


@pytest.mark.parametrize('plugin', list(StoragePlugin), ids=lambda plugin: plugin.name)
@pytest.mark.parametrize('definition', ['int32 a', 'other_msgs/Thing a'])
def test_types_that_cannot_be_understood_do_not_stand_in_the_way(tmp_path, plugin, definition):
    with Writer(tmp_path / 'bag', version=9, storage_plugin=plugin) as bag:
        Topics(bag).text('/instruction', 'go', 0.0)
        # Its hash is not that of the definition, or the definition names one that is not there.
        odd = bag.add_connection(
            '/odd', 'my_msgs/msg/Odd', msgdef=definition, rihs01='RIHS01_' + '0' * 64
        )
        bag.write(odd, START_NS, bytes(8))
    with Recording(tmp_path / 'bag') as recording:
        assert recording.texts('/instruction') == [(1e-9 * START_NS, 'go')]


@pytest.mark.parametrize('plugin', list(StoragePlugin), ids=lambda plugin: plugin.name)
@pytest.mark.parametrize(
    'damage',
    [lambda rest: b'', lambda rest: bytes(20_000) + rest[20_000:]],
    ids=['breaks off', 'has a hole'],
)
def test_a_damaged_file_is_one_sentence(monkeypatch, tmp_path, capsys, plugin, damage):
    path, actions = record_transforms(tmp_path / 'bag', plugin, steps=20)
    file = next(path.glob('bag.*'))
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[:half] + damage(content[half:]))
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), '--robot', ROBOT) == 2
    error = capsys.readouterr().err
    assert f'{path}: cannot be read as a rosbag2 recording' in error
    assert len(error.strip().splitlines()) == 1


def test_a_recording_of_ros_1_is_named_with_how_to_convert_it(monkeypatch, tmp_path, capsys):
    path = tmp_path / 'old.bag'
    path.write_bytes(b'#ROSBAG V2.0')
    assert run(monkeypatch, tmp_path, path, ScriptedBackend([])) == 2
    assert f'rosbags-convert --src {path} --dst old' in capsys.readouterr().err


def test_a_delta_of_the_end_effector_frame_is_turned_before_it_is_compared(one_recording):
    path, _ = one_recording
    with Recording(path) as recording:
        poses = replay.AchievedMotion(pose_history(recording.poses('/ee_pose')), None)
        pose = poses.pose_at(1e-9 * START_NS)
    delta = EefDelta(np.array([0.01, 0.0, 0.0]), np.zeros(3), 1.0, 'ee', STEP_S)
    motion = replay.motion_of_delta(delta, pose)
    # The gripper points straight down at the start: its x axis is the base's -z.
    assert motion.translation_m == pytest.approx([0.0, 0.0, -0.01], abs=1e-3)
    assert replay.motion_of_delta(delta, None) is None


ROBOT = 'wx250s.example'
BASE, EE = 'wx250s/base_link', 'wx250s/ee_gripper_link'


def matrix(position_m, quaternion_xyzw):
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat(quaternion_xyzw).as_matrix()
    result[:3, 3] = position_m
    return result


# Where a robot's fixed parts are: any numbers will do, as long as they turn and shift.
SHOULDER = matrix([0.1, -0.2, 0.3], Rotation.from_rotvec([0.4, 0.8, -1.1]).as_quat())
TOOL = matrix([0.03, 0.0, 0.12], Rotation.from_rotvec([-0.7, 0.2, 1.9]).as_quat())
WORLD = matrix([1.0, 2.0, 0.5], Rotation.from_rotvec([0.0, 0.0, 2.0]).as_quat())


def record_transforms(path, plugin, steps=40, tf='/tf', static=True, moving=True):
    """What 'ros2 bag record -a' leaves of an arm with robot_state_publisher, no ee_pose.

    The transforms are 25 a second, none at the stamp of an image. Fixed parts are
    latched, by two publishers; the camera is compressed.
    """
    episode = sample_episode('pick', 5)
    arm, expert = SimArm(episode.scene, width=64, height=64), ScriptedExpert(episode.task)
    profile = load_dataset_profile(KEY)
    actions = []
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        write = Topics(bag)
        write.text('/instruction', episode.task.instruction, 0.0)
        if static:
            write.transforms(f'{tf}_static', [('world', BASE, WORLD)], -50.0)
            fixed = [('wx250s/wrist', EE, TOOL), (f'/{BASE}', 'shoulder', SHOULDER)]
            write.transforms(f'{tf}_static', fixed, -40.0)
        for step in range(steps):
            at_s = step * STEP_S
            write.jpeg('/camera/image_raw/compressed', arm.render(), at_s)
            delta = expert.act(arm)
            actions.append(from_eef_delta(delta, profile))
            for part in range(10):
                if part % 2 and moving:
                    pose = arm.ee_pose()
                    ee = matrix(pose.position_m, pose.quaternion_xyzw)
                    wrist = np.linalg.inv(SHOULDER) @ ee @ np.linalg.inv(TOOL)
                    some = [('shoulder', 'wx250s/wrist', wrist), ('odd', 'odd', wrist)]
                    write.transforms(tf, some, at_s + 0.02 * part)
                arm.step(delta.twist(), delta.gripper, 0.02)
    arm.close()
    return path, actions


@pytest.fixture(scope='module', params=['sqlite3', 'mcap'])
def tf_recording(request, tmp_path_factory):
    path = tmp_path_factory.mktemp('tf') / request.param
    return record_transforms(path, StoragePlugin[request.param.upper()])


@pytest.mark.parametrize(
    'arguments',
    [('--robot', ROBOT), ('--base-frame', BASE, '--ee-frame', EE)],
    ids=['profile', 'options'],
)
def test_the_pose_comes_from_the_transforms_of_an_ordinary_recording(
    tf_recording, monkeypatch, tmp_path, capsys, arguments
):
    path, actions = tf_recording
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), *arguments) == 0
    printed = capsys.readouterr().out
    described = f'the achieved motion of the end effector (/tf, {BASE} to {EE})'
    assert f'40 steps compared with {described}' in printed
    agreement = result(tmp_path)['agreement']
    assert agreement['direction_cosine'] > 0.9
    assert all(axis['mean_abs_error'] < 4.0 for axis in agreement['axes'][:3])


def test_the_chain_gives_the_pose_of_the_arm_between_two_transforms(tf_recording):
    path, _ = tf_recording
    options = replay._parser().parse_args([str(path), '--robot', ROBOT])
    frames = replay.RobotFrames.of(options.robot, None, None, None, None)
    episode = sample_episode('pick', 5)
    arm, expert = SimArm(episode.scene, width=64, height=64), ScriptedExpert(episode.task)
    with Recording(path) as recording:
        poses, _ = replay.recorded_pose(recording, frames)
        for step in range(10):
            delta = expert.act(arm)
            if step:
                found = poses.at(1e-9 * START_NS + step * STEP_S)
                true = arm.ee_pose()
                off_m = np.linalg.norm(np.subtract(found.position_m, true.position_m))
                # The twist changes at the image by 0.1 m/s at most, 20 ms from both transforms:
                # the straight line between them is off by 0.1 * 0.02 / 2.
                assert off_m < 1e-3
                turned = Rotation.from_quat(found.quaternion_xyzw)
                off = turned * Rotation.from_quat(true.quaternion_xyzw).inv()
                assert off.magnitude() < 5e-3
            for _ in range(10):
                arm.step(delta.twist(), delta.gripper, 0.02)
    arm.close()


def test_transforms_of_a_namespace_are_found_with_their_static_ones(monkeypatch, tmp_path):
    path, actions = record_transforms(tmp_path / 'bag', StoragePlugin.MCAP, tf='/left/tf')
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), '--robot', ROBOT) == 0
    assert result(tmp_path)['agreement']['steps'] == 40


@pytest.mark.parametrize(
    ('made', 'arguments', 'sentences'),
    [
        (
            {},
            (),
            ['nothing to compare with', '/tf is recorded: say --robot PROFILE or --ee-frame'],
        ),
        ({}, ('--ee-frame', EE), ["frame 'base_link' is not among", f'(did you mean {BASE!r}?)']),
        ({}, ('--robot', ROBOT, '--ee-frame', 'nothing'), ["frame 'nothing' is not among"]),
        ({}, ('--robot', ROBOT, '--ee-frame', 'shoulder'), ['are static', 'check base_frame']),
        ({}, ('--ee-frame', EE, '--pose-topic', '/p'), ['both --pose-topic /p and --ee-frame']),
        ({}, ('--tf-topic', '/tf'), ['--tf-topic needs the end effector']),
        ({}, ('--robot', 'wx250'), ["robot 'wx250' is not a profile", 'wx250s.example']),
        ({'static': False}, ('--robot', ROBOT), ['/tf_static is not recorded']),
        ({'moving': False}, ('--robot', ROBOT), ['nothing to compare with: no PoseStamped']),
        ({'moving': False}, ('--ee-frame', EE), ['needs /tf, which is not recorded']),
    ],
)
def test_a_pose_that_cannot_be_had_is_one_sentence(
    monkeypatch, tmp_path, capsys, made, arguments, sentences
):
    path, actions = record_transforms(tmp_path / 'bag', StoragePlugin.MCAP, steps=2, **made)
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), *arguments) == 2
    error = capsys.readouterr().err
    assert all(sentence in error for sentence in sentences), error
    assert len(error.strip().splitlines()) == 1


def test_poses_without_an_orientation_are_one_sentence(monkeypatch, tmp_path, capsys):
    unset = EePose(np.zeros(3), np.zeros(4))
    path, actions = policy_recording(
        tmp_path / 'bag', lambda write, twist, at_s: write.pose('/ee_pose', unset, at_s)
    )
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 2
    assert 'none of the 12 poses of /ee_pose can be used' in capsys.readouterr().err


def test_images_alone_are_nothing_to_compare(monkeypatch, tmp_path, capsys):
    path, actions = policy_recording(tmp_path / 'bag', lambda write, twist, at_s: None)
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 2
    assert 'has nothing to compare with' in capsys.readouterr().err
    arguments = ('--against', 'none')
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions), *arguments) == 0


def test_motion_of_another_time_than_the_images_is_nothing_to_compare(
    monkeypatch, tmp_path, capsys
):
    path, actions = policy_recording(
        tmp_path / 'bag',
        lambda write, twist, at_s: write.twist('/controller_node/twist_cmd', twist, at_s + 900.0),
    )
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(actions)) == 2
    error = capsys.readouterr().err
    assert 'the 12 images are of 1700000000.00 to 1700000002.20 s' in error
    assert 'the recorded twist commands of 1700000900.00 to 1700000902.20 s' in error
    assert result(tmp_path)['agreement'] is None


def test_an_arm_that_does_not_move_is_nothing_to_compare(monkeypatch, tmp_path, capsys):
    path, actions = policy_recording(
        tmp_path / 'bag',
        lambda write, twist, at_s: write.twist('/controller_node/twist_cmd', [0.0] * 6, at_s),
    )
    still = np.array(actions) * [0, 0, 0, 0, 0, 0, 1]
    assert run(monkeypatch, tmp_path, path, ScriptedBackend(still)) == 2
    printed, error = capsys.readouterr()
    assert 'in 12 steps no axis moves in 10 or more' in error
    assert 'not checked, moved in fewer than 10 steps: x, y, z, rx, ry, rz' in printed
    assert 'no flipped or swapped axis' not in printed
