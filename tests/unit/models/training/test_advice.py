"""Advice for invented machines and for this one: the choices, their validity, and that they fit."""

import io
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from clip_files import write_directory, write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import Settings, load_settings
from models.training import advisor
from models.training.advice import SAFE_PART, StepNeed, apply_advice, cure, fit_machine
from models.training.machine import Machine
from models.training.step_need import measure_step_need
from slr_bench.files import parse_overrides
from slr_bench.units import GIB, MIB

ROOT = Path(__file__).parents[4]
LAPTOP = Machine(cores=8, ram_free_bytes=12 * GIB, ram_limit_bytes=16 * GIB, gpu_name="GPU", gpu_free_bytes=4 * GIB)
NO_GPU = Machine(2, 8 * GIB, 8 * GIB, cpu_flags=frozenset({"avx512_fp16", "amx_bf16"}))
NEED = StepNeed(fixed_bytes=200 * MIB, per_clip_bytes=150 * MIB)


def setting(**changes):
    sections = {}
    for key, value in changes.items():
        section, name = key.split("__")
        sections.setdefault(section, {})[name] = value
    return Settings.model_validate(sections)


def chosen(advice):
    return {one.key: one.value for one in advice}


def test_reference_setting_is_fitted_to_a_laptop_with_a_gpu():
    """3.2 of 4 GiB hold 200 + 16 x 150 MiB and not 32; seven processes are one less than the cores."""
    advice = fit_machine(Settings(), LAPTOP, clips=1000, need=NEED)
    assert chosen(advice) == {
        "training.batch_size": 16,
        "training.gradient_accumulation_steps": 2,
        "training.dynamic_batch_size": True,
        "data.num_workers": 6,  # 400 MiB each, a quarter of 9.6 GiB
        "data.max_frames_in_memory": 16 * 16 * 7,
        "model.cache_size_limit_mb": 6000,  # 1000 clips of 32 x 256 x 256 x 3 bytes do fit
    }
    assert Settings().cached_clip_bytes == 32 * 256 * 256 * 3 == 6 * MIB
    assert all(one.why for one in advice)


def test_small_machine_without_a_gpu_shrinks_the_cache_before_the_batch():
    small = Machine(cores=2, ram_free_bytes=1 * GIB, ram_limit_bytes=2 * GIB)
    got = chosen(fit_machine(Settings(), small, clips=1000, need=StepNeed(100 * MIB, 80 * MIB)))
    assert "training.batch_size" not in got  # 8: 740 MiB of 819; never more than was set: it is no faster on a CPU
    assert got["data.num_workers"] == 0
    assert got["data.max_frames_in_memory"] == 128
    assert got["data.chunk_size"] == 8
    assert got["model.cache_size_limit_mb"] == 60
    tighter = Machine(cores=2, ram_free_bytes=950 * MIB, ram_limit_bytes=2 * GIB)
    got = chosen(fit_machine(Settings(), tighter, clips=1000, need=StepNeed(100 * MIB, 80 * MIB)))
    assert "training.batch_size" not in got
    assert got["model.enable_feature_caching"] is False


def test_advice_states_when_not_even_one_clip_fits():
    advice = fit_machine(Settings(), LAPTOP, None, StepNeed(8 * GIB, GIB))
    (batch,) = [one for one in advice if one.key == "training.batch_size"]
    assert batch.value == 1
    assert batch.why.endswith("more than the free 3.20 GiB: see --symptom oom")


def test_optimizer_in_backward_keeps_its_batch():
    changes = {"training__gradient_accumulation_steps": 1, "training__gradient_clip_norm": None}
    got = chosen(fit_machine(setting(training__optimizer_in_backward=True, **changes), LAPTOP, None, NEED))
    assert not [key for key in got if key.startswith("training.")]


