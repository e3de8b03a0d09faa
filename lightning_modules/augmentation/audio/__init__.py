"""Augmentation of recordings: waveforms [B, T], and log-mel features [B, 1, n_mels, frames]."""
