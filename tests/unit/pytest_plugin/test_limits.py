"""What a limit lets through, at its edges."""

import pytest

from slr_bench.errors import ConfigError
from slr_bench.pytest_plugin.limits import parse_byte_limit


@pytest.mark.parametrize(
    ("text", "base", "most"),
    [
        ("peak_tensor_bytes:0%", 1000, 1000),
        ("peak_tensor_bytes:0.5%", 1000, 1005),
        ("peak_tensor_bytes:2 %", 10**15, 102 * 10**13),
        ("peak_tensor_bytes:0%", 0, 0),
        ("peak_tensor_bytes:50%", 0, 0),
        ("rss_over_start_bytes:1MiB", 5, 5 + 2**20),
        ("rss_over_start_bytes:16B", 0, 16),
    ],
)
def test_one_byte_over_the_limit_is_too_much(text, base, most):
    limit = parse_byte_limit(text)
    assert limit.allows(base, most)
    assert limit.allows(base, 0)
    assert not limit.allows(base, most + 1)


@pytest.mark.parametrize(
    "text",
    [
        "peak_tensor_bytes",
        "peak_tensor_bytes:",
        ":0%",
        "0%",
        "a b:0%",
        "peak_tensor_bytes:5",
        "x:-1%",
        "x:1Mb/s",
        "x:5ms",
        "x:2pp",
    ],
)
def test_what_is_no_limit_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"write it like|give percent") as caught:
        parse_byte_limit(text)
    assert repr(text) in str(caught.value)
