"""The machine beneath: processes, memory, files that are whole or absent, locks, signals."""
