"""From recordings to a data set and back: where the demonstration ended, and what is refused."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip('pyarrow', reason='pyarrow is not installed (requirements/data.txt)')

import pyarrow.parquet as pq

from openvla_ros.action_space.dataset_profile import load_dataset_profile, to_eef_delta
from openvla_ros.action_space.eef_delta import pose_after
from openvla_ros.core.resources import resource_path
from openvla_ros.data.__main__ import main
from openvla_ros.data.data_set import DataSet
from openvla_ros.data.episode_label import EpisodeLabel, save_label

KEY = 'openvla_ros_demo'


def prepare(tmp_path, *bags, key=KEY, out='set', **options):
    command = ['prepare', *map(str, bags), '--out', str(tmp_path / out), '--unnorm-key', key]
    for name, value in options.items():
        command += [f'--{name.replace("_", "-")}', *([] if value is True else [str(value)])]
    return main(command), tmp_path / out


def other_profile(tmp_path, **changes):
    """A profile of another robot: changed lines of the demo's."""
    folder = tmp_path / 'profiles'
    folder.mkdir()
    text = resource_path(f'config/datasets/{KEY}.yaml').read_text().replace(KEY, 'my_arm')
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    (folder / 'my_arm.yaml').write_text(text)
    return folder


def replayed(data, episode=0):
    """Pose after all actions of an episode, from its first state."""
    frames = data.frames_of(episode)
    state = data.states[frames[0]]
    pose = np.concatenate([state[:3], Rotation.from_rotvec(state[3:6]).as_quat()])
    for index in frames:
        pose = pose_after(pose, to_eef_delta(data.actions[index], data.profile))
    return pose


def assert_same_pose(got, expected):
    np.testing.assert_allclose(got[:3], expected[:3], atol=1e-5)
    turned = Rotation.from_quat(got[3:]) * Rotation.from_quat(expected[3:]).inv()
    assert turned.magnitude() < 1e-5


def test_the_actions_lead_where_the_demonstration_ended(tmp_path, record, curve):
    status, out = prepare(tmp_path, record())
    assert status == 0
    data = DataSet(out)
    assert len(data) == 20  # 4 s at 5 Hz
    assert_same_pose(replayed(data), curve.pose_at(4.0))


@pytest.mark.parametrize('frame', ['base', 'ee'])
@pytest.mark.parametrize('rotation', ['euler_xyz', 'rotvec'])
def test_every_convention_leads_there(tmp_path, record, curve, frame, rotation):
    profiles = other_profile(
        tmp_path,
        frame=('\nframe: base', f'\nframe: {frame}'),
        rotation=('\nrotation: rotvec', f'\nrotation: {rotation}'),
        scale=('translation_scale_m: 1.0', 'translation_scale_m: 0.02'),
        gripper=('open_value: 1.0\n  closed_value: 0.0', 'open_value: -1.0\n  closed_value: 1.0'),
    )
    status, out = prepare(tmp_path, record(), key='my_arm', dataset_directory=profiles)
    assert status == 0
    data = DataSet(out)
    assert (data.profile.frame, data.profile.rotation) == (frame, rotation)
    assert_same_pose(replayed(data), curve.pose_at(4.0))
    # Open until 2 s: the command at the end of each step, in the dataset's numbers.
    assert data.actions[:, 6].tolist() == [-1.0] * 9 + [1.0] * 11


def test_the_camera_s_jpeg_is_kept_to_the_byte_and_is_the_newest_at_the_step(
    tmp_path, record, curve
):
    _, out = prepare(tmp_path, record())
    data = DataSet(out)
    assert [data.encoded_image(i) for i in range(20)] == [curve.picture(6 * i) for i in range(20)]
    assert data.frame(3).instruction == 'Pick up the Cup'
    assert data.frame(3).image.shape == (48, 64, 3)


