"""The launch files give processes that exchange images the profile their Fast DDS reads."""

from pathlib import Path

import pytest

from openvla_ros.nodes.dds_profile import profile_for_images

SHARE = Path('/opt/share/openvla_ros')
OURS = '/opt/share/openvla_ros/config/fastdds_shm.xml'


@pytest.mark.parametrize(
    ('distro', 'variable'),
    [
        ('humble', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('kilted', 'FASTDDS_DEFAULT_PROFILES_FILE'),
        ('rolling', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ],
)
def test_it_is_named_as_the_distribution_expects_and_the_users_own_stays(
    monkeypatch, distro, variable
):
    monkeypatch.setenv('ROS_DISTRO', distro)
    monkeypatch.delenv(variable, raising=False)
    assert profile_for_images(SHARE) == (variable, OURS)
    monkeypatch.setenv(variable, '/home/me/profile.xml')
    assert profile_for_images(SHARE) == (variable, '/home/me/profile.xml')