machines = st.builds(
    Machine,
    cores=st.integers(1, 128),
    ram_free_bytes=st.integers(0, 256 * GIB),
    ram_limit_bytes=st.just(256 * GIB),
    gpu_name=st.sampled_from([None, "GPU"]),
    gpu_free_bytes=st.integers(0, 80 * GIB),
)
starts = st.builds(
    lambda batch, steps, size, cache: setting(
        training__batch_size=batch, training__gradient_accumulation_steps=steps, data__frame_size=size,
        data__max_frames_in_memory=None, model__enable_feature_caching=cache,
    ),
    st.integers(1, 40), st.integers(1, 8), st.sampled_from([64, 112, 224]), st.booleans(),
)  # fmt: skip
needs = st.one_of(st.none(), st.builds(StepNeed, st.integers(0, 4 * GIB), st.integers(0, 2 * GIB)))


@settings(deadline=None)
@given(starts, machines, st.one_of(st.none(), st.integers(0, 30_000)), needs)
def test_advice_is_valid_fits_and_keeps_the_effective_batch_on_any_machine(before, machine, clips, need):
    after = apply_advice(before, fit_machine(before, machine, clips, need))
    training, data = after.training, after.data
    assert training.effective_batch == before.training.effective_batch
    assert data.num_workers < machine.cores
    batch = training.batch_size * after.model.num_frames
    cache = after.model.cache_size_limit_mb * MIB if after.model.enable_feature_caching else 0
    of_loader = data.num_workers * machine.process_bytes + data.max_frames_in_memory * after.frame_bytes + cache
    if data.max_frames_in_memory > batch:  # one batch there must be
        assert of_loader <= SAFE_PART * machine.ram_free_bytes + MIB
    if need and training.batch_size > 1 and training.batch_size != before.training.batch_size:
        assert need.bytes_for(training.batch_size) <= SAFE_PART * machine.device_free_bytes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"avx2"}, "neither amx_bf16 nor avx512_bf16"),
        ({"avx2", "avx512_bf16"}, "has avx512_bf16 but no amx_bf16"),
        ({"avx512_bf16", "amx_bf16"}, None),
        ({"asimd", "bf16"}, None),
    ],
)
def test_cpu_flags_decide_whether_bf16_costs_time(flags, words):
    cpu = Machine(cores=2, ram_free_bytes=8 * GIB, ram_limit_bytes=8 * GIB, cpu_flags=frozenset(flags))
    slow = {one.key: one for one in cure("slow", setting(), cpu)}
    oom = {one.key: one for one in cure("oom", setting(training__precision="fp32"), cpu)}
    assert oom["training.precision"].value == "bf16"
    assert ("slower" in oom["training.precision"].why) == (words is not None)
    if words is None:
        assert "training.precision" not in slow
    else:
        assert slow["training.precision"].value == "fp32"
        assert words in slow["training.precision"].why


@settings(deadline=None, max_examples=30)
@given(starts, machines, st.sampled_from(["oom", "ram", "slow"]))
def test_cures_can_be_repeated_until_no_step_is_left(now, machine, symptom):
    effective = now.training.effective_batch
    for _ in range(30):
        advice = cure(symptom, now, machine)
        if not advice:
            break
        now = apply_advice(now, advice)
        assert now.training.effective_batch == effective
    assert not advice
    if symptom == "oom":
        assert (now.training.batch_size, now.training.precision, now.training.recompute) == (1, "bf16", "block")
    if symptom == "ram":
        assert (now.data.num_workers, now.data.prefetch_batches, now.model.enable_feature_caching) == (0, 1, False)


@pytest.mark.parametrize(
    ("machine", "precision", "advised_type"),
    [(NO_GPU, "fp16", "fp32"), (NO_GPU, "fp32", None), (NO_GPU, "tf32", None), (LAPTOP, "fp16", None)],
)
def test_fp16_is_slow_without_a_gpu(machine, precision, advised_type):
    """This holds for every processor; it was measured on one with avx512_fp16."""
    slow = {one.key: one for one in cure("slow", setting(training__precision=precision), machine)}
    assert (slow["training.precision"].value if "training.precision" in slow else None) == advised_type
    if advised_type:
        assert "fp16" in slow["training.precision"].why


