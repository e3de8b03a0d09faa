import gc

gc.set_threshold(10_000, 10, 10)  # Python's 700 spends a tenth of a start on imports, among which nothing is garbage
