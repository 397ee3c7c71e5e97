"""Directories of videos in other layouts than WLASL's: class folders, lists, CSV files, metadata.csv. No torch.

``read_directory`` takes those that name the split of each clip. ``python -m models.data.import_videos`` reads all of
them and writes one table, ``imported_clips.csv``, which ``read_directory`` takes.
"""
