"""The streaming command in this process on a checkpoint and a video: its output, and each error in one line."""

import io
import re
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import yaml
from clip_files import write_video
from PIL import Image
from rich.console import Console

from models.config import ModelConfig, Settings, working_size
from models.data.loading.transforms import centre_crop
from models.data.video.live import LiveFrame, LiveVideo, Source, open_live
from models.networks.efficient import build_recogniser
from models.streaming import StreamingRecogniser, main
from models.streaming_display import StreamDisplay

SETTINGS = Settings.model_validate(
    {
        "model": {
            "num_classes": 6, "base_channels": 8, "num_frames": 4, "causal": True, "attention": "sparse",
            "attention_global_frames": 0,
        },
        "data": {"frame_size": 32},
    }
)  # fmt: skip


def write_checkpoint(path, settings=SETTINGS, beside=True):
    torch.manual_seed(0)
    model = build_recogniser(settings.model)
    torch.nn.init.normal_(model.classifier.weight)
    torch.save({"parts": {"model": model.state_dict()}}, path)
    if beside:
        path.with_name("config.yml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return model


@pytest.fixture(scope="module")
def stream_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("streaming")
    write_checkpoint(root / "checkpoint.pt")
    write_video(root / "clip.mp4", 20)
    (root / "class_list.txt").write_text("".join(f"{label}\tsign{label}\n" for label in range(5)))
    return root


def run(stream_dir, *arguments, video="clip.mp4", checkpoint="checkpoint.pt"):
    return main(
        ["--checkpoint", str(stream_dir / checkpoint), "--video", str(stream_dir / video), *map(str, arguments)]
    )


def test_prints_the_running_top_5_and_the_latency(stream_dir, capsys):
    assert run(stream_dir, "--stride", 5, "--classes", stream_dir) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [int(re.match(r"frame +(\d+) ", line)[1]) for line in lines] == [0, 5, 10, 15]
    for line in lines:
        signs = re.findall(r"(sign\d|class 5) (\d\.\d\d)", line)
        assert len({name for name, _ in signs}) == 5
        values = [float(value) for _, value in signs]
        assert values == sorted(values, reverse=True)
        assert line.endswith(" ms)")
    assert re.fullmatch(
        r"4 frames \(one frame in 5 of 25 per second\): [\d.]+ ms per frame, 95 % within [\d.]+ ms", summary
    )


def test_prints_the_probabilities_of_the_network(stream_dir, capsys):
    assert run(stream_dir, "--stride", 1) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    model = write_checkpoint(stream_dir / "again.pt", beside=False)
    with open_live(Source.file(stream_dir / "clip.mp4")) as video:
        frames = [torch.from_numpy(frame.frame_HWC) for frame in video.frames(1, working_size(32))]
    clip_TCHW = centre_crop(torch.stack(frames).permute(0, 3, 1, 2), 32)
    probabilities_K = StreamingRecogniser(model).push(clip_TCHW)[-1].softmax(0)
    best = int(probabilities_K.argmax())
    assert f"class {best} {probabilities_K[best]:.2f}" in last


def test_ctrl_c_ends_the_stream_with_its_summary(stream_dir, capsys, monkeypatch):
    def two_and_ctrl_c(video, stride, side):
        yield from (LiveFrame(number, None, np.zeros((side, side, 3), np.uint8)) for number in (0, 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveVideo, "frames", two_and_ctrl_c)
    assert run(stream_dir) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 frames (")


def test_guessed_pictures_are_counted_and_an_image_is_refused(stream_dir, tmp_path, capsys):
    sound = av.VideoFrame(64, 64, "yuv420p")
    damaged = SimpleNamespace(is_corrupt=True)
    video = object.__new__(LiveVideo)
    video._container = SimpleNamespace(
        demux=lambda stream: [
            SimpleNamespace(decode=lambda: [sound, damaged]),
            SimpleNamespace(decode=lambda: [damaged]),
        ]
    )
    video._stream, video.damaged_packets, video.damaged_frames = None, 0, 0
    assert len(list(video._decoded())) == 3
    assert video.damaged_frames == 2
    whole = write_video(tmp_path / "whole.mp4", 20)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "whole.mkv"), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 3 // 4])
    assert run(stream_dir, video=tmp_path / "whole.mkv") == 0
    assert capsys.readouterr().err == ""
    assert run(stream_dir, video=tmp_path / "cut.mkv") == 0
    assert re.fullmatch(r"the file was cut off; missing at its end: \d+ frames\n", capsys.readouterr().err)
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    assert run(stream_dir, video=tmp_path / "0.png") == 2
    assert "0.png is an image; name a video" in error_line(capsys)
    assert main(["--checkpoint", str(stream_dir / "checkpoint.pt"), "--video", "https://example.com/a.mp4"]) == 2
    assert "is an address" in error_line(capsys)


def test_damaged_packet_does_not_end_the_stream(stream_dir, tmp_path, capsys):
    path = write_video(tmp_path / "clip.mp4", 20, gop=5, b_frames=0)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start, size = packets[7]
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    assert run(stream_dir, "--stride", 1, video=path) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 19 + 1  # and the summary
    assert err == "skipped damaged packets of the stream: 1\n"
    for start, size in packets:
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    assert run(stream_dir, "--stride", 1, video=path) == 2
    assert "cannot read" in capsys.readouterr().err


def test_terminal_shows_a_live_table():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with StreamDisplay({1: "[book]"}, 4, None, console) as display:
        display.show(LiveFrame(8, None, None), torch.tensor([0.1, 0.7, 0.2]), 0.012)
    shown = console.file.getvalue()
    assert "[book]" in shown
    assert "class 2" in shown
    assert "1 frames (one frame in 4): 12.0 ms per frame" in shown


def error_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_user_errors_print_one_line(stream_dir, capsys):
    assert run(stream_dir, "--stride", 0) == 2
    assert "--stride 0: use 1" in error_line(capsys)
    assert run(stream_dir, video="none.mp4") == 2
    assert "No such file" in error_line(capsys)
    assert run(stream_dir, "--classes", "/nosuch") == 2
    assert "cannot read data directory /nosuch: No such file or directory; check --classes" in error_line(capsys)
    (stream_dir / "bare").mkdir()
    assert run(stream_dir, "--classes", stream_dir / "bare") == 2
    assert "holds no class list" in error_line(capsys)
    assert run(stream_dir, "--set", "model.base_channels=16") == 2
    assert "backbone.conv1.weight is (8, 3, 7, 7), expected (16, 3, 7, 7)" in error_line(capsys)
    assert run(stream_dir, checkpoint="clip.mp4") == 2
    assert "not a file of tensors" in error_line(capsys)
    torch.save({"parts": {}}, stream_dir / "empty.pt")
    assert run(stream_dir, checkpoint="empty.pt") == 2
    assert "holds no network" in error_line(capsys)


def test_network_that_is_not_causal_is_refused(tmp_path, stream_dir, capsys):
    write_checkpoint(tmp_path / "checkpoint.pt", Settings(model=ModelConfig(base_channels=8)))
    assert main(["--checkpoint", str(tmp_path / "checkpoint.pt"), "--video", str(stream_dir / "clip.mp4")]) == 2
    assert "was not built with model.causal: true" in error_line(capsys)


def test_setting_comes_from_option_checkpoint_or_neighbour(tmp_path, stream_dir, capsys):
    """The setting comes from --config, then from the checkpoint, then from the config.yml beside it."""
    arguments = ["--video", str(stream_dir / "clip.mp4"), "--stride", "10", "--checkpoint"]
    bare, own = tmp_path / "bare.pt", tmp_path / "own.pt"
    write_checkpoint(bare, beside=False)
    assert main([*arguments, str(bare)]) == 2
    assert "does not contain its configuration; pass its config.yml with --config" in error_line(capsys)
    content = torch.load(bare, weights_only=True)
    torch.save(content | {"settings": SETTINGS.model_dump(mode="json")}, own)
    assert main([*arguments, str(own)]) == 0
    assert main([*arguments, str(bare), "--config", str(stream_dir / "config.yml")]) == 0
    (tmp_path / "other.yml").write_text("model: {base_channels: 16}")
    assert main([*arguments, str(own), "--config", str(tmp_path / "other.yml")]) == 2
