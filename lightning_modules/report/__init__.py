"""Presentation of results: tables, numbers, figures and statistics, shared by all rooms that report."""
