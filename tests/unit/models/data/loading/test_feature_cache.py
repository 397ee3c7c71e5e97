import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models.data.loading.feature_cache import ClipCache

KEYS = st.integers(0, 5)
DTYPES = {torch.uint8: 1, torch.bfloat16: 2, torch.float32: 4}


class AgainstAList(RuleBasedStateMachine):
    """The naive twin is a list of (key, values, bytes), longest unused first."""

    @initialize(limit=st.integers(0, 100))
    def start(self, limit):
        self.cache, self.limit, self.twin = ClipCache(limit), limit, []

    @rule(
        key=KEYS,
        size=st.integers(0, 30),
        dtype=st.sampled_from(list(DTYPES)),
        kind=st.sampled_from(["own", "slice", "reversed", "column", "expanded"]),
        value=st.integers(0, 99),
    )
    def put(self, key, size, dtype, kind, value):
        base = (torch.arange(4 * size) % 7 + value).to(dtype)
        tensor = {
            "own": base[:size].clone(),
            "slice": base[size : 2 * size],
            "reversed": base.view(4, size).flip(0).permute(1, 0)[:, 0],
            "column": base.view(size, 4)[:, 2],
            "expanded": base.view(4, size)[:1, :1].expand(1, size).flatten() if size else base,
        }[kind]
        values, nbytes = tensor.tolist(), size * DTYPES[dtype]
        stored = self.cache.put(key, tensor)
        assert stored == (nbytes <= self.limit)
        if kind != "own":
            base.fill_(0)  # what is stored must not be a window on it
        if stored:
            self.twin = [item for item in self.twin if item[0] != key]
            while sum(item[2] for item in self.twin) + nbytes > self.limit:
                self.twin.pop(0)
            self.twin.append((key, values, nbytes))

    @rule(key=KEYS)
    def get(self, key):
        found = self.cache.get(key)
        held = next((item for item in self.twin if item[0] == key), None)
        assert (None if found is None else found.tolist()) == (held and held[1])
        if held:
            self.twin.remove(held)
            self.twin.append(held)

    @rule(key=KEYS, size=st.integers(0, 120))
    def look(self, key, size):
        assert (key in self.cache) == any(item[0] == key for item in self.twin)
        assert self.cache.has_room(size) == (sum(item[2] for item in self.twin) + size <= self.limit)

    @rule()
    def clear(self):
        self.cache.clear()
        self.twin = []

    @invariant()
    def holds_what_the_twin_holds(self):
        storages = {key: clip.untyped_storage().nbytes() for key, clip in self.cache._clips.items()}
        assert list(storages.items()) == [(key, nbytes) for key, _, nbytes in self.twin]
        assert self.cache.stored_bytes == sum(storages.values()) <= self.limit
        assert len(self.cache) == len(self.twin)


AgainstAList.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
TestAgainstAList = AgainstAList.TestCase


def test_a_strided_view_with_the_bytes_of_its_storage_is_counted_right():
    cache = ClipCache(100)
    frames = torch.arange(24, dtype=torch.uint8).view(2, 3, 4).permute(2, 0, 1)
    assert cache.put("permuted", frames)
    assert cache.stored_bytes == 24
    assert torch.equal(cache.get("permuted"), frames)


def test_an_item_above_the_limit_is_refused_and_drops_nothing():
    cache = ClipCache(10)
    assert cache.put("small", torch.zeros(10, dtype=torch.uint8))
    assert not cache.has_room(1)
    assert not cache.put("large", torch.zeros(11, dtype=torch.uint8))
    assert cache.get("small") is not None
