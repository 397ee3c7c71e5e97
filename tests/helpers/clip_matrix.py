"""Small numbered clips in every container, codec, rate and orientation that FFmpeg can write, and damaged copies.

Every frame shows its number (``clip_files.number_shown``): what a file holds is known without trusting any stamp.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clip_files import SIDE, frame_showing

FRAMES = 20
_X264 = {"preset": "veryfast", "crf": "16", "g": "8", "bf": "3"}
_QUIET = {"preset": "ultrafast", "crf": "16"}
_MPEG = {"g": "8", "b": "2M"}
_VPX = {"g": "8", "b": "500k", "deadline": "realtime", "cpu-used": "-8"}  # a fixed speed, whatever the machine does
_UNEVEN_MS = (0, 40, 80, 200, 220, 240, 400, 440, 480, 481, 520, 700, 701, 702, 740, 1000, 1040, 1100, 1101, 1140)


@dataclass(frozen=True)
class Recipe:
    """Everything that the file of a clip depends on."""

    suffix: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    rate: Fraction = Fraction(25)
    times_ms: tuple[int, ...] | None = None
    """Time of each frame; None: at a constant rate."""
    start: int = 0
    """Number of the first frame on the clock of the container."""
    mux: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (SIDE, SIDE)
    sound: str | None = None
    """Codec of a sound track that is longer than the video."""
    matrix: tuple[int, int, int, int] | None = None
    """Display matrix (a, b, c, d): a coded pixel (x, y) is shown at (a x + c y, b x + d y)."""
    replaced: tuple[bytes, bytes] | None = None
    """Bytes of the finished file that are replaced by others."""
    shown: tuple[int, ...] = tuple(range(FRAMES))
    """Numbers of the frames that players show."""

    def write(self, path: Path) -> Path:
        """Write the clip to ``path``."""
        with av.open(str(path), "w", options=self.mux) as container:
            self._write_frames(container)
        if self.replaced:
            content = path.read_bytes()
            assert self.replaced[0] in content
            path.write_bytes(content.replace(*self.replaced))
        return path

    def _write_frames(self, container: av.container.OutputContainer) -> None:
        stream = container.add_stream(self.codec, rate=self.rate, options=dict(self.options))
        (stream.width, stream.height), stream.pix_fmt = self.size, self.pix_fmt
        clock = Fraction(1, 1000) if self.times_ms else 1 / self.rate
        if self.times_ms:
            stream.time_base = stream.codec_context.time_base = clock
        if self.matrix:
            a, b, c, d = (value << 16 for value in self.matrix)
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        sound = container.add_stream(self.sound, rate=48000) if self.sound else None
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(_picture(number, self.size), format="rgb24")
            frame.pts, frame.time_base = self.times_ms[number] if self.times_ms else number + self.start, clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            _write_silence(container, sound)


def _picture(number: int, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    columns = np.arange(width) * SIDE // width
    return np.ascontiguousarray(frame_showing(number, height)[:, columns])


def _write_silence(container: av.container.OutputContainer, stream: av.AudioStream) -> None:
    length = stream.codec_context.frame_size or 1152
    for place in range(0, 48000 * 6 // 5, length):  # 1.2 seconds beside 0.8 seconds of video
        layout, kind = stream.codec_context.layout, stream.codec_context.format
        dtype = np.float32 if kind.name.startswith("flt") else np.int16
        shape = (len(layout.channels), length) if kind.is_planar else (1, length * len(layout.channels))
        frame = av.AudioFrame.from_ndarray(np.zeros(shape, dtype), format=kind.name, layout=layout.name)
        frame.sample_rate, frame.pts, frame.time_base = 48000, place, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _x264(**params: object) -> dict[str, str]:
    fixed = {"scenecut": 0, "threads": 1, "b-adapt": 0}
    return _X264 | {"x264-params": ":".join(f"{key}={value}" for key, value in (fixed | params).items())}


def _x265(**params: object) -> dict[str, str]:
    fixed = {"keyint": 8, "bframes": 3, "log-level": "none", "pools": "none", "frame-threads": 1, "scenecut": 0}
    return _QUIET | {"x265-params": ":".join(f"{key}={value}" for key, value in (fixed | params).items())}


H264 = {
    "plain": _x264(bframes=0),
    "b_frames": _x264(),
    "open_groups": _x264(**{"open-gop": 1}),
    "pyramid": _x264(**{"b-pyramid": "normal", "bframes": 5}),
}


def _codecs() -> Iterator[tuple[str, Recipe]]:
    for suffix in ("mp4", "mov", "mkv", "avi", "ts", "flv", "mpg", "3gp", "wmv"):
        for name, options in H264.items():
            yield f"h264_{name}", Recipe(suffix, "libx264", options)
    for suffix in ("mp4", "mkv", "ts", "mov"):
        yield "hevc_b_frames", Recipe(suffix, "libx265", _x265())
        yield "hevc_open_groups", Recipe(suffix, "libx265", _x265(**{"open-gop": 1}))
    several = {
        "mpeg4": ("mp4", "mkv", "avi", "ts", "mov", "mpg", "wmv"),
        "mpeg2video": ("mpg", "vob", "ts", "mkv", "avi", "m2v"),
        "mpeg1video": ("mpg", "avi", "m1v"),
    }
    for codec, suffixes in several.items():
        for suffix in suffixes:
            yield f"{codec}_plain", Recipe(suffix, codec, _MPEG | {"bf": "0"})
            yield f"{codec}_b_frames", Recipe(suffix, codec, _MPEG | {"bf": "2"})
    for codec, suffixes in {"libvpx": ("webm", "mkv", "avi"), "libvpx-vp9": ("webm", "mkv", "mp4")}.items():
        for suffix in suffixes:
            yield codec, Recipe(suffix, codec, _VPX)
    yield "hidden_frames", Recipe("webm", "libvpx", _VPX | {"g": "60", "auto-alt-ref": "1", "lag-in-frames": "15"})
    av1 = {"preset": "12", "crf": "20", "svtav1-params": "keyint=8:lp=1:lookahead=0"}
    for suffix in ("webm", "mp4"):
        yield "av1", Recipe(suffix, "libsvtav1", av1)
    for codec, suffix in (("mjpeg", "avi"), ("mjpeg", "mov"), ("mjpeg", "mkv"), ("mjpeg", "swf")):
        yield codec, Recipe(suffix, codec, {"q": "3"}, pix_fmt="yuvj420p")
    for codec, suffix in (("wmv2", "wmv"), ("wmv1", "avi"), ("flv", "flv"), ("flv", "swf"), ("ffv1", "mkv")):
        yield codec, Recipe(suffix, codec, _MPEG)
    yield "h263", Recipe("3gp", "h263", _MPEG, size=(176, 144))
    yield "prores", Recipe("mov", "prores_ks", pix_fmt="yuv422p10le")
    yield "huffyuv", Recipe("avi", "huffyuv", pix_fmt="yuv422p")
    yield "bare", Recipe("h264", "libx264", H264["b_frames"])
    yield "bare", Recipe("hevc", "libx265", _x265())


def _times() -> Iterator[tuple[str, Recipe]]:
    b_frames, plain = H264["b_frames"], H264["plain"]
    for rate in (Fraction(30000, 1001), Fraction(60), Fraction(1000), Fraction(15, 2)):
        for suffix in ("mp4", "mkv", "avi", "ts", "flv"):
            yield f"rate_{float(rate):g}", Recipe(suffix, "libx264", b_frames, rate)
        yield f"rate_{float(rate):g}", Recipe("webm", "libvpx", _VPX, rate)
    for suffix in ("mp4", "mkv", "mov", "flv", "ts"):
        yield "uneven_plain", Recipe(suffix, "libx264", plain, Fraction(1000), _UNEVEN_MS)
        yield "uneven_b_frames", Recipe(suffix, "libx264", b_frames, Fraction(1000), _UNEVEN_MS)
    browser = tuple(33 * number + number % 3 for number in range(FRAMES))
    yield "browser", Recipe("webm", "libvpx", _VPX, Fraction(1000), browser)
    yield "gap", Recipe("avi", "mpeg4", _MPEG | {"bf": "0"}, Fraction(25), tuple(40 * (n + n // 10) for n in range(20)))
    for suffix in ("mp4", "mkv", "ts", "mov", "flv"):
        yield "starts_late", Recipe(suffix, "libx264", b_frames, start=250)
    yield "clock_wraps", Recipe("ts", "libx264", b_frames, mux={"output_ts_offset": str(2**33 / 90000 - 0.4)})
    for suffix in ("mp4", "mov"):  # an edit list that begins within the first group
        mux, shown = {"avoid_negative_ts": "disabled"}, tuple(range(5, FRAMES))
        yield "trimmed", Recipe(suffix, "libx264", b_frames, start=-5, mux=mux, shown=shown)


def _layouts() -> Iterator[tuple[str, Recipe]]:
    b_frames = H264["b_frames"]
    flags = {
        "fragments": "frag_keyframe+empty_moov",
        "fragment_per_frame": "frag_every_frame+empty_moov",
        "index_first": "faststart",
        "negative_offsets": "negative_cts_offsets",
    }
    for name, movflags in flags.items():
        yield name, Recipe("mp4", "libx264", b_frames, mux={"movflags": movflags})
    yield "no_edit_list", Recipe("mp4", "libx264", b_frames, mux={"use_editlist": "0"})
    sounds = {"mp4": "aac", "mkv": "aac", "ts": "aac", "flv": "aac", "avi": "mp2", "mpg": "mp2", "webm": "libopus"}
    for suffix, sound in sounds.items():
        codec, options = ("libvpx", _VPX) if suffix == "webm" else ("libx264", b_frames)
        yield "with_sound", Recipe(suffix, codec, options, sound=sound)
    # Files that flag every frame, or a frame that needs others, as a key frame.
    for name, codec, options in (
        ("h264", "libx264", H264["open_groups"]),
        ("mpeg4", "mpeg4", _MPEG | {"bf": "0"}),
        ("mpeg4_b_frames", "mpeg4", _MPEG | {"bf": "2"}),
        ("hevc", "libx265", _x265()),
    ):
        yield f"all_key_{name}", Recipe("mp4", codec, options, replaced=(b"stss", b"free"))
    for name, codec, options in (("h264", "libx264", H264["plain"]), ("mpeg4", "mpeg4", _MPEG | {"bf": "0"})):
        yield f"no_index_{name}", Recipe("avi", codec, options, replaced=(b"idx1", b"JUNK"))
    refresh = _x264(**{"intra-refresh": 1, "keyint": 8})
    for suffix in ("mp4", "mkv", "ts", "avi"):
        yield "intra_refresh", Recipe(suffix, "libx264", refresh)


ORIENTATIONS = {
    (1, 0, 0, 1): "null",
    (0, 1, -1, 0): "transpose=clock",
    (-1, 0, 0, -1): "hflip,vflip",
    (0, -1, 1, 0): "transpose=cclock",
    (-1, 0, 0, 1): "hflip",
    (1, 0, 0, -1): "vflip",
    (0, 1, 1, 0): "transpose=cclock_flip",
    (0, -1, -1, 0): "transpose=clock_flip",
}
"""Display matrix to the filters that ffmpeg's autorotation inserts for it (``fftools/ffmpeg_filter.c``)."""

