"""``slr-bench doctor`` on this machine."""

import json


def test_doctor_checks_everything_and_always_exits_with_0(slr_bench):
    done = slr_bench("doctor", "--json")
    assert done.returncode == 0
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found.keys() >= {
        "Python", "CPU", "RAM limit", "RAM high-water mark", "PSS of a tree", "oom_kill counter", "disk here",
        "memory_profiler", "NVML", "torch", "CUDA by torch", "video by PyAV", "fork server",
    }  # fmt: skip
    assert {found[name]["state"] for name in ("torch", "video by PyAV", "fork server")} == {"ok"}
    assert all(finding["cure"] for finding in found.values() if finding["state"] == "lacking")
