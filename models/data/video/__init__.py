"""Video decoding: frames of a file by number, and frames of a stream as they arrive. No torch."""

from models.data.video.reader import count_frames, open_video, read_frames

__all__ = ["count_frames", "open_video", "read_frames"]
