"""Exported files: ONNX Runtime and ``torch.export.load`` give the network's logits; the file describes its input."""

import importlib.util
import json

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from clip_files import write_video
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models import recognise
from models.config import Settings
from models.export import DESCRIPTION_NAME, describe, main, onnx_forms
from models.networks.efficient import build_recogniser

# B clip, T frame, C channel, H height, W width, K sign class

GLOSSES = ["book", "drink", "Straße", "手"]
REFERENCE = {"temporal_shift": "memory_efficient", "max_pool": "memory_efficient", "attention": "chunked"}
NETWORKS = {
    "small": {"num_frames": 2, "attention": "none", "pyramid_levels": [1]},
    "reference": REFERENCE | {"stem": "split"},
    "focus": {"region_focus": "motion", "focus_size": 36},
    "manifest": {"region_focus": "manifest", "focus_size": 36},
    "fewer frames": {"frame_budget": 3, "token_merging": 1, "pyramid_levels": [1, 2], "attention": "auto"},
    "causal": {"causal": True, "attention": "sparse", "attention_window": 2, "attention_global_frames": 0},
    "group norm": {"norm": "group", "temporal_shift": "none", "attention": "none"},
    "i3d": {"network": "i3d", "num_frames": 8},
    "s3d": {"network": "s3d", "num_frames": 8},
    "r3d_18": {"network": "r3d_18"},
}


def one_of_them(name):
    """Return the parameters of a test: one network that is quick to export, and the others in the slow tests."""
    return [name, *(pytest.param(other, marks=pytest.mark.slow) for other in NETWORKS if other != name)]


def settings_of(**model):
    small = {} if "network" in model else {"base_channels": 8, "attention_heads": 2}
    values = {"num_classes": len(GLOSSES), "num_frames": 4} | small | model
    return Settings.model_validate({"model": values, "data": {"frame_size": 40}, "training": {"precision": "fp32"}})


def build(settings):
    """Build a network in which nothing is hidden: neither attention nor statistics are the identity."""
    torch.manual_seed(0)
    model = build_recogniser(settings.model).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.2, 0.5)
    if getattr(model, "attention", None) is not None:
        nn.init.normal_(model.attention.project.weight, std=0.1)
    return model


def clips(settings, count):
    """A square that moves over noise, so that region focus has something to find."""
    size, dice = settings.data.frame_size, torch.Generator().manual_seed(count)
    shape = (count, settings.model.num_frames, 3, size, size)
    clips_BTCHW = torch.randint(0, 40, shape, dtype=torch.uint8, generator=dice)
    for clip in range(count):
        for frame in range(settings.model.num_frames):
            place = 4 + 2 * clip + 3 * frame
            clips_BTCHW[clip, frame, :, place : place + 10, 10:20] = 200
    return clips_BTCHW


