"""Recognition of an endless stream, and its command: ``python -m models.streaming --checkpoint F --video F``.

T frame, C channel, H height, W width, D feature, S remembered and new frame, K sign class
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.config import working_size
from models.data.loading.transforms import centre_crop
from models.data.video.live import LiveVideo, Source, open_live
from models.data.wlasl.files import list_directory, load_class_list
from models.layers.temporal_shift import FrameHistory
from models.networks.efficient import EfficientRecogniser, load_recogniser
from models.streaming_display import StreamDisplay
from slr_bench.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError, DataError, SlrBenchError
from slr_bench.files import parse_overrides
from slr_bench.units import warn_in_one_line

SIGN_S = 2.4
"""Mean length of a sign video in WLASL (Li et al., WACV 2020). Training spreads ``num_frames`` over a clip."""


class StreamingRecogniser:
    """What a causal network says at every frame of a stream, a few frames at a time.

    Equal to the network's ``at_every_frame`` on the whole video, however it is cut into pieces (rounding apart: other
    batch sizes, other kernels). Between pieces it remembers the last frame's first eighth of the channels for every
    shifted convolution, the keys and values of the attention's window and the features of ``num_frames - 1`` frames:
    bytes that depend on the network and the frame size alone. A frame costs one frame of the backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        """``model`` is put into evaluation. Several recognisers may share it, in one thread.

        Raises:
            ConfigError: the network sees later frames.
        """
        if not getattr(model, "causal", False):
            raise ConfigError(
                "the network was not built with model.causal: true: its shift, attention and pyramid see later frames, "
                "which a stream does not have yet; train one with --set model.causal=true "
                "--set model.attention=sparse --set model.attention_global_frames=0"
            )
        self.model = cast(EfficientRecogniser, model.eval())
        attention = self.model.attention
        window = 0 if attention is None else attention.window
        self._shifted = [(conv, FrameHistory(1, dim=0)) for conv in self.model.backbone.shifted_convolutions()]
        self._keys, self._values = FrameHistory(window, dim=2), FrameHistory(window, dim=2)
        self._features = FrameHistory(self.model.num_frames - 1, dim=1)
        self._frame_shape: torch.Size | None = None
        self.frames_pushed = 0
        """Since the stream began."""

    def push(self, frames_TCHW: Tensor) -> Tensor:
        """The stream's next frames, one or more (uint8, or float in 0..1), to the ``logits_TK`` at each of them.

        Raises:
            ConfigError: no frame, or frames of another size than those before.
        """
        if len(frames_TCHW) == 0:
            raise ConfigError("no frame to look at: push one or more, (frames, channels, height, width)")
        if self._frame_shape not in (None, frames_TCHW.shape[1:]):
            raise ConfigError(
                f"a frame of {list(frames_TCHW.shape[1:])} after frames of {list(self._frame_shape or ())} (channels, "
                "height, width); scale a stream's frames to one size"
            )
        self._frame_shape = frames_TCHW.shape[1:]
        self.frames_pushed += len(frames_TCHW)
        with torch.no_grad(), self._remembering_frames():
            x_1TD = self._attended(self.model.backbone(frames_TCHW.unsqueeze(0)))
            x_1SD = self._features.append(x_1TD)
            windows_1TLD = self.model.pyramid.ending_at_each(x_1SD, self._seen(x_1SD.shape[1]), self.model.num_frames)
            return self.model.classify(windows_1TLD)[0]

    @property
    def device(self) -> torch.device:
        """Where the network lies, and frames must."""
        return self.model.classifier.weight.device

    def reset(self) -> None:
        """The next frame begins another video, of the same frame size."""
        for remembered in self._remembered():
            remembered.clear()
        self.frames_pushed = 0

    def state(self) -> list[Tensor]:
        """All that is kept between pieces; the same tensors for as long as the stream runs."""
        return [remembered.frames for remembered in self._remembered() if remembered.frames is not None]

    def _attended(self, x_1TD: Tensor) -> Tensor:
        attention = self.model.attention
        if attention is None:
            return x_1TD
        q, k, v = attention.qkv(x_1TD)
        k, v = self._keys.append(k), self._values.append(v)
        return attention.finish(x_1TD, attention.attend(q, k, v, self._seen(k.shape[2])))

    def _seen(self, frames: int) -> Tensor:
        """Which of the last ``frames`` frames there were: (1, S), False before the stream's beginning."""
        return (torch.arange(frames, device=self.device) >= frames - self.frames_pushed)[None]

    def _remembered(self) -> list[FrameHistory]:
        return [self._keys, self._values, self._features, *(past for _, past in self._shifted)]

    @contextmanager
    def _remembering_frames(self) -> Iterator[None]:
        for conv, past in self._shifted:
            conv.history = past
        try:
            yield
        finally:
            for conv, _ in self._shifted:
                conv.history = None


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code. A mistake of the user's ends in one line on stderr."""
    options = _parser().parse_args(arguments)
    warn_in_one_line()
    try:
        _run(options)
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted before the stream began", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.streaming",
        description="Recognise signs in a running video with a network that was trained with model.causal: true.",
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="F", help="checkpoint.pt of train_efficient_model.py")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", metavar="F", help="video file; - reads a video from standard input")
    source.add_argument("--camera", type=int, metavar="N", help="camera number: /dev/videoN")
    add("--stride", type=int, metavar="K", help=f"look at every K-th frame (so that model.num_frames span {SIGN_S} s)")
    add("--classes", type=Path, metavar="D", help="data directory with the class list (the one of the training)")
    add("--config", type=Path, metavar="C", help="configuration of the checkpoint, where that does not hold its own")
    add("--set", action="append", default=[], metavar="A.B=C", help="change one key of the configuration; repeatable")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.stride is not None and options.stride < 1:
        raise ConfigError(f"--stride {options.stride}: use 1 for every frame, or more")
    model, settings = load_recogniser(options.checkpoint, options.config, parse_overrides(options.set))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recogniser = StreamingRecogniser(model.to(device))
    glosses = _glosses(options.classes, settings.data.dir)
    with open_live(_source(options)) as video:
        stride = options.stride or default_stride(video.fps, settings.model.num_frames)
        # Ctrl-C is how one leaves a camera: the stream ends there, with its summary.
        with StreamDisplay(glosses, stride, video.fps) as display, suppress(KeyboardInterrupt):
            _recognise(recogniser, video, stride, settings.data.frame_size, display)
        if video.damaged_packets:
            print(f"damaged packets of the stream that were skipped: {video.damaged_packets}", file=sys.stderr)


