"""Text data: reading, tokenization, word ids and vocabulary."""
