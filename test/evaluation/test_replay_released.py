"""Replay and rollout of checkpoint folders as people have them, held to the golden results."""

import json

import numpy as np
import pytest
from harness.released_checkpoint import (
    HUB_KEYS,
    IMAGES,
    SENTENCES,
    expected_action,
    expected_tokens,
    write_adapter,
    write_finetuned_checkpoint,
    write_hub_checkpoint,
    write_profiles,
    write_transformers_5_checkpoint,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from openvla_ros.core.resources import resource_path
from openvla_ros.evaluation import replay, rollout

FORMS = {
    'hub': (write_hub_checkpoint, 'bridge_orig'),
    'finetuned': (write_finetuned_checkpoint, 'bridge_like'),
    'transformers_5': (write_transformers_5_checkpoint, 'bridge_like'),
}
STEP_S = 0.2
START_NS = 1_700_000_000_000_000_000
ACTION = 'openvla_ros/msg/PolicyAction'
# The eight images again and again: an axis is only compared where it moves in 10 steps or more.
ROUNDS = 3


@pytest.fixture(scope='module', params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope='module')
def folder(form, tmp_path_factory):
    return FORMS[form][0](tmp_path_factory.mktemp('released') / form)


def write_bag(path, folder, key):
    """Record the golden images, each with its sentence and the action the original makes of it."""
    store = get_typestore(Stores.LATEST)
    text = resource_path('msg/PolicyAction.msg').read_text()
    store.register(get_types_from_msg(text, ACTION))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        kinds = {
            'instruction': 'std_msgs/msg/String',
            'camera/image_raw': 'sensor_msgs/msg/Image',
            'action': ACTION,
        }
        topics = {t: bag.add_connection(f'/{t}', k, typestore=store) for t, k in kinds.items()}
        for step in range(ROUNDS * len(IMAGES)):
            i = step % len(IMAGES)
            image = IMAGES[i]
            at_ns = START_NS + round(1e9 * STEP_S) * step
            stamp = store.types['builtin_interfaces/msg/Time'](at_ns // 10**9, at_ns % 10**9)
            header = store.types['std_msgs/msg/Header']
            messages = {
                'instruction': {'data': SENTENCES[i]},
                'camera/image_raw': _image(header(stamp, 'camera'), image),
                'action': _action(store, header(stamp, 'base_link'), step, i, folder, key),
            }
            for topic, fields in messages.items():
                message = store.types[kinds[topic]](**fields)
                bag.write(topics[topic], at_ns, store.serialize_cdr(message, kinds[topic]))


def _image(header, image):
    height, width, _ = image.shape
    shape = {'height': height, 'width': width, 'encoding': 'rgb8', 'is_bigendian': 0}
    return {'header': header, **shape, 'step': 3 * width, 'data': image.reshape(-1)}


def _action(store, header, step, i, folder, key):
    action = expected_action(i, folder, key)
    # Bridge: meters in the base frame, and angles about fixed axes x, y, z.
    rotvec = Rotation.from_euler('xyz', action[3:6]).as_rotvec()
    vector = store.types['geometry_msgs/msg/Vector3']
    twist = vector(*(action[:3] / STEP_S)), vector(*(rotvec / STEP_S))
    return {
        'header': header, 'sequence': step + 1, 'step_s': STEP_S,
        'twist': store.types['geometry_msgs/msg/Twist'](*twist),
        'gripper': float(np.clip(action[6], 0.0, 1.0)), 'source_id': '', 'instruction': '',
        'unnorm_key': key, 'action_tokens': np.array(expected_tokens(i), np.int64),
        'action': action, 'inference_s': 0.0,
    }  # fmt: skip


def test_a_replay_predicts_what_the_original_predicts(folder, form, tmp_path, capsys):
    key = FORMS[form][1]
    write_bag(tmp_path / 'bag', folder, key)
    arguments = [str(tmp_path / 'bag'), '--checkpoint', str(folder), '--unnorm-key', key]
    arguments += ['--dataset-directory', str(write_profiles(tmp_path / 'profiles'))]
    arguments += ['--dtype', 'float32', '--against', 'action', '--out', str(tmp_path / 'out')]
    assert replay.main(arguments) == 0, capsys.readouterr()
    agreement = json.loads((tmp_path / 'out' / 'replay.json').read_text())['agreement']
    assert agreement['steps'] == ROUNDS * len(IMAGES)
    assert max(axis['mean_abs_error'] for axis in agreement['axes']) < 1e-9
    assert agreement['gripper_agreement'] == 1.0


def test_a_replay_without_a_key_lists_the_checkpoint_s_own(folder, form, tmp_path, capsys):
    write_bag(tmp_path / 'bag', folder, FORMS[form][1])
    assert replay.main([str(tmp_path / 'bag'), '--checkpoint', str(folder)]) == 2
    keys = HUB_KEYS if form == 'hub' else ('bridge_like', 'no_mask', 'eight_dof')
    assert capsys.readouterr().err.strip().endswith('choose one of: ' + ', '.join(keys))


@pytest.mark.parametrize(('head', 'status'), [('same', 0), ('other', 2)])
def test_a_replay_takes_an_adapter_of_this_checkpoint_and_no_other(tmp_path, capsys, head, status):
    folder = write_finetuned_checkpoint(tmp_path / 'checkpoint')
    write_bag(tmp_path / 'bag', folder, 'bridge_like')
    adapter = write_adapter(tmp_path / 'adapter', head=head)
    arguments = [str(tmp_path / 'bag'), '--checkpoint', str(folder), '--adapter', str(adapter)]
    arguments += ['--dataset-directory', str(write_profiles(tmp_path / 'profiles'))]
    arguments += ['--unnorm-key', 'bridge_like', '--against', 'none']
    assert replay.main([*arguments, '--out', str(tmp_path / 'out')]) == status
    said = capsys.readouterr()
    assert ('or it is merged into this one already' in said.err) == (head == 'other')
    assert (f'{ROUNDS * len(IMAGES)} images replayed' in said.out) == (head == 'same')


def test_a_rollout_computes_with_the_stored_normalization(tmp_path):
    folder = write_finetuned_checkpoint(tmp_path / 'checkpoint')
    statistics = json.loads((folder / 'dataset_statistics.json').read_text())
    named = {rollout.UNNORM_KEY: statistics['bridge_like']}
    (folder / 'dataset_statistics.json').write_text(json.dumps(named))
    backend = rollout.load_policy(folder, 'fp32').backend
    for i, image in enumerate(IMAGES):
        predicted = backend.predict(image, SENTENCES[i])
        assert predicted.action_tokens.tolist() == expected_tokens(i)
