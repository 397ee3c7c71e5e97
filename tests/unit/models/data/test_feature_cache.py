import torch
from hypothesis import given
from hypothesis import strategies as st

from models.data.feature_cache import ClipCache

OPERATIONS = st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 5), st.integers(0, 60)), max_size=60)


class NaiveCache:
    """A list of (key, bytes), oldest use first."""

    def __init__(self, limit):
        self.limit, self.items = limit, []

    def get(self, key):
        for item in self.items:
            if item[0] == key:
                self.items.remove(item)
                self.items.append(item)
                return item[1]
        return None

    def put(self, key, value):
        if len(value) > self.limit:
            return False
        self.items = [item for item in self.items if item[0] != key]
        while sum(len(held) for _, held in self.items) + len(value) > self.limit:
            self.items.pop(0)
        self.items.append((key, value))
        return True


@given(OPERATIONS, st.integers(0, 100))
def test_equals_a_naive_twin(operations, limit):
    cache, twin = ClipCache(limit), NaiveCache(limit)
    for turn, (operation, key, size) in enumerate(operations):
        if operation == "put":
            value = [turn % 256] * size
            assert cache.put(key, torch.tensor(value, dtype=torch.uint8)) == twin.put(key, value)
        else:
            found, expected = cache.get(key), twin.get(key)
            assert (None if found is None else found.tolist()) == expected
        held = {clip.data_ptr(): clip.untyped_storage().nbytes() for clip in cache._clips.values() if clip.numel()}
        assert cache.stored_bytes == sum(held.values()) <= limit
        assert len(cache) == len(twin.items)


def test_a_view_does_not_keep_its_storage():
    cache = ClipCache(100)
    base = torch.arange(80, dtype=torch.uint8)
    assert cache.put("view", base[:10])
    assert cache.stored_bytes == 10
    base.zero_()
    assert cache.get("view").tolist() == list(range(10))


def test_a_strided_view_with_the_bytes_of_its_storage_is_counted_right():
    cache = ClipCache(100)
    frames = torch.arange(24, dtype=torch.uint8).view(2, 3, 4).permute(2, 0, 1)
    assert cache.put("permuted", frames)
    assert cache.stored_bytes == 24
    assert torch.equal(cache.get("permuted"), frames)


def test_an_item_above_the_limit_is_refused_and_drops_nothing():
    cache = ClipCache(10)
    assert cache.put("small", torch.zeros(10, dtype=torch.uint8))
    assert not cache.accepts(11)
    assert not cache.put("large", torch.zeros(11, dtype=torch.uint8))
    assert cache.get("small") is not None
