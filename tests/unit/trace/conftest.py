"""What the tests of the tracer share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Many small operators: threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