def load_onnx(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clips_BTCHW: torch.from_numpy(session.run(None, {"clips": clips_BTCHW.numpy()})[0])


def assert_same(found_BK, expected_BK, bound):
    """``bound`` is a fraction of the largest logit."""
    assert found_BK.shape == expected_BK.shape
    assert (found_BK - expected_BK).abs().max() <= bound * expected_BK.abs().max()


def write_checkpoint(path, name, glosses=GLOSSES):
    settings = settings_of(**NETWORKS[name])
    model = build(settings)
    content = {
        "format": "slr-recogniser-checkpoint", "settings": settings.model_dump(mode="json"), "glosses": glosses,
        "parts": {"model": model.state_dict()},
    }  # fmt: skip
    torch.save(content, path)
    return settings, model


def exports_equal(name, suffix, tmp_path, capfd):
    settings, model = write_checkpoint(tmp_path / "c.pt", name)
    path = tmp_path / f"model{suffix}"
    assert main(["--checkpoint", str(tmp_path / "c.pt"), "--to", str(path)]) == 0
    out, err = capfd.readouterr()
    assert err == ""  # the exporters of torch warn and log
    assert out.startswith(f"wrote {path} (")
    assert len(out.splitlines()) == 1
    network = load_onnx(path) if suffix == ".onnx" else torch.export.load(path).module()
    # Rounding in fp32. Focused pixels between two levels may round the other way.
    bound = 1e-3 if settings.model.region_focus == "motion" else 1e-5
    with torch.no_grad():
        for count in (1, 2, 5):  # the exporter has seen two
            clips_BTCHW = clips(settings, count)
            assert_same(network(clips_BTCHW), model(clips_BTCHW), bound)
    return path, settings


@pytest.mark.parametrize("name", one_of_them("small"))
def test_onnx_runtime_gives_the_logits_of_the_network(name, tmp_path, capfd):
    path, settings = exports_equal(name, ".onnx", tmp_path, capfd)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    description = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(description["glosses"]) == GLOSSES
    assert json.loads(description["input"])["shape"] == ["B", settings.model.num_frames, 3, 40, 40]
    assert description["pixels"].startswith("scale the ")
    assert {file.name for file in tmp_path.iterdir()} == {"c.pt", path.name}  # weights lie in the file itself


@pytest.mark.parametrize("name", one_of_them("small"))
def test_a_loaded_program_gives_the_logits_of_the_network(name, tmp_path, capfd):
    path, _ = exports_equal(name, ".pt2", tmp_path, capfd)
    extra = {DESCRIPTION_NAME: ""}
    torch.export.load(path, extra_files=extra)
    description = json.loads(extra[DESCRIPTION_NAME])
    assert description["glosses"] == GLOSSES
    assert description["input"]["channel_order"] == "rgb"
    assert (description["version"], description["format"]) == (1, "slr-recogniser")


def test_the_description_suffices_to_prepare_a_clip(tmp_path, capsys):
    """A second implementation, by the words of the file: frames, scaling and cutting are those of recognition."""
    _, model = write_checkpoint(tmp_path / "c.pt", "small")
    description = describe(settings_of(**NETWORKS["small"]), model, dict(enumerate(GLOSSES)))
    assert description["frames"].startswith("the middle frames of 2 equal segments of the clip")
    assert description["pixels"] == "scale the middle square to 46 x 46 (bilinear), then cut its middle 40 x 40"
    assert description["normalisation"]["formula"] == "(x / 255 - mean) / std"
    video = write_video(tmp_path / "v.mp4", 21)
    with av.open(str(video)) as container:
        frames = [
            frame.reformat(46, 46, "rgb24", interpolation="BILINEAR").to_ndarray()
            for frame in container.decode(video=0)
        ]
    chosen = np.stack([frames[int((t + 0.5) * 21 / 2)] for t in range(2)])[:, 3:43, 3:43]
    clip_1TCHW = torch.from_numpy(chosen).permute(0, 3, 1, 2)[None]
    with torch.no_grad():
        probabilities_K = model(clip_1TCHW)[0].softmax(0)
    assert recognise.main(["--checkpoint", str(tmp_path / "c.pt"), str(video), "--top", "4", "--json"]) == 0
    found = {sign["class"]: sign["probability"] for sign in json.loads(capsys.readouterr().out)["clips"][0]["top"]}
    assert [found[label] for label in range(4)] == pytest.approx(probabilities_K.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("model.pb", "model.pb: the name must end in .onnx or .pt2"),
        ("none/model.onnx", "none does not exist; make it"),
    ],
)
def test_bad_input_prints_one_line_and_writes_nothing(tmp_path, capsys, to, words):
    write_checkpoint(tmp_path / "c.pt", "small")
    assert main(["--checkpoint", str(tmp_path / "c.pt"), "--to", str(tmp_path / to)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pt"]


def test_a_missing_package_is_named_with_the_command(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("models.export.find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert main(["--checkpoint", str(tmp_path / "c.pt"), "--to", str(tmp_path / "m.onnx")]) == 2
    assert capsys.readouterr().err == (
        "error: .onnx files need onnxscript, not installed here; pip install onnxscript, or write a .pt2 file\n"
    )


def test_an_earlier_file_stays_when_the_export_fails(tmp_path, capsys, monkeypatch):
    write_checkpoint(tmp_path / "c.pt", "small")
    path = tmp_path / "m.pt2"
    path.write_text("earlier")
    monkeypatch.setattr("models.export._run_pt2", lambda content, clips: torch.zeros(3, 4))
    monkeypatch.setattr("models.export._as_pt2", lambda program, description: b"content")
    assert main(["--checkpoint", str(tmp_path / "c.pt"), "--to", str(path)]) == 2
    assert "gives other logits" in capsys.readouterr().err
    assert path.read_text() == "earlier"


def test_simpler_forms_of_operators_are_torchs_own():
    """Each is compared with the operator itself."""
    forms, aten = onnx_forms(), torch.ops.aten
    for length in (1, 4, 5):
        x = torch.rand(2, 3, length)
        assert torch.equal(forms[aten.median.dim](x, -1)[0], x.median(-1).values)
        whole = torch.randint(0, 9, (2, length))
        assert torch.equal(forms[aten.cummax.default](whole, 1)[0], whole.cummax(1).values)
        bounds, wanted = torch.rand(2, length).cumsum(1), torch.rand(2, 7) * length
        assert torch.equal(forms[aten.searchsorted.Tensor](bounds, wanted), torch.searchsorted(bounds, wanted))
