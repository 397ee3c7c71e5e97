"""The memory-efficient word-level sign recogniser and its trainer."""