def test_commanded_motion_is_the_twist_over_the_step(tmp_path, record):
    twist = [0.05, 0.0, -0.1, 0.0, 0.0, 0.2]
    _, out = prepare(tmp_path, record(twist=twist), motion='commanded')
    data = DataSet(out)
    np.testing.assert_allclose(data.actions[:, :6], np.tile(twist, (20, 1)) * 0.2, atol=1e-6)


def test_steps_without_motion_are_counted_and_dropped_unless_asked_for(
    tmp_path, record, curve, capsys
):
    bag = record(pose=lambda t: curve.pose_at(max(t, 2.0)), opening=lambda t: 1.0)
    _, out = prepare(tmp_path, bag)
    assert len(DataSet(out)) == 10
    assert '10 steps without motion or change of the gripper, dropped' in capsys.readouterr().out
    _, kept = prepare(tmp_path, bag, out='kept', keep_no_ops=True)
    data = DataSet(kept)
    assert len(data) == 20
    table = pq.read_table(kept / 'data/chunk-000/file-000.parquet')
    assert table['action.no_op'].to_pylist() == [True] * 10 + [False] * 10


def test_a_frozen_camera_is_counted_and_dropped(tmp_path, record, curve, capsys):
    bag = record(image=lambda i, size: curve.picture(min(i, 60), size))
    _, out = prepare(tmp_path, bag)
    # Steps 0 to 10 (2.0 s, image 60) have images of their own.
    assert len(DataSet(out)) == 11
    assert '9 steps dropped: the image is the same as before' in capsys.readouterr().out


def test_a_slow_camera_is_refused_with_both_rates(tmp_path, record, capsys):
    status, out = prepare(tmp_path, record(image_hz=2.0))
    assert status == 2
    assert not out.exists()
    assert 'the camera gives 2.0 images a second, expected at least 10' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('missing', 'sentence'),
    [
        ({'pose': None}, '0 topics with a pose'),
        ({'opening': None}, '0 topics with a gripper'),
        ({'text': None}, '0 topics with a instruction'),
        ({'text': '  '}, 'holds no sentence'),
        ({'opening': lambda t: 255.0}, 'expected openings from 0 (closed) to 1 (open)'),
    ],
)
def test_what_a_recording_lacks_is_one_sentence(tmp_path, record, capsys, missing, sentence):
    status, out = prepare(tmp_path, record(**missing))
    assert status == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob('.set.*'))


def test_a_sentence_can_be_given_for_a_recording_without(tmp_path, record):
    status, out = prepare(tmp_path, record(text=None), instruction='open the drawer')
    assert status == 0
    assert DataSet(out).instructions == ['open the drawer']


def test_a_truncated_recording_is_named(tmp_path, record, capsys):
    bag = record()
    file = next(bag.glob('*.mcap'))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    status, out = prepare(tmp_path, bag)
    assert status == 2
    assert str(bag) in capsys.readouterr().err
    assert not out.exists()


def test_a_recording_damaged_in_the_middle_is_named(tmp_path, record, capsys):
    bag = record()
    file = next(bag.glob('*.mcap'))
    content = bytearray(file.read_bytes())
    content[2000:200_000] = bytes(198_000)
    file.write_bytes(content)
    status, out = prepare(tmp_path, bag)
    assert status == 2
    assert str(bag) in capsys.readouterr().err
    assert not out.exists()


def test_poses_that_are_not_finite_are_counted_and_left_out(tmp_path, record, curve, capsys):
    def broken(t):
        x_is_lost = np.array([np.nan, 1, 1, 1, 1, 1, 1])
        return curve.pose_at(t) * (x_is_lost if 1.0 < t < 1.5 else 1.0)

    _, out = prepare(tmp_path, record(pose=broken))
    # The steps from 0.8 to 1.4 s have an end at 1.2 or 1.4 s.
    assert len(DataSet(out)) == 17
    assert '3 steps dropped: no pose' in capsys.readouterr().out


