"""Recognises signs in an endless stream: ``python -m models.streaming --checkpoint F --video F``.

T frame, C channel, H height, W width, D feature, S remembered and new frame, K sign class
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.command import (
    OneLineParser,
    add_checkpoint_options,
    add_classes_option,
    class_names,
    local_path,
    run_command,
)
from models.config import working_size
from models.data.loading.transforms import centre_crop
from models.data.video.live import LiveVideo, Source, open_live
from models.data.video.reader import open_video
from models.layers.placement import default_device
from models.layers.temporal import FrameHistory
from models.networks.efficient import EfficientRecogniser
from models.networks.trained import load_recogniser
from models.streaming_display import StreamDisplay
from slr_bench.errors import EXIT_BROKEN_PIPE, EXIT_OK, ConfigError, DataError
from slr_bench.files import parse_overrides
from slr_bench.units import format_count

SIGN_S = 2.4
"""Mean length of a sign video in WLASL (Li et al., WACV 2020). Training spreads ``num_frames`` over a clip."""


class StreamingRecogniser:
    """Runs a causal network on a stream, a few frames at a time, and returns its logits at every frame.

    The logits equal the network's ``at_every_frame`` on the whole video, however it is split into pieces, except for
    rounding: other batch sizes use other kernels. Between pieces it keeps the last frame's first eighth of the channels
    for every shifted convolution, the keys and values of the attention's window, and the features of ``num_frames - 1``
    frames. These bytes depend only on the network and the frame size. A frame costs one frame of the backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        """Put ``model`` into evaluation mode. Several recognisers may share it within one thread.

        Raises:
            ConfigError: the network is not causal.
        """
        if not getattr(model, "causal", False):
            raise ConfigError(
                "the network was not built with model.causal: true: its shift, attention and pyramid use later frames, "
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
        """Frames since the beginning of the stream."""

    def push(self, frames_TCHW: Tensor) -> Tensor:
        """Return the ``logits_TK`` at each of the next frames of the stream, one or more (uint8, or float in 0..1).

        Raises:
            ConfigError: there is no frame, or the frames have another size than those before.
        """
        if len(frames_TCHW) == 0:
            raise ConfigError("push needs at least one frame, (frames, channels, height, width); got none")
        if self._frame_shape not in (None, frames_TCHW.shape[1:]):
            raise ConfigError(
                f"a frame of {list(frames_TCHW.shape[1:])} after frames of {list(self._frame_shape or ())} (channels, "
                "height, width); scale a stream's frames to one size"
            )
        self._frame_shape = frames_TCHW.shape[1:]
        self.frames_pushed += len(frames_TCHW)
        with torch.no_grad(), self._with_histories():
            x_1TD = self._attended(self.model.backbone(frames_TCHW.unsqueeze(0)))
            x_1SD = self._features.append(x_1TD)
            keep_1S = self._is_frame(x_1SD.shape[1])
            windows_1TLD = self.model.pyramid.ending_at_each(x_1SD, keep_1S, self.model.num_frames)
            return self.model.classify(windows_1TLD)[0]

    @property
    def device(self) -> torch.device:
        """Device of the network; frames must be on it."""
        return self.model.classifier.weight.device

    def reset(self) -> None:
        """Start another video of the same frame size with the next frame."""
        for history in self._histories():
            history.clear()
        self.frames_pushed = 0

    def state(self) -> list[Tensor]:
        """Return all that is kept between pieces; the tensors stay the same while the stream runs."""
        return [history.frames for history in self._histories() if history.frames is not None]

    def _attended(self, x_1TD: Tensor) -> Tensor:
        attention = self.model.attention
        if attention is None:
            return x_1TD
        q, k, v = attention.qkv(x_1TD)
        k, v = self._keys.append(k), self._values.append(v)
        return attention.finish(x_1TD, attention.attend(q, k, v, self._is_frame(k.shape[2])))

    def _is_frame(self, frames: int) -> Tensor:
        """Return which of the last ``frames`` positions hold a frame: (1, S), False before the stream's beginning."""
        return (torch.arange(frames, device=self.device) >= frames - self.frames_pushed)[None]

    def _histories(self) -> list[FrameHistory]:
        return [self._keys, self._values, self._features, *(history for _, history in self._shifted)]

    @contextmanager
    def _with_histories(self) -> Iterator[None]:
        for conv, history in self._shifted:
            conv.history = history
        try:
            yield
        finally:
            for conv, _ in self._shifted:
                conv.history = None


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code. Errors that the user can mend print one line on stderr."""
    code = run_command(lambda: _run(_parser().parse_args(arguments)), "the stream had not begun")
    return EXIT_OK if code == EXIT_BROKEN_PIPE else code  # a reader that has seen enough ends a stream


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.streaming",
        description="Recognise signs in a running video with a network that was trained with model.causal: true.",
    )
    add_checkpoint_options(parser)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", metavar="F", help="video file; - reads a video from standard input")
    source.add_argument("--camera", type=int, metavar="N", help="camera number: /dev/videoN")
    add("--stride", type=int, metavar="K", help=f"use every K-th frame [so that model.num_frames span {SIGN_S} s]")
    add_classes_option(parser)
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.stride is not None and options.stride < 1:
        raise ConfigError(f"--stride {options.stride}: use 1 for every frame, or more")
    model, settings, trained = load_recogniser(options.checkpoint, options.config, parse_overrides(options.set))
    recogniser = StreamingRecogniser(model.to(default_device()))
    names = class_names(trained, options.classes, settings.data.dir)
    with open_live(_source(options)) as video:
        stride = options.stride or default_stride(video.fps, settings.model.num_frames)
        # Ctrl-C is the usual way to leave a camera, so the stream ends there with its summary.
        missing = 0
        with StreamDisplay(names, stride, video.fps) as display, suppress(KeyboardInterrupt):
            _recognise(recogniser, video, stride, settings.data.frame_size, display)
            missing = _missing_frames(options.video)
        if missing:
            print(f"the file was cut off; missing at its end: {format_count(missing, 'frame')}", file=sys.stderr)
        if video.damaged_frames:
            count = format_count(video.damaged_frames, "damaged picture")
            print(f"the decoder replaced {count} of the stream by guesses", file=sys.stderr)
        if video.damaged_packets:
            print(f"skipped damaged packets of the stream: {video.damaged_packets}", file=sys.stderr)


def _recognise(
    recogniser: StreamingRecogniser, video: LiveVideo, stride: int, frame_size: int, display: StreamDisplay
) -> None:
    for frame in video.frames(stride, working_size(frame_size)):
        start_s = time.perf_counter()
        frames_TCHW = centre_crop(torch.from_numpy(frame.frame_HWC).permute(2, 0, 1).unsqueeze(0), frame_size)
        logits_TK = recogniser.push(frames_TCHW.to(recogniser.device))
        probabilities_K = logits_TK[-1].float().softmax(0).cpu()
        display.show(frame, probabilities_K, time.perf_counter() - start_s)


def _missing_frames(name: str | None) -> int:
    """Return the number of frames that a file announces and does not hold; 0 for other sources."""
    if name is None or not Path(name).is_file():
        return 0
    try:
        with open_video(Path(name)) as video:
            return video.timeline.missing
    except DataError:  # the stream was shown as far as it goes
        return 0


def default_stride(fps: float | None, num_frames: int) -> int:
    """Return the stride at which ``num_frames`` frames span a sign, as they do in training on average."""
    return max(1, round((fps or 25.0) * SIGN_S / num_frames))


def _source(options: argparse.Namespace) -> Source:
    if options.video is None:
        return Source.camera(options.camera)
    return Source.descriptor() if options.video == "-" else Source.file(local_path(options.video))


if __name__ == "__main__":
    sys.exit(main())