SOUND = {f"{name}.{recipe.suffix}": recipe for part in (_codecs, _times, _layouts) for name, recipe in part()}
"""Undamaged clips by file name."""
TURNED = {
    f"turned_{number}.{suffix}": Recipe(suffix, "libx264", H264["b_frames"], size=(80, 48), matrix=matrix)
    for suffix in ("mp4", "mov", "mkv")
    for number, matrix in enumerate(ORIENTATIONS)
}
"""Clips whose coded pictures are rotated or mirrored for display."""


def damaged_copies(content: bytes, seed: str) -> dict[str, bytes]:
    """Return copies of a file: cut off, without its beginning, with flipped bytes and with zeros, by kind."""
    copies = {"cut": content[: len(content) * 6 // 10], "headless": content[100:]}
    for variant in range(2):
        chance = random.Random(f"{seed} {variant}")
        flipped, zeroed = bytearray(content), bytearray(content)
        for _ in range(8):
            flipped[chance.randrange(len(content) // 5, len(content))] ^= chance.randrange(1, 256)
        place = chance.randrange(len(content) // 5, len(content) - 40)
        zeroed[place : place + 40] = bytes(40)
        copies |= {f"flipped_{variant}": bytes(flipped), f"zeros_{variant}": bytes(zeroed)}
    return copies
