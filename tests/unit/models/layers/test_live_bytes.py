"""Counted bytes against sizes known in closed form."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.layers.live_bytes import LiveBytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("mode", [FakeTensorMode, torch.enable_grad], ids=["fake", "real"])
def test_storages_count_from_their_operator_to_their_last_reference(mode):
    with mode():
        given = torch.ones(100)
        with LiveBytes(CPU) as live:
            a = given * 2  # 400 B; the argument was there before
            view = a.view(10, 10)
            b = a + view.flatten()  # 800
            del b
            c = given.add_(1)  # made nothing
    assert (live.live_bytes, live.peak_bytes) == (400, 800)
    del a
    assert live.live_bytes == 400
    del view, c
    assert live.live_bytes == 0


def test_other_devices_do_not_count():
    with LiveBytes(CPU) as live:
        torch.ones(100, device="meta")
        assert live.peak_bytes == 0


def test_work_of_a_product():
    with LiveBytes(CPU) as live:
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert live.flops == 2 * 3 * 4 * 5
