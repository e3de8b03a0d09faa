"""Which channels and heads of a network go together, what they are worth, and how many may stay within a budget."""
