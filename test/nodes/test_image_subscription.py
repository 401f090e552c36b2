"""What the middleware does to large images, and that policy_node says so."""

import sys
import time
from pathlib import Path

import pytest
from harness.processes import REPOSITORY, Processes

from openvla_ros.nodes.dds_profile import profile_variable

pytestmark = pytest.mark.ros

PROFILE = profile_variable()
SHM = str(REPOSITORY / 'config' / 'fastdds_shm.xml')
POLICY = Path(__file__).with_name('policy_with_fake_backend.py')
LOST = 'images are lost on the way'


def wait_for_log(process, text, deadline_s):
    end_s = time.monotonic() + deadline_s
    while text not in process.log_text():
        assert time.monotonic() < end_s, f'{text!r} not in: {process.log_tail()}'
        time.sleep(0.1)


@pytest.mark.parametrize('profile', [None, SHM], ids=['default', 'shm'])
def test_lost_images_are_said_and_the_profile_of_the_camera_prevents_them(tmp_path, profile):
    with Processes(tmp_path, deadline_s=60.0) as processes:
        processes.env.pop(PROFILE, None)
        policy = processes.start(
            'policy',
            [
                sys.executable,
                str(POLICY),
                '--ros-args',
                '-p',
                'robot:=sim',
                '-p',
                'unnorm_key:=openvla_ros_demo',
            ],
        )
        wait_for_log(policy, 'waiting for an instruction', 20.0)
        if profile is not None:
            processes.env[PROFILE] = profile
        camera = processes.start_actor('camera', 'fake_camera', '--best-effort')
        if profile is None:
            wait_for_log(policy, LOST, 15.0)
            assert 'fastdds_shm.xml' in policy.log_text()
        else:
            wait_for_log(policy, 'images of 640x480', 15.0)
            sent = camera.call('sent')
            while camera.call('sent') < sent + 60:  # two seconds, of which 5 lost would be said
                time.sleep(0.1)
            assert LOST not in policy.log_text()
