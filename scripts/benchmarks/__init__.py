"""What each subject of ``scripts/benchmark.py`` measures, one file a subject; each has ``run(repeats)``."""
