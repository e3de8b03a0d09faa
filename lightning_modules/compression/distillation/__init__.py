"""Distillation: a student learns from a teacher's outputs, features, or relations between samples."""
