"""Shared by all tests: the same random examples on every run, and an environment that stays."""

import os

import hypothesis
import pytest
from harness.processes import own_domain_id

hypothesis.settings.register_profile('ci', derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile('search', deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))


@pytest.fixture(scope='session', autouse=True)
def _own_ros_domain():
    """What starts ROS without a domain of its own gets this run's, which no other run has."""
    with own_domain_id() as domain:
        os.environ['ROS_DOMAIN_ID'] = str(domain)
        yield


@pytest.fixture(autouse=True)
def _environment_stays():
    """Some entry points set variables for their process, which under pytest is everybody's."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