def test_halving_is_not_advised_at_one_clip():
    two = setting(training__batch_size=2, training__dynamic_batch_size=True)
    assert chosen(cure("oom", two, LAPTOP))["training.batch_size"] == 1
    assert "training.dynamic_batch_size" not in chosen(cure("oom", two, LAPTOP))
    four = setting(training__batch_size=4)
    assert chosen(cure("oom", four, LAPTOP))["training.dynamic_batch_size"] is True


def test_every_part_with_a_memory_efficient_form_is_named():
    last = setting(training__batch_size=1, model__stem="split")
    assert not cure("oom", last, LAPTOP)
    parts = {"model__max_pool": "plain", "model__temporal_shift": "plain", "model__attention": "dense"}
    worse = setting(training__batch_size=1, model__stem="split", **parts)
    assert apply_advice(worse, cure("oom", worse, LAPTOP)) == last


def test_out_of_memory_advice_follows_the_documentation():
    """Reduce batch size, increase gradient accumulation steps, enable mixed precision."""
    got = chosen(cure("oom", setting(training__precision="fp32"), LAPTOP))
    assert got["training.batch_size"] == 4
    assert got["training.gradient_accumulation_steps"] == 8
    assert got["training.precision"] == "bf16"
    odd = chosen(cure("oom", setting(training__batch_size=9, training__gradient_accumulation_steps=1), LAPTOP))
    assert (odd["training.batch_size"], odd["training.gradient_accumulation_steps"]) == (3, 3)


def test_high_ram_advice_follows_the_documentation():
    """Reduce number of workers, decrease cache sizes, enable memory tracking."""
    before = setting(data__num_workers=4, training__enable_memory_tracking=False)
    assert chosen(cure("ram", before, LAPTOP)) == {
        "data.num_workers": 2, "data.prefetch_batches": 1, "data.chunk_size": 8, "model.cache_size_limit_mb": 512,
        "training.enable_memory_tracking": True,
    }  # fmt: skip


def test_slow_training_advice_follows_the_documentation():
    """Adjust chunk sizes, optimize data loading, balance memory vs. speed."""
    before = setting(data__chunk_size=4, data__num_workers=0, model__enable_feature_caching=False)
    got = chosen(cure("slow", before, LAPTOP, clips=100))
    assert got["data.chunk_size"] == 32
    assert got["data.num_workers"] == 6
    assert got["model.enable_feature_caching"] is True
    assert got["training.recompute"] == "stage"
    cpu = Machine(cores=2, ram_free_bytes=8 * GIB, ram_limit_bytes=8 * GIB)
    assert chosen(cure("slow", before, cpu))["training.precision"] == "fp32"
    assert "data.num_workers" not in chosen(cure("slow", setting(data__num_workers=5), cpu)), "never fewer"


TINY = ["model.base_channels=8", "model.num_frames=4", "data.frame_size=32", "training.precision=fp32"]


def tiny_arguments(*more):
    return [*[word for pair in TINY for word in ("--set", pair)], *map(str, more)]


def test_measured_step_has_plausible_bytes():
    """A clip of 8 x 112 x 112 keeps at least the outputs of the stem's convolution and norm.

    Each has 8 x 16 x 56 x 56 fp32 numbers. Free memory that the C library holds does not hide them.
    """
    held = [torch.empty(2**16, dtype=torch.uint8) for _ in range(1000)]
    del held
    small = setting(
        model__base_channels=16, model__num_frames=8, data__frame_size=112, training__precision="fp32",
        training__recompute="none",
    )  # fmt: skip
    need = measure_step_need(small, torch.device("cpu"))
    assert 2 * 8 * 16 * 56 * 56 * 4 < need.per_clip_bytes < 64 * MIB
    assert 0 <= need.fixed_bytes < GIB
    assert need.bytes_for(3) - need.bytes_for(1) == 2 * need.per_clip_bytes