def _recognise(
    recogniser: StreamingRecogniser, video: LiveVideo, stride: int, frame_size: int, display: StreamDisplay
) -> None:
    for frame in video.frames(stride, working_size(frame_size)):
        start_s = time.perf_counter()
        frames_TCHW = centre_crop(torch.from_numpy(frame.frame_HWC).permute(2, 0, 1).unsqueeze(0), frame_size)
        logits_TK = recogniser.push(frames_TCHW.to(recogniser.device))
        probabilities_K = logits_TK[-1].float().softmax(0).cpu()
        display.show(frame, probabilities_K, time.perf_counter() - start_s)


def default_stride(fps: float | None, num_frames: int) -> int:
    """Every how many frames to look, so that ``num_frames`` of them span a sign as in training, on average."""
    return max(1, round((fps or 25.0) * SIGN_S / num_frames))


def _source(options: argparse.Namespace) -> Source:
    if options.video is None:
        return Source.camera(options.camera)
    return Source.descriptor() if options.video == "-" else Source.file(Path(options.video))


def _glosses(named: Path | None, trained_on: Path | None) -> dict[int, str]:
    """Gloss by class id, from the directory that is named or, if it is still there, that of the training."""
    directory = named or (trained_on if trained_on and trained_on.is_dir() else None)
    if directory is None:
        return {}
    glosses = load_class_list(directory, list_directory(directory, "--classes" if named else "data.dir"))
    if named and not glosses:
        raise DataError(f"--classes {named} holds no class list (*class_list*.txt); use the training's data directory")
    return glosses


if __name__ == "__main__":
    sys.exit(main())
