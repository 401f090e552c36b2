"""Shared by all tests: the same random examples on every run."""

import os

import hypothesis

hypothesis.settings.register_profile('ci', derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile('search', deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))