def test_nothing_recorded_is_overwritten(tmp_path, record, capsys):
    bag = record()
    _, out = prepare(tmp_path, bag)
    before = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
    status, _ = prepare(tmp_path, bag)
    assert status == 2
    assert 'exists already' in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob('*') if p.is_file()} == before


def test_an_unusable_recording_stops_everything_or_is_left_out_and_named(tmp_path, record, capsys):
    good, bad = record('good'), record('bad', pose=None)
    assert prepare(tmp_path, good, bad)[0] == 2
    assert not (tmp_path / 'set').exists()
    status, out = prepare(tmp_path, good, bad, skip_unusable=True)
    assert status == 0
    assert DataSet(out).num_episodes == 1
    assert str(bad) in capsys.readouterr().out


def test_recordings_of_two_resolutions_are_refused(tmp_path, record, capsys):
    status, _ = prepare(tmp_path, record('a'), record('b', size=(32, 32)))
    assert status == 2
    assert 'images of one size' in capsys.readouterr().err


def test_several_recordings_make_episodes_without_gaps(tmp_path, record):
    bags = [
        record('a', text='push'),
        record('b', text='pull', seconds=2.0),
        record('c', text='push'),
    ]
    _, out = prepare(tmp_path, *bags)
    data = DataSet(out)
    assert [len(data.frames_of(i)) for i in range(3)] == [20, 10, 20]
    assert data.instructions == ['push', 'pull', 'push']
    info = json.loads((out / 'meta/info.json').read_text())
    assert (info['total_tasks'], info['total_frames'], info['fps']) == (2, 50, 5)
    indices = [
        pq.read_table(out / f'data/chunk-000/file-{i:03d}.parquet')['index'].to_pylist()
        for i in range(3)
    ]
    assert [index for part in indices for index in part] == list(range(50))


def test_inspect_says_what_is_in_it_and_what_looks_wrong(tmp_path, record, capsys):
    _, out = prepare(tmp_path, record(opening=lambda t: 1.0))
    capsys.readouterr()
    assert main(['inspect', str(out), '--sheet', str(tmp_path / 'sheet.png')]) == 0
    said = capsys.readouterr().out
    assert '1 episodes, 20 frames of 0.2 s' in said
    assert '1 x Pick up the Cup' in said
    assert 'CHECK the gripper is 1 in every frame' in said
    assert (tmp_path / 'sheet.png').stat().st_size > 1000


def test_a_flipped_axis_is_seen(tmp_path, record):
    from openvla_ros.data.faults import suspicious

    _, out = prepare(tmp_path, record(seconds=12.0))
    data = DataSet(out)
    profile = load_dataset_profile(KEY)
    assert suspicious(data.actions, data.states, profile) == []
    flipped = data.actions * np.array([1, -1, 1, 1, 1, 1, 1])
    assert suspicious(flipped, data.states, profile) == [
        'y: the arm moves the other way than its actions say; flipped?'
    ]


def labelled(bag, outcome, **topics):
    save_label(
        bag, EpisodeLabel(outcome, 'say it', 'my_arm', 'sim', 'base_link', 'ee_link', topics)
    )
    return bag


def test_a_recording_whose_label_says_failure_is_left_out_and_counted(tmp_path, record, capsys):
    good, bad = labelled(record('good'), 'success'), labelled(record('bad'), 'failure')
    status, out = prepare(tmp_path, good, bad)
    assert status == 0
    assert DataSet(out).num_episodes == 1
    assert '1 recordings left out: their label says failure' in capsys.readouterr().out


def test_the_topics_that_a_label_names_are_read_unless_others_are_asked_for(
    tmp_path, record, capsys
):
    bag = labelled(record(), 'success', image='/not/recorded')
    status, _ = prepare(tmp_path, bag)
    assert status == 2
    assert "image topic '/not/recorded' is not recorded" in capsys.readouterr().err
    status, _ = prepare(tmp_path, bag, image_topic='/camera/image_raw/compressed')
    assert status == 0
