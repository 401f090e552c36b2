"""Which settings of the middleware keep_out_of_shared_memory makes, and which it leaves."""

import os

import pytest

from openvla_ros.core.resources import resource_path
from openvla_ros.nodes.transport import keep_out_of_shared_memory

PROFILE = 'FASTDDS_DEFAULT_PROFILES_FILE'
PROFILE_OF_FAST_DDS_2 = 'FASTRTPS_DEFAULT_PROFILES_FILE'
NAMES = (
    PROFILE_OF_FAST_DDS_2,
    'ROS_DISTRO',
    PROFILE,
    'FASTDDS_BUILTIN_TRANSPORTS',
    'ROS_STATIC_PEERS',
    'ROS_LOCALHOST_ONLY',
    'ROS_AUTOMATIC_DISCOVERY_RANGE',
)
UDP = str(resource_path('config/fastdds_udp.xml'))
UDP_LOCALHOST = str(resource_path('config/fastdds_udp_localhost.xml'))
IMAGES = str(resource_path('config/fastdds_shm.xml'))


@pytest.fixture
def environ(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def settings():
    return {name: os.environ[name] for name in NAMES if name in os.environ}


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, {PROFILE: UDP}),
        ({PROFILE: IMAGES}, {PROFILE: UDP}),
        (
            {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'},
            {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET', PROFILE: UDP},
        ),
        (
            {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', PROFILE: IMAGES},
            {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SYSTEM_DEFAULT', PROFILE: UDP_LOCALHOST},
        ),
        (
            {'ROS_LOCALHOST_ONLY': '0', 'ROS_STATIC_PEERS': ''},
            {'ROS_LOCALHOST_ONLY': '0', 'ROS_STATIC_PEERS': '', PROFILE: UDP},
        ),
        (
            {'ROS_DISTRO': 'jazzy', PROFILE_OF_FAST_DDS_2: IMAGES},
            {'ROS_DISTRO': 'jazzy', PROFILE_OF_FAST_DDS_2: UDP},
        ),
    ],
)
def test_the_defaults_are_replaced_by_sockets(environ, given, expected):
    for name, value in given.items():
        environ.setenv(name, value)
    keep_out_of_shared_memory()
    assert settings() == expected


@pytest.mark.parametrize(
    'given',
    [
        {PROFILE: '/home/me/fastdds.xml'},
        {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'},
        {'ROS_STATIC_PEERS': '10.0.0.2', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'},
        {'ROS_LOCALHOST_ONLY': '1'},
    ],
)
def test_what_the_user_chose_stays(environ, given):
    for name, value in given.items():
        environ.setenv(name, value)
    keep_out_of_shared_memory()
    assert settings() == given