def test_step_that_does_not_fit_prints_one_line_with_the_cure(monkeypatch, capsys):
    def allocate(*_):
        return torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr("models.training.step_need._measured", allocate)
    arguments = tiny_arguments("--num-classes", 7)
    assert advisor.main(arguments) == 6
    line = capsys.readouterr().err
    command, purpose, _ = line.partition(" to see what to change")
    assert purpose
    assert line.startswith("error: out of memory: a step of two clips does not fit; run python -m models.training")
    words = shlex.split(command.partition("python -m models.training.advisor ")[2])
    assert words[:2] == ["--symptom", "oom"]
    assert sorted(words[2:]) == sorted(arguments), "it advises about the setting that did not fit"


def test_advisor_prints_the_reasons_and_a_working_training_command(tmp_path, capsys, monkeypatch):
    out = tmp_path / "advised.yml"
    monkeypatch.setattr(Machine, "current", lambda: LAPTOP)
    monkeypatch.setattr(advisor, "advise", lambda *_: fit_machine(Settings(), LAPTOP, None, NEED))
    assert advisor.main(["--set", "training.epochs=3", "--set", "training.batch_size=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "8 cores, 12.00 GiB of 16.00 GiB RAM free, GPU, 4.00 GiB free"
    assert "divides the effective batch 32 and fits 3.20 GiB" in " ".join(lines)
    command = lines[-1].split()
    assert command[:3] == ["python", "train_efficient_model.py", "--set"], "both commands have the same default"
    assert command[-2:] == ["--data-dir", "DIR"]
    assert command.count("training.epochs=3") == command.count("training.batch_size=16") == 1
    assert "training.batch_size=4" not in command
    assert advisor.main(["--apply", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"python train_efficient_model.py --config {out} --data-dir DIR"
    assert load_settings(out).training.batch_size == 16


@pytest.mark.parametrize("symptom", ["oom", "ram", "slow"])
def test_printed_pairs_are_accepted_by_the_trainer(symptom, capsys):
    """The last line, read by the parser of ``--set``, gives the advised setting."""
    assert advisor.main(tiny_arguments("--symptom", symptom)) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    pairs = [word for option, word in pairwise(words) if option == "--set"]
    assert load_settings(advisor.DEFAULT_CONFIG, parse_overrides(pairs))


def test_advisor_takes_the_options_of_the_trainer_and_prints_them(tmp_path, capsys, monkeypatch):
    """The advisor works in any directory, and the printed command needs no other argument."""
    clips = {f"{split}{label}": (split, gloss) for split in ("train", "val") for label, gloss in enumerate("ab")}
    for name in clips:
        write_video(tmp_path / "data" / "videos" / f"{name}.mp4", 4)
    data = write_directory(tmp_path / "data", clips, ["a", "b"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    import train_efficient_model

    assert advisor.main(["--data-dir", str(data), "--num-classes", "2", "--symptom", "oom"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    options = train_efficient_model._parser().parse_args(words[2:])
    settings = train_efficient_model._settings(options)
    assert (settings.data.dir, settings.model.num_classes, settings.training.batch_size) == (data, 2, 4)
    assert "DIR" not in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere.yml"], "cannot read configuration nowhere.yml"),
        (["--set", "training"], "is not KEY=VALUE; write it like --set section.key=4"),
        (["--symptom", "ram", "--apply", "/nowhere/x.yml"], "--apply /nowhere/x.yml: cannot be written: No such file"),
        (["--set", "data.dir=/nowhere"], "/nowhere"),
    ],
)
def test_user_errors_print_one_line(arguments, words, capsys):
    assert advisor.main([*arguments, "--no-measure"]) == 2
    assert words in capsys.readouterr().err


def test_advisor_prints_when_there_is_nothing_to_change():
    file = io.StringIO()
    advisor.show([], LAPTOP, file)
    assert file.getvalue().endswith("nothing to change\n")


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["fp32", "block", "none"])))
def test_values_are_written_as_yaml_reads_them(value):
    assert yaml.safe_load(advisor.yaml_text(value)) == value
