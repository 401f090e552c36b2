"""The decoder stays lean: operations per action at the depth of Llama-2-7B.

On a GPU faster than the framework, the number of kernel launches is the time per action.
Upstream's transformers 4.40.1 needs 11,027 for the language model's part of one action.
"""

import pytest
import torch

from benchmarks.framework_cost import count_operations, make_llama, prompt
from openvla_ros.model.decoding import EagerPasses

UPSTREAM = 11_027


@pytest.fixture(scope='module')
def counts():
    """Operations of a prefill with a draft, and of a pass over what was not accepted."""
    llama = make_llama(torch.float32)
    rows = 292
    embeds, passes = prompt(llama, rows), EagerPasses(llama)
    prefill, _ = count_operations(lambda: passes.prefill(embeds, [5] * 6, 7))
    step, _ = count_operations(lambda: passes.advance([5] * 5, rows + 1))
    return prefill, step


def test_an_accepted_draft_takes_a_tenth_of_upstream_s_kernels(counts):
    assert counts[0] <= 1000 < UPSTREAM / 10


def test_another_pass_takes_no_more_than_the_first(counts):
    assert counts[1] <= 1000


def test_two_passes_stay_within_a_quarter_of_upstream_s_kernels(counts):
    assert sum(counts) <= UPSTREAM / 4
